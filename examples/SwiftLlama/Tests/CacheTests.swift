import Foundation
import KVStore
import KVStoreIPC
import KVStoreTestSupport
import Testing

@testable import SwiftLlama

@Suite("The engine with a cache")
struct CacheTests {
    static let prompt = TestModel.prompt(203)
    static let expected = Engine(TestModel.model, options: .blocks()).outcome(prompt)
    /// Blocks that a second run of the prompt loads: all full ones before the last token.
    static let loadable = 12

    static func configuration(_ directory: TemporaryDirectory? = nil, memory: Int = 64 << 20) -> Configuration {
        var disk = directory.map { DiskConfiguration(path: $0.path + "/store", capacityBytes: 64 << 20) }
        disk?.writeBackDelaySeconds = nil
        var configuration = Configuration(memoryCapacityBytes: memory, disk: disk)
        configuration.scrub = .off
        configuration.warmUpFraction = 0
        return configuration
    }

    static func open(_ directory: TemporaryDirectory) throws -> BlockStore {
        let store = try BlockStore(configuration(directory))
        #expect(store.waitUntilWarm())
        return store
    }

    static func engine(_ cache: any BlockCache, shares: Bool = true, chunk: Int = 64) throws -> Engine {
        var options = Engine.Options.blocks(chunk: chunk)
        options.sharesStoredBlocks = shares
        let prefixes = try PrefixCache(cache, model: TestModel.model, tokensPerBlock: 16)
        return Engine(TestModel.model, cache: prefixes, options: options)
    }

    static func run(
        _ engine: Engine, _ prompt: [UInt32] = prompt, new count: Int = 12
    ) -> (outcome: Outcome, tiers: [Tier]) {
        let request = engine.submit(prompt, maximumNewTokens: count, keepsLogits: true)
        engine.run()
        return (Outcome(request, engine), request.loadedTiers)
    }

    static func prefix(_ cache: any BlockCache, _ prompt: [UInt32] = prompt) throws -> Prefix {
        try cache.namespace(PrefixCache.identity(of: TestModel.model, tokensPerBlock: 16)).prefix(tokens: prompt)
    }

    @Test(arguments: [true, false])
    func `cold and warm and from disk and after a restart are equal bit by bit`(_ shares: Bool) throws {
        let directory = TemporaryDirectory("llama-store")
        do {
            let store = try Self.open(directory)
            let cold = Self.run(try Self.engine(store, shares: shares))
            #expect(cold.outcome == Self.expected)
            #expect(cold.tiers.isEmpty)
            let warm = Self.run(try Self.engine(store, shares: shares))
            #expect(warm.outcome == Self.expected)
            #expect(warm.tiers == Array(repeating: .memory, count: Self.loadable))
            store.close()
        }
        let store = try Self.open(directory)
        let restarted = Self.run(try Self.engine(store, shares: shares))
        #expect(restarted.outcome == Self.expected)
        #expect(restarted.tiers == Array(repeating: .disk, count: Self.loadable))
        #expect(Self.run(try Self.engine(store, shares: shares, chunk: 1)).outcome == Self.expected)
        store.close()
    }

    @Test(arguments: [1, 15, 16, 17, 32, 33, 48])
    func `prompts that end near a block's end are computed to their last token`(_ count: Int) throws {
        let prompt = Array(Self.prompt.prefix(count))
        let expected = Engine(TestModel.model, options: .blocks()).outcome(prompt)
        let store = try BlockStore(Self.configuration())
        for round in 0..<2 {
            let run = Self.run(try Self.engine(store), prompt)
            #expect(run.outcome == expected)
            #expect(run.tiers.count == (round == 0 ? 0 : (count - 1) / 16))
        }
    }

