import KVStoreTestSupport
import Testing

@testable import SwiftLlama

@Suite("The engine without a cache")
struct EngineTests {
    static let shapes: [ModelConfiguration] = {
        var shapes: [ModelConfiguration] = []
        for keyValueHeads in [4, 2, 1] {
            var shape = TestModel.tiny
            shape.keyValueHeads = keyValueHeads
            shapes.append(shape)
        }
        var odd = TestModel.tiny
        // No multiples of a vector; values end inside one.
        (odd.hiddenSize, odd.intermediateSize, odd.vocabularySize, odd.layers) = (52, 48, 259, 1)
        (odd.headDimension, odd.tiesEmbeddings) = (80, true)
        shapes.append(odd)
        var scaled = TestModel.tiny
        scaled.ropeScaling = .llama3(factor: 8, lowFactor: 1, highFactor: 4, originalPositions: 64)
        shapes.append(scaled)
        return shapes
    }()

    @Test(arguments: shapes) func `computes what the definition says`(_ shape: ModelConfiguration) throws {
        let directory = try TestModel.directory(shape, seed: 3)
        let checkpoint = try Checkpoint(directory.path)
        let prompt = TestModel.prompt(45)
        let engine = Engine(try LlamaModel(checkpoint), options: .blocks(chunk: 13))
        let request = engine.submit(prompt, maximumNewTokens: 5, keepsLogits: true)
        engine.run()
        let expected = try NaiveLlama(shape: shape, checkpoint: checkpoint).logits(Array(request.tokens.dropLast()))
        for (step, logits) in request.logits.enumerated() {
            let right = expected[prompt.count - 1 + step]
            let deviation = zip(logits, right).map { abs(Double($0) - $1) }.max()!
            let size = right.map(abs).max()!
            #expect(deviation < 0.02 * size, "step \(step): \(deviation) of \(size)")
        }
    }

    @Test func `the result does not depend on how a prompt is cut into chunks`() {
        let prompt = TestModel.prompt(150)
        let expected = Engine(TestModel.model, options: .blocks(chunk: 150)).outcome(prompt)
        for chunk in [1, 2, 7, 16, 33, 64, 128] {
            #expect(Engine(TestModel.model, options: .blocks(chunk: chunk)).outcome(prompt) == expected)
        }
    }

    @Test func `the tokens and logits do not depend on the size of a block`() {
        let prompt = TestModel.prompt(150)
        let expected = Engine(TestModel.model, options: .blocks()).outcome(prompt)
        for size in [1, 5, 16, 24, 64, 256] {
            let outcome = Engine(TestModel.model, options: .blocks(of: size)).outcome(prompt)
            #expect(outcome.tokens == expected.tokens && outcome.logits == expected.logits)
        }
    }

    @Test func `the result does not depend on what else is in the batch`() {
        let prompts = (0..<5).map { TestModel.prompt(20 + 37 * $0, seed: UInt64($0)) }
        let alone = prompts.map { Engine(TestModel.model, options: .blocks()).outcome($0) }
        var options = Engine.Options.blocks()
        options.maximumSequences = 3
        let engine = Engine(TestModel.model, options: options)
        let requests = prompts.map { engine.submit($0, maximumNewTokens: 12, keepsLogits: true) }
        engine.run()
        for (request, expected) in zip(requests, alone) { #expect(Outcome(request, engine) == expected) }
    }

    @Test func `tokens differ and depend on the beginning of the prompt`() {
        let prompt = TestModel.prompt(200)
        var other = prompt
        other[3] ^= 1
        let engine = Engine(TestModel.model, options: .blocks())
        let first = engine.outcome(prompt, new: 24)
        #expect(Set(first.tokens).count > 8)
        #expect(engine.outcome(other, new: 24).tokens != first.tokens)
    }

    @Test func `pages go back when their request does`() {
        let engine = Engine(TestModel.model, options: .blocks())
        do { _ = engine.outcome(TestModel.prompt(100)) }
        #expect(engine.pool.usedCount == 0)
    }

    @Test func `requests that cannot be run are named`() {
        let engine = Engine(TestModel.model)
        #expect(engine.problem(with: [], maximumNewTokens: 1) != nil)
        #expect(engine.problem(with: [1], maximumNewTokens: 0) != nil)
        #expect(engine.problem(with: [257], maximumNewTokens: 1) != nil)
        #expect(engine.problem(with: [1], maximumNewTokens: 16_384) != nil)
        #expect(engine.problem(with: [256], maximumNewTokens: 16_383) == nil)
    }
}
