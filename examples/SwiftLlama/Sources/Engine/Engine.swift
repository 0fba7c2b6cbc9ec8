internal import KVStore

/// Runs requests: the next token of all that have begun and a piece of one prompt in each pass.
///
/// With a cache, a prompt begins with what the store has of it, read in place under a lease; after its first token the
/// new blocks are stored and then read from the store as well, so that requests with the same beginning share one copy.
/// Prompts are computed one after the other, so the second of two equal ones finds the blocks of the first.
///
/// Not thread-safe. The results do not depend on `Options`, the cache or the other requests.
final class Engine {
    /// How to run.
    struct Options: Sendable {
        /// Tokens in a block.
        var tokensPerBlock = 16
        /// Tokens of a prompt in one pass.
        var chunkTokens = 128
        /// Requests that are run at once.
        var maximumSequences = 8
        /// Read stored blocks from the store instead of keeping pages of the same content.
        var sharesStoredBlocks = true
    }

    /// The model in use.
    let model: LlamaModel
    /// Where things lie in a block.
    let layout: BlockLayout
    /// The engine's own pages.
    let pool: PagePool
    /// Seconds that passes waited for the cache: looking up, storing, leasing.
    private(set) var cacheSeconds = 0.0
    private let options: Options
    private let cache: PrefixCache?
    private let pass: ForwardPass
    private var running: [Generation] = []
    private var waiting: [Generation] = []

    init(_ model: LlamaModel, cache: PrefixCache? = nil, options: Options = Options()) {
        precondition(options.chunkTokens > 0 && options.tokensPerBlock > 0 && options.maximumSequences > 0)
        self.model = model
        self.cache = cache
        self.options = options
        layout = BlockLayout(model.configuration, tokensPerBlock: options.tokensPerBlock)
        pool = PagePool(byteCount: layout.byteCount)
        pass = ForwardPass(
            model, layout: layout, maximumRows: options.chunkTokens + options.maximumSequences,
            maximumSegments: options.maximumSequences)
    }

    /// Adds a request; `run` or `step` compute it.
    ///
    /// - Precondition: `problem(with:maximumNewTokens:)` finds nothing wrong.
    func submit(_ prompt: [UInt32], maximumNewTokens: Int, keepsLogits: Bool = false) -> Generation {
        precondition(problem(with: prompt, maximumNewTokens: maximumNewTokens) == nil, "the request is not valid")
        let request = Generation(
            prompt: prompt, maximumNewTokens: maximumNewTokens, keepsLogits: keepsLogits, table: BlockTable(pool: pool))
        waiting.append(request)
        return request
    }

    /// Why a request cannot be run.
    func problem(with prompt: [UInt32], maximumNewTokens: Int) -> String? {
        let shape = model.configuration
        if prompt.isEmpty { return "the prompt has no tokens" }
        if maximumNewTokens < 1 { return "at least one token must be asked for" }
        if prompt.count + maximumNewTokens > shape.maximumPositions {
            return "prompt and answer would be longer than the model's \(shape.maximumPositions) tokens"
        }
        if let token = prompt.first(where: { $0 >= shape.vocabularySize }) { return "there is no token \(token)" }
        return nil
    }

    /// Runs until all requests are finished.
    func run(_ onToken: (Generation, UInt32) -> Void = { _, _ in }) { while step(onToken) {} }

    /// One pass. False when there is nothing to do.
    func step(_ onToken: (Generation, UInt32) -> Void = { _, _ in }) -> Bool {
        while running.count < options.maximumSequences, !waiting.isEmpty { running.append(waiting.removeFirst()) }
        guard !running.isEmpty else { return false }
        let batch = nextBatch()
        let results = pass.run(batch.map(\.segment))
        for (index, entry) in batch.enumerated() {
            let request = entry.request
            guard request.table.isCurrent else {
                // The daemon took blocks back while they were read: nothing of this pass counts.
                request.restart()
                continue
            }
            request.computedCount += entry.segment.tokens.count
            if let logits = results[index] {
                onToken(request, request.append(logits, endTokens: model.configuration.endTokens))
            }
        }
        for entry in batch where !entry.request.isPrefilling { storeNewBlocks(entry.request) }
        running.removeAll(where: \.isFinished)
        return true
    }

    /// SHA-256 of each full block of a request, wherever it lies.
    func blockDigests(_ request: Generation) -> [String] {
        (0..<request.computedCount / layout.tokens).map { request.table.withBytes(at: $0, digest) }
    }

    private struct Entry {
        let request: Generation
        let segment: ForwardPass.Segment
    }

    private func nextBatch() -> [Entry] {
        var batch: [Entry] = []
        var isPromptTaken = false
        for request in running {
            if request.isPrefilling {
                if isPromptTaken { continue }
                isPromptTaken = true
                admit(request)
            }
            let left = request.tokens.count - request.computedCount
            let count = min(left, options.chunkTokens)
            let end = request.computedCount + count
            request.table.grow(to: (end + layout.tokens - 1) / layout.tokens)
            let segment = ForwardPass.Segment(
                table: request.table, tokens: request.tokens[request.computedCount..<end],
                firstPosition: request.computedCount, wantsLogits: count == left)
            batch.append(Entry(request: request, segment: segment))
        }
        return batch
    }

    /// Begins a prompt with what the store has of it. The last token is always computed, for its logits.
    private func admit(_ request: Generation) {
        guard !request.isAdmitted, let cache else { return }
        let started = ContinuousClock.now
        defer { cacheSeconds += started.duration(to: .now).seconds }
        request.isAdmitted = true
        guard let lease = cache.acquire(request.tokens.dropLast()) else { return }
        request.loadedTiers = (0..<lease.count).map { lease.tier(at: $0) }
        request.computedCount = lease.count * layout.tokens
        request.offeredBlocks = lease.count
        request.table.adopt(lease)
    }

    private func storeNewBlocks(_ request: Generation) {
        let full = request.computedCount / layout.tokens
        guard let cache, full > request.offeredBlocks else { return }
        let started = ContinuousClock.now
        defer { cacheSeconds += started.duration(to: .now).seconds }
        request.offeredBlocks = full
        let tokens = request.tokens.prefix(full * layout.tokens)
        cache.store(tokens, from: request.table)
        guard options.sharesStoredBlocks, let lease = cache.acquire(tokens, memoryOnly: true) else { return }
        request.table.adopt(lease)
    }
}
