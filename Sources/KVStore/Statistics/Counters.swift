/// The one list of everything the store counts, a sentence each; what lookups do is counted by namespace, see
/// `NamespaceCounters`. Lives inside the store's lock.
struct Counters {
    /// Blocks made visible by a commit.
    var committedBlocks = 0
    /// Second commits of a key with other bytes; the first stays.
    var divergentCommits = 0
    /// Commits whose block could not become visible, because a parent was removed or its place was taken.
    var discardedCommits = 0
    /// Reserved blocks given back without a commit.
    var abandonedBlocks = 0
    /// Blocks a reservation did not get a slot for.
    var refusedBlocks = 0
    /// Blocks the memory tier gave up.
    var memoryEvictedBlocks = 0
    /// Evicted blocks that never reached the disk, although there is one.
    var droppedBlocks = 0
    /// Blocks the disk tier gave up.
    var diskEvictedBlocks = 0
    /// Blocks removed by the caller.
    var removedBlocks = 0
    /// Blocks whose stored bytes were not what was written; each ended in a miss or, found by a scrub, in a repair.
    var corruptBlocks = 0
    /// Blocks written to disk for the first time, their raw bytes, and the bytes of their records.
    var spilledBlocks = 0
    var spilledRawBytes = 0
    var spilledStoredBytes = 0
    /// Blocks that moved to a new segment when theirs was dropped, and the bytes of their records.
    var carriedBlocks = 0
    var carriedStoredBytes = 0
    /// Segments written and dropped.
    var segmentsWritten = 0
    var segmentsDropped = 0
    /// Blocks read from disk into memory.
    var promotedBlocks = 0
    var promotedRawBytes = 0
    /// Failures of the disk tier that paused it.
    var diskErrors = 0
    /// What the warm-up after a start did.
    var warmUp = WarmUpStatistics()
    /// What the scrub of each tier did.
    var memoryScrub = ScrubStatistics()
    var diskScrub = ScrubStatistics()
    /// Nanoseconds of `acquire`, for lookups answered from memory alone and for those that read the disk; of `reserve`, of
    /// `commit`, and of reading one run of blocks from disk.
    var memoryAcquire = LatencyHistogram()
    var diskAcquire = LatencyHistogram()
    var reserve = LatencyHistogram()
    var commit = LatencyHistogram()
    var promote = LatencyHistogram()
    /// Seconds from the last use of a block, or its commit, until the memory tier gave it up; from the last use of its
    /// disk copy, or from when memory gave the block up, until the disk tier did.
    var memoryEvictionAge = AgeHistogram()
    var diskEvictionAge = AgeHistogram()
}

/// What is counted of each namespace; a tenant's figures and the store's are sums of these.
struct NamespaceCounters {
    /// Calls of `acquire`.
    var lookups = 0
    /// Blocks those calls asked for.
    var requestedBlocks = 0
    /// Tokens those calls asked for.
    var requestedTokens = 0
    /// Blocks served, and tokens in them, by the tier they were found in.
    var memoryHitBlocks = 0
    var memoryHitTokens = 0
    var diskHitBlocks = 0
    var diskHitTokens = 0
    /// Lookups that ended before their last block, by reason.
    var missesAbsent = 0
    var missesInProgress = 0
    var missesWithoutSlot = 0
    var missesCorrupt = 0
    var missesWarming = 0
    /// Entries.
    var blocks = 0
    /// Those the memory tier counts.
    var memoryBlocks = 0
    /// Those the disk tier counts.
    var diskBlocks = 0
    /// Visible blocks without a disk copy.
    var unwrittenBlocks = 0

    static func += (sum: inout NamespaceCounters, more: NamespaceCounters) {
        sum.lookups += more.lookups
        sum.requestedBlocks += more.requestedBlocks
        sum.requestedTokens += more.requestedTokens
        sum.memoryHitBlocks += more.memoryHitBlocks
        sum.memoryHitTokens += more.memoryHitTokens
        sum.diskHitBlocks += more.diskHitBlocks
        sum.diskHitTokens += more.diskHitTokens
        sum.missesAbsent += more.missesAbsent
        sum.missesInProgress += more.missesInProgress
        sum.missesWithoutSlot += more.missesWithoutSlot
        sum.missesCorrupt += more.missesCorrupt
        sum.missesWarming += more.missesWarming
        sum.blocks += more.blocks
        sum.memoryBlocks += more.memoryBlocks
        sum.diskBlocks += more.diskBlocks
        sum.unwrittenBlocks += more.unwrittenBlocks
    }
}
