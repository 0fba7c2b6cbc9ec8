/// A snapshot of one tier.
public struct TierStatistics: Sendable, Codable, Hashable {
    /// Blocks that lookups found here.
    public var hitBlocks = 0
    /// Tokens in those blocks.
    public var hitTokens = 0
    /// Blocks the tier counts now.
    public var blocks = 0
    /// Bytes the tier takes now: regions and metadata in memory, allocated bytes of the directory on disk.
    public var bytes = 0
    /// The hard cap over `bytes`.
    public var capacityBytes = 0
    /// Blocks the tier gave up to make room.
    public var evictedBlocks = 0
    /// How long those had not been used.
    public var ageAtEviction = AgeSummary()
    /// Median of `acquire` in nanoseconds, for lookups that this tier was the deepest of.
    public var acquireP50Nanoseconds = 0
    /// 99th percentile of the same.
    public var acquireP99Nanoseconds = 0
    /// The tier's background scrub.
    public var scrub = ScrubStatistics()
}

/// What the scrub of one tier did since the store was opened.
public struct ScrubStatistics: Sendable, Codable, Hashable {
    /// Blocks whose bytes were compared with their digests.
    public var checkedBlocks = 0
    /// Their bytes: raw in memory, as stored on disk.
    public var checkedBytes = 0
    /// Blocks that were not what was written.
    public var damagedBlocks = 0
    /// Of those, blocks whose copy in the other tier was good and took their place. The others were dropped.
    public var repairedBlocks = 0
    /// Passes over the whole tier that were completed. The disk's first one may have begun before a restart.
    public var passes = 0
    /// Seconds since the last of them ended; nil before the first.
    public var secondsSincePass: Double?

    mutating func note(_ verdict: ScrubVerdict, byteCount: Int) {
        checkedBlocks += 1
        checkedBytes += byteCount
        switch verdict {
        case .good, .moved: break
        case .repaired:
            damagedBlocks += 1
            repairedBlocks += 1
        case .dropped: damagedBlocks += 1
        }
    }
}

/// Reading the most used heads into memory after a start.
public struct WarmUpStatistics: Sendable, Codable, Hashable {
    /// Whether it is going on.
    public var isRunning = false
    /// Blocks that are to be read, if memory is not filled otherwise meanwhile.
    public var plannedBlocks = 0
    /// Blocks that were read. Also counted as promoted.
    public var blocks = 0
    /// Their raw bytes.
    public var bytes = 0
}

/// What a store did and holds. All counts are since the store was opened.
public struct StoreStatistics: Sendable, Codable, Hashable {
    package init() {}

    /// Calls of `acquire`.
    public var lookups = 0
    /// Blocks those calls asked for.
    public var requestedBlocks = 0
    /// Tokens those calls asked for.
    public var requestedTokens = 0
    /// The memory tier.
    public var memory = TierStatistics()
    /// The disk tier.
    public var disk = TierStatistics()
    /// Lookups that ended early because the next block was nowhere.
    public var missesAbsent = 0
    /// … because the next block was reserved and not yet committed, or being read while only memory was asked.
    public var missesInProgress = 0
    /// … because no slot was free to promote the next block into.
    public var missesWithoutSlot = 0
    /// … because the next block's stored bytes were damaged.
    public var missesCorrupt = 0
    /// … while the index was still being loaded.
    public var missesWarming = 0
    /// Blocks made visible.
    public var committedBlocks = 0
    /// Second commits of a key with other bytes.
    public var divergentCommits = 0
    /// Commits that could not become visible.
    public var discardedCommits = 0
    /// Reserved blocks given back without a commit.
    public var abandonedBlocks = 0
    /// Blocks a reservation did not get a slot for.
    public var refusedBlocks = 0
    /// Blocks that are only in memory: what a kill of the process would lose.
    public var unwrittenBlocks = 0
    /// How often a block was not queued for the disk because of its tenant's quota.
    public var quotaRefusedBlocks = 0
    /// Evicted blocks that never reached the disk, although there is one.
    public var droppedBlocks = 0
    /// Blocks removed by the caller.
    public var removedBlocks = 0
    /// Blocks whose stored bytes were not what was written, found by lookups and by scrubs.
    public var corruptBlocks = 0
    /// Blocks written to disk for the first time.
    public var spilledBlocks = 0
    /// Raw bytes of those blocks.
    public var spilledRawBytes = 0
    /// Bytes of their records.
    public var spilledStoredBytes = 0
    /// Blocks carried over from dropped segments.
    public var carriedBlocks = 0
    /// Bytes of their records.
    public var carriedStoredBytes = 0
    /// Blocks read back from disk.
    public var promotedBlocks = 0
    /// Raw bytes of those blocks.
    public var promotedRawBytes = 0
    /// Whether the index of the disk tier is still being loaded.
    public var isWarming = false
    /// What happens after that.
    public var warmUp = WarmUpStatistics()
    /// Segments on disk.
    public var segments = 0
    /// Records in those segments, dead ones included.
    public var diskRecords = 0
    /// Blocks waiting to be written.
    public var queuedBlocks = 0
    /// Raw bytes waiting to be written.
    public var queuedBytes = 0
    /// Open leases.
    public var leases = 0
    /// Slots that leases, reservations or background work hold.
    public var pinnedSlots = 0
    /// Open reservations.
    public var reservations = 0
    /// Regions mapped.
    public var regions = 0
    /// Metadata inside `memory.bytes`.
    public var metadataBytes = 0
    /// Slots that hold nothing, inside `memory.bytes`: emptied, or taken ahead of need.
    public var unusedBytes = 0
    /// Failures that paused the disk tier.
    public var diskErrors = 0
    /// Why the disk tier is off or paused; nil when it works or there is none.
    public var diskProblem: String?

    /// Raw bytes per stored byte of everything written, 1 when nothing was.
    public var compressionRatio: Double {
        spilledStoredBytes == 0 ? 1 : Double(spilledRawBytes) / Double(spilledStoredBytes)
    }
    /// Record bytes written per record byte that was new, 1 when nothing was written.
    public var writeAmplification: Double {
        spilledStoredBytes == 0 ? 1 : Double(spilledStoredBytes + carriedStoredBytes) / Double(spilledStoredBytes)
    }
    /// Served blocks per requested block.
    public var hitRatioBlocks: Double {
        requestedBlocks == 0 ? 0 : Double(memory.hitBlocks + disk.hitBlocks) / Double(requestedBlocks)
    }
    /// Served tokens per requested token.
    public var hitRatioTokens: Double {
        requestedTokens == 0 ? 0 : Double(memory.hitTokens + disk.hitTokens) / Double(requestedTokens)
    }
}
