internal import Foundation
internal import KVStore

/// What one request of the demo came to; travels as JSON from the process that ran it.
struct DemoRun: Codable {
    /// Which step of the demo.
    let step: String
    let variant: Int
    let user: Int
    let promptTokens: Int
    /// Tokens that were not computed, and how many of their blocks came from where.
    let loadedTokens: Int
    let memoryBlocks: Int
    let diskBlocks: Int
    let firstTokenSeconds: Double
    /// From the request to its last token and its last block stored.
    let totalSeconds: Double
    /// Time of the processor meanwhile, all threads of the process together.
    let processorSeconds: Double
    /// What of the time the engine waited for the cache.
    let cacheSeconds: Double
    let tokens: [UInt32]
    /// SHA-256 over the bits of every logit of every step.
    let logitsDigest: String
    /// SHA-256 of K and V of each full block.
    let blockDigests: [String]

    /// Whether everything that can be compared is the same, bytes included.
    func isIdentical(to other: DemoRun) -> Bool {
        tokens == other.tokens && logitsDigest == other.logitsDigest && blockDigests == other.blockDigests
    }
}

/// What one process of the demo reports.
struct DemoReport: Codable {
    var runs: [DemoRun] = []
    /// Blocks that came back from the store as something else than was stored, by its own count.
    var corruptBlocks = 0
    /// What `flush` said, when it was called.
    var durableBlocks: Int?
    var flushProblem: String?
    /// Pages of the engine while a batch ran, and blocks that the same requests had in their tables.
    var batchPages: Int?
    var batchBlocks: Int?
    /// Bytes of the disk tier.
    var diskBytes = 0
}

/// Runs requests and writes down what they came to.
struct DemoRecorder {
    let step: String
    let prompts: DemoPrompts
    let newTokens: Int

    /// Runs one user's request alone.
    func run(_ engine: Engine, variant: Int, user: Int) -> DemoRun {
        let prompt = prompts.prompt(variant: variant, user: user)
        let request = engine.submit(prompt, maximumNewTokens: newTokens)
        let started = Times.now
        let cacheStarted = engine.cacheSeconds
        engine.run()
        return record(request, engine, variant, user, Times.now - started, engine.cacheSeconds - cacheStarted)
    }

    /// Runs several users' requests as one batch. `inFlight` is called when all have their first token.
    func batch(_ engine: Engine, variant: Int, users: [Int], inFlight: ([Generation]) -> Void) -> [DemoRun] {
        let started = Times.now
        let cacheStarted = engine.cacheSeconds
        let requests = users.map { user in
            engine.submit(prompts.prompt(variant: variant, user: user), maximumNewTokens: newTokens)
        }
        while requests.contains(where: \.newTokens.isEmpty), engine.step() {}
        inFlight(requests)
        engine.run()
        let spent = Times.now - started
        let cacheSeconds = engine.cacheSeconds - cacheStarted
        return zip(requests, users).map { record($0, engine, variant, $1, spent, cacheSeconds) }
    }

    private func record(
        _ request: Generation, _ engine: Engine, _ variant: Int, _ user: Int, _ spent: Times,
        _ cacheSeconds: Double
    ) -> DemoRun {
        DemoRun(
            step: step, variant: variant, user: user, promptTokens: request.promptCount,
            loadedTokens: request.loadedTiers.count * engine.layout.tokens,
            memoryBlocks: request.loadedTiers.count { $0 == .memory },
            diskBlocks: request.loadedTiers.count { $0 == .disk },
            firstTokenSeconds: request.firstTokenSeconds ?? 0, totalSeconds: spent.wall,
            processorSeconds: spent.processor, cacheSeconds: cacheSeconds,
            tokens: Array(request.newTokens), logitsDigest: request.logitsDigest,
            blockDigests: engine.blockDigests(request))
    }
}
