/// Counters of the store at one moment; the difference of two is what happened between them.
struct StoreCounts: Hashable, Sendable {
    struct Tier: Hashable, Sendable {
        var hitBlocks = 0
        var hitTokens = 0
        var blocks = 0
        var bytes = 0
        var capacityBytes = 0
        var evictedBlocks = 0
        var acquireP50Microseconds: Double?
        var acquireP99Microseconds: Double?
    }

    var requests = 0
    var blocks = 0
    var tokens = 0
    var memory = Tier()
    var disk = Tier()
    var refusedBlocks = 0
    var spilledBlocks = 0
    var promotedBlocks = 0
    var droppedBlocks = 0
    var corruptBlocks = 0
    var spilledRawBytes = 0
    var spilledStoredBytes = 0
    /// Bytes of records that were written again because their segment was given up.
    var carriedStoredBytes = 0
    /// Why the disk tier is off or paused.
    var diskProblem: String?

    /// A part of all blocks that were asked for.
    func blockRatio(_ hits: Int) -> Double { blocks == 0 ? 0 : Double(hits) / Double(blocks) }

    /// A part of all tokens that were asked for.
    func tokenRatio(_ hits: Int) -> Double { tokens == 0 ? 0 : Double(hits) / Double(tokens) }

    /// nil while nothing was stored.
    func perStoredByte(_ bytes: Int) -> Double? {
        spilledStoredBytes == 0 ? nil : Double(bytes) / Double(spilledStoredBytes)
    }

    /// Counts since an earlier moment. What describes the present (held, capacity, percentiles) stays as it is.
    func since(_ earlier: StoreCounts) -> StoreCounts {
        var result = self
        result.requests -= earlier.requests
        result.blocks -= earlier.blocks
        result.tokens -= earlier.tokens
        for tier in [\StoreCounts.memory, \StoreCounts.disk] {
            result[keyPath: tier].hitBlocks -= earlier[keyPath: tier].hitBlocks
            result[keyPath: tier].hitTokens -= earlier[keyPath: tier].hitTokens
            result[keyPath: tier].evictedBlocks -= earlier[keyPath: tier].evictedBlocks
        }
        for count in [
            \StoreCounts.refusedBlocks, \.spilledBlocks, \.promotedBlocks, \.droppedBlocks, \.corruptBlocks,
            \.spilledRawBytes, \.spilledStoredBytes, \.carriedStoredBytes,
        ] {
            result[keyPath: count] -= earlier[keyPath: count]
        }
        return result
    }
}

/// The outcome of a replay: the object that `--json` prints, and the table for people.
///
/// `hitRatioBlocks` = hit blocks / all blocks of the requests, `hitRatioTokens` = the same in tokens; a block counts as
/// a hit of the tier it was found in. `compressionRatio` = raw bytes / stored bytes of what was spilled, `writeAmplification` = all
/// record bytes written / those that were new. The percentiles are of whole `acquire` calls, by the deepest tier they
/// used, since the store was opened.
struct ReplayReport: Codable, Hashable, Sendable {
    struct Memory: Codable, Hashable, Sendable {
        var hitBlocks: Int
        var hitRatioBlocks: Double
        var hitRatioTokens: Double
        var blocks: Int
        var bytes: Int
        var capacityBytes: Int
        var evictedBlocks: Int
        /// Blocks that found no room, because everything in memory was in use or waiting for the disk.
        var refusedBlocks: Int
        @ExplicitNull var acquireP50Microseconds: Double?
        @ExplicitNull var acquireP99Microseconds: Double?
    }

    struct Disk: Codable, Hashable, Sendable {
        var hitBlocks: Int
        var hitRatioBlocks: Double
        var hitRatioTokens: Double
        var blocks: Int
        var bytes: Int
        var capacityBytes: Int
        var evictedBlocks: Int
        @ExplicitNull var acquireP50Microseconds: Double?
        @ExplicitNull var acquireP99Microseconds: Double?
        var spilledBlocks: Int
        var promotedBlocks: Int
        /// Blocks that left memory without a disk copy, because the spill queue was full or the disk refused them.
        var droppedBlocks: Int
        var corruptBlocks: Int
        @ExplicitNull var compressionRatio: Double?
        @ExplicitNull var writeAmplification: Double?
        /// Why the disk tier is off or paused; null when it works.
        @ExplicitNull var problem: String?
    }

