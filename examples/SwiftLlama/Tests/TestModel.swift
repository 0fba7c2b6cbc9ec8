import Foundation
import KVStore
import KVStoreTestSupport

@testable import SwiftLlama

/// Small models with random weights, and what is done with them in every test.
enum TestModel {
    static let tiny = RandomModel.presets["tiny"]!

    /// Loaded once.
    static let model = try! load(tiny)

    static func directory(_ shape: ModelConfiguration, seed: UInt64 = 1) throws -> TemporaryDirectory {
        let directory = TemporaryDirectory("llama")
        try RandomModel(configuration: shape, seed: seed).write(to: directory.path)
        return directory
    }

    static func load(_ shape: ModelConfiguration, seed: UInt64 = 1) throws -> LlamaModel {
        let directory = try directory(shape, seed: seed)
        return try LlamaModel(directory: directory.path)
    }

    /// Tokens that look like nothing, the same for the same seed.
    static func prompt(_ count: Int, seed: UInt64 = 7) -> [UInt32] {
        var random = SeededRandom(seed: seed)
        return (0..<count).map { _ in UInt32.random(in: 0..<256, using: &random) }
    }
}

/// Everything that a request came to. Equal means bit by bit.
struct Outcome: Equatable {
    let tokens: [UInt32]
    let logits: [[UInt32]]
    let digests: [String]

    init(_ request: Generation, _ engine: Engine) {
        tokens = Array(request.newTokens)
        logits = request.logits.map { $0.map(\.bitPattern) }
        digests = engine.blockDigests(request)
    }
}

extension Engine {
    /// Runs one request alone.
    func outcome(_ prompt: [UInt32], new count: Int = 12) -> Outcome {
        let request = submit(prompt, maximumNewTokens: count, keepsLogits: true)
        run()
        return Outcome(request, self)
    }
}

extension Engine.Options {
    static func blocks(of tokens: Int = 16, chunk: Int = 64) -> Self {
        var options = Self()
        options.tokensPerBlock = tokens
        options.chunkTokens = chunk
        return options
    }
}
