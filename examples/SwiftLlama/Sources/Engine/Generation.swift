internal import Crypto
internal import KVStore

/// One request: its tokens, what of them is computed, and what came out.
final class Generation {
    /// The tokens of the prompt, then those that were generated.
    private(set) var tokens: [UInt32]
    /// Tokens of the prompt.
    let promptCount: Int
    /// Tokens to generate at most.
    let maximumNewTokens: Int
    /// The blocks.
    let table: BlockTable
    /// Tokens whose K and V are in the table.
    var computedCount = 0
    /// Where each block was found that did not have to be computed.
    var loadedTiers: [Tier] = []
    /// Full blocks that were offered to the store.
    var offeredBlocks = 0
    /// Whether the store was asked for the prompt.
    var isAdmitted = false
    /// Whether nothing is left to do.
    private(set) var isFinished = false
    /// Logits of each generated token, when they were asked for.
    private(set) var logits: [[Float]] = []
    /// Seconds from the request to its first token.
    private(set) var firstTokenSeconds: Double?
    /// How often the prompt was computed again because a lease had ended under it.
    var restarts = 0

    private let keepsLogits: Bool
    private let started = ContinuousClock.now
    private var hasher = SHA256()

    init(prompt: [UInt32], maximumNewTokens: Int, keepsLogits: Bool, table: BlockTable) {
        tokens = prompt
        promptCount = prompt.count
        self.maximumNewTokens = maximumNewTokens
        self.keepsLogits = keepsLogits
        self.table = table
    }

    /// Tokens that were generated.
    var newTokens: ArraySlice<UInt32> { tokens[promptCount...] }
    /// SHA-256 over the bits of all logits: equal only if every logit of every step was.
    var logitsDigest: String { text(hasher.finalize()) }
    /// Whether a prompt, or what was lost of it, is still being computed.
    var isPrefilling: Bool { tokens.count - computedCount > 1 || newTokens.isEmpty }

    /// Takes the most likely token; of equal ones the first.
    func append(_ logits: [Float], endTokens: Set<UInt32>) -> UInt32 {
        // Safe: the hasher reads during this call only.
        unsafe logits.withUnsafeBytes { unsafe hasher.update(bufferPointer: $0) }
        if keepsLogits { self.logits.append(logits) }
        var best = 0
        for (token, value) in logits.enumerated() where value > logits[best] { best = token }
        let token = UInt32(best)
        tokens.append(token)
        if firstTokenSeconds == nil { firstTokenSeconds = started.duration(to: .now).seconds }
        isFinished = newTokens.count >= maximumNewTokens || endTokens.contains(token)
        return token
    }

    /// Forgets all K and V; they are computed again. What was generated stays.
    func restart() {
        table.clear()
        computedCount = 0
        offeredBlocks = 0
        loadedTiers = []
        restarts += 1
    }
}

extension Duration {
    /// The duration in seconds.
    var seconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }
}