    /// What `--verify-restart` found.
    struct Restart: Codable, Hashable, Sendable {
        var killedAfterRequests: Int
        var reopenSeconds: Double
        /// Blocks on disk after the reopen.
        var indexedBlocks: Int
        /// Of these, how many a request found again, all bytes compared.
        var reachedBlocks: Int
        var verifiedBytes: Int
        var wrongBytes: Int
    }

    var trace: String
    var traceSummary: TraceSummary
    var policy: String
    var blockBytes: Int
    var blockTokens: Int
    var waitedForSpill: Bool
    var isInterrupted: Bool
    var seconds: Double
    var requests: Int
    var blocks: Int
    var tokens: Int
    var hitRatioBlocks: Double
    var hitRatioTokens: Double
    var verifiedBytes: Int
    var wrongBytes: Int
    var wrongBlocks: Int
    var memory: Memory
    @ExplicitNull var disk: Disk?
    @ExplicitNull var restart: Restart?
    /// The first wrong blocks, in words.
    var faults: [String]

    init(
        trace: String,
        traceSummary: TraceSummary,
        policy: String,
        blockBytes: Int,
        blockTokens: Int,
        waitedForSpill: Bool,
        isInterrupted: Bool,
        seconds: Double,
        counts: StoreCounts,
        hasDisk: Bool,
        verification: PayloadVerification,
        restart: Restart?
    ) {
        self.trace = trace
        self.traceSummary = traceSummary
        self.policy = policy
        self.blockBytes = blockBytes
        self.blockTokens = blockTokens
        self.waitedForSpill = waitedForSpill
        self.isInterrupted = isInterrupted
        self.seconds = seconds
        requests = counts.requests
        blocks = counts.blocks
        tokens = counts.tokens
        hitRatioBlocks = counts.blockRatio(counts.memory.hitBlocks + counts.disk.hitBlocks)
        hitRatioTokens = counts.tokenRatio(counts.memory.hitTokens + counts.disk.hitTokens)
        verifiedBytes = verification.verifiedBytes
        wrongBytes = verification.wrongBytes
        wrongBlocks = verification.wrongBlocks
        faults = verification.examples
        memory = Memory(counts)
        disk = hasDisk ? Disk(counts) : nil
        self.restart = restart
    }
}

extension ReplayReport.Memory {
    fileprivate init(_ counts: StoreCounts) {
        let memory = counts.memory
        self.init(
            hitBlocks: memory.hitBlocks,
            hitRatioBlocks: counts.blockRatio(memory.hitBlocks),
            hitRatioTokens: counts.tokenRatio(memory.hitTokens),
            blocks: memory.blocks,
            bytes: memory.bytes,
            capacityBytes: memory.capacityBytes,
            evictedBlocks: memory.evictedBlocks,
            refusedBlocks: counts.refusedBlocks,
            acquireP50Microseconds: memory.acquireP50Microseconds,
            acquireP99Microseconds: memory.acquireP99Microseconds
        )
    }
}

extension ReplayReport.Disk {
    fileprivate init(_ counts: StoreCounts) {
        let disk = counts.disk
        self.init(
            hitBlocks: disk.hitBlocks,
            hitRatioBlocks: counts.blockRatio(disk.hitBlocks),
            hitRatioTokens: counts.tokenRatio(disk.hitTokens),
            blocks: disk.blocks,
            bytes: disk.bytes,
            capacityBytes: disk.capacityBytes,
            evictedBlocks: disk.evictedBlocks,
            acquireP50Microseconds: disk.acquireP50Microseconds,
            acquireP99Microseconds: disk.acquireP99Microseconds,
            spilledBlocks: counts.spilledBlocks,
            promotedBlocks: counts.promotedBlocks,
            droppedBlocks: counts.droppedBlocks,
            corruptBlocks: counts.corruptBlocks,
            compressionRatio: counts.perStoredByte(counts.spilledRawBytes),
            writeAmplification: counts.perStoredByte(counts.spilledStoredBytes + counts.carriedStoredBytes),
            problem: counts.diskProblem
        )
    }
}