    @Test func `two requests with the same beginning read one copy in the store`() throws {
        let store = try BlockStore(Self.configuration())
        let engine = try Self.engine(store)
        let other = Self.prompt.prefix(192) + TestModel.prompt(9, seed: 8)
        let alone = Engine(TestModel.model, options: .blocks()).outcome(Array(other))
        let first = engine.submit(Self.prompt, maximumNewTokens: 12, keepsLogits: true)
        let second = engine.submit(Array(other), maximumNewTokens: 12, keepsLogits: true)
        while first.newTokens.count < 3 || second.newTokens.count < 3 { _ = engine.step() }
        #expect(second.loadedTiers.count == 12)
        #expect(first.table.leasedCount >= 12 && second.table.leasedCount >= 12)
        // Only the blocks that are not full yet are pages of the engine.
        #expect(engine.pool.usedCount <= 2)
        #expect(store.statistics.leases == 2)
        for block in 0..<12 {
            let addresses = [first, second].map { request in
                request.table.withBytes(at: block) { $0.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) } }
            }
            #expect(addresses[0] == addresses[1])
        }
        engine.run()
        #expect(Outcome(first, engine) == Self.expected)
        #expect(Outcome(second, engine) == alone)
    }

    @Test func `the next turn of a chat loads the answer of the last one as well`() throws {
        let store = try BlockStore(Self.configuration())
        let engine = try Self.engine(store)
        let first = engine.submit(Self.prompt, maximumNewTokens: 40)
        engine.run()
        let turn = first.tokens + TestModel.prompt(30, seed: 9)
        let run = Self.run(engine, turn)
        #expect(run.tiers.count == (203 + 39) / 16)
        #expect(run.outcome == Engine(TestModel.model, options: .blocks()).outcome(turn))
    }

    @Test func `a damaged record is computed again and makes no difference`() throws {
        for part in [0.2, 0.5, 0.8] {
            let directory = TemporaryDirectory("llama-damage")
            do {
                let store = try Self.open(directory)
                #expect(Self.run(try Self.engine(store)).outcome == Self.expected)
                store.close()
            }
            try StoredFiles(directory.path + "/store").damageLargestSegment(at: part)
            let store = try Self.open(directory)
            let run = Self.run(try Self.engine(store))
            #expect(run.outcome == Self.expected)
            #expect(run.tiers.count < Self.loadable)
            // What was computed again is stored again.
            #expect(Self.run(try Self.engine(store)).tiers.count == Self.loadable)
            store.close()
        }
    }

    @Test func `another content of a block is noticed`() throws {
        let store = try BlockStore(Self.configuration())
        _ = Self.run(try Self.engine(store))
        try BlockForgery(store, Self.prefix(store)).replace { blocks in
            // Values of the last layer: the second half of the block.
            for offset in blocks[4].count * 3 / 4..<blocks[4].count where offset % 2 == 1 { blocks[4][offset] ^= 0x80 }
        }
        let run = Self.run(try Self.engine(store))
        #expect(run.tiers.count == Self.loadable)
        #expect(run.outcome.logits != Self.expected.logits)
        #expect(run.outcome.tokens != Self.expected.tokens)
        let differing = run.outcome.digests.indices.filter { run.outcome.digests[$0] != Self.expected.digests[$0] }
        #expect(differing.first == 4)
    }

    @Test func `blocks that were swapped are noticed by their bytes`() throws {
        let store = try BlockStore(Self.configuration())
        _ = Self.run(try Self.engine(store))
        try BlockForgery(store, Self.prefix(store)).replace { $0.swapAt(3, 7) }
        let run = Self.run(try Self.engine(store))
        #expect(run.tiers.count == Self.loadable)
        // The trap: position is inside K, so attention hardly sees it and the tokens are the same.
        #expect(run.outcome.tokens.prefix(1) == Self.expected.tokens.prefix(1))
        let differing = run.outcome.digests.indices.filter { run.outcome.digests[$0] != Self.expected.digests[$0] }
        #expect(Array(differing.prefix(2)) == [3, 7])
    }

    @Test func `a store that is full loses speed and nothing else`() throws {
        var configuration = Self.configuration(memory: 16 << 20)
        configuration.memoryBlockLimit = 5
        let store = try BlockStore(configuration)
        let engine = try Self.engine(store)
        let requests = (0..<4).map { engine.submit(Self.prompt, maximumNewTokens: 12 + $0, keepsLogits: true) }
        engine.run()
        for request in requests {
            #expect(Array(request.newTokens.prefix(12)) == Self.expected.tokens)
            #expect(Array(Outcome(request, engine).digests.prefix(12)) == Array(Self.expected.digests.prefix(12)))
        }
        #expect(requests[1].loadedTiers.count <= 5)
    }

    @Test func `an absent daemon is a miss`() throws {
        let store = RemoteBlockStore(socketPath: "/nonexistent/kvstore.sock")
        let run = Self.run(try Self.engine(store))
        #expect(run.outcome == Self.expected)
        #expect(run.tiers.isEmpty)
    }

    @Test(arguments: [1, 5, 11])
    func `what was read under a lease that had ended is computed again`(_ count: Int) throws {
        let store = try BlockStore(Self.configuration())
        _ = Self.run(try Self.engine(store))
        let engine = try Self.engine(store)
        let request = engine.submit(Self.prompt, maximumNewTokens: 12, keepsLogits: true)
        while request.newTokens.count < count { _ = engine.step() }
        // What the engine does when the lease says so; an embedded store's never does.
        request.restart()
        #expect(request.table.count == 0 && engine.pool.usedCount == 0)
        engine.run()
        #expect(Outcome(request, engine) == Self.expected)
    }

    @Test func `a closed store is a miss`() throws {
        let store = try BlockStore(Self.configuration())
        let engine = try Self.engine(store)
        store.close()
        #expect(Self.run(engine).outcome == Self.expected)
    }

    @Test func `what a block is called depends on its numbers only`() {
        var shape = TestModel.tiny
        let text = shape.numbersText
        (shape.endTokens, shape.maximumPositions) = ([1, 2, 3, 4], 9)
        #expect(shape.numbersText == text)
        shape.ropeTheta += 1
        #expect(shape.numbersText != text)
        shape.ropeTheta -= 1
        shape.ropeScaling = .linear(factor: 2)
        #expect(shape.numbersText != text)
    }

    @Test func `models that differ in one weight share nothing`() throws {
        let store = try BlockStore(Self.configuration())
        _ = Self.run(try Self.engine(store))
        let other = try TestModel.load(TestModel.tiny, seed: 2)
        let cache = try PrefixCache(store, model: other, tokensPerBlock: 16)
        let outcome = Engine(other, cache: cache, options: .blocks()).outcome(Self.prompt)
        #expect(outcome == Engine(other, options: .blocks()).outcome(Self.prompt))
        #expect(outcome != Self.expected)
    }
}
