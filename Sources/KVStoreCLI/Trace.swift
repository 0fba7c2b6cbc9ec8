/// One request of a trace: the ids of its prompt's blocks, head first.
struct TraceRequest: Hashable, Sendable {
    var arrivalMilliseconds: Int
    var inputTokens: Int
    var outputTokens: Int
    /// Prefix-chained: equal ids mean equal tokens and the same everything before them.
    var blocks: [UInt64]
}

/// Requests in arrival order, and a name that two equal traces share.
struct Trace: Sendable {
    /// What people see: file names, or the settings of the generator.
    var name: String
    /// Goes into the identity of the namespace, so that a disk directory kept from a replay of another trace can
    /// never give hits: its ids mean other blocks.
    var fingerprint: UInt64
    var requests: [TraceRequest]
}

/// What a trace holds, and the most any cache could do with it.
struct TraceSummary: Hashable, Codable, Sendable {
    var requests = 0
    var blocks = 0
    var uniqueBlocks = 0
    var inputTokens = 0
    /// Hit ratio by block of a cache that never evicts, cold start included: the bound for every policy.
    var endlessHitRatioBlocks = 0.0

    init(_ requests: some Collection<TraceRequest>) {
        var seen: Set<UInt64> = []
        var hits = 0
        for request in requests {
            // Ids are prefix-chained, so the blocks seen before are a prefix of the request.
            hits += request.blocks.prefix { seen.contains($0) }.count
            seen.formUnion(request.blocks)
            blocks += request.blocks.count
            inputTokens += request.inputTokens
        }
        self.requests = requests.count
        uniqueBlocks = seen.count
        endlessHitRatioBlocks = blocks == 0 ? 0 : Double(hits) / Double(blocks)
    }
}

/// A small, fast generator with the same output everywhere (Steele, Lea, Flood 2014: "SplitMix").
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        return Self.mix(state)
    }

    /// A uniform number in 0..<bound. The bias of at most bound / 2^64 does not matter here; a fixed sequence does.
    mutating func below(_ bound: Int) -> Int {
        Int(truncatingIfNeeded: next().multipliedFullWidth(by: UInt64(bound)).high)
    }

    /// A bijection of 64 bits in which every input bit changes about half of the output bits.
    static func mix(_ value: UInt64) -> UInt64 {
        var value = value
        value = (value ^ (value &>> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value &>> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value &>> 31)
    }
}
