internal import Histogram

// Counting, and the small questions the façade asks.

extension StoreCore {
    /// Books one `acquire`.
    mutating func countLookup(_ prefix: Prefix, blocks: [PinnedBlock], stop: PrefixStop, nanoseconds: UInt64) {
        counters.lookups += 1
        counters.requestedBlocks += prefix.keys.count
        counters.requestedTokens += prefix.tokenCount
        var diskBlocks = 0
        var diskTokens = 0
        for (position, block) in blocks.enumerated() where block.tier == .disk {
            diskBlocks += 1
            diskTokens += prefix.tokens(before: position + 1) - prefix.tokens(before: position)
        }
        counters.diskHitBlocks += diskBlocks
        counters.diskHitTokens += diskTokens
        counters.memoryHitBlocks += blocks.count - diskBlocks
        counters.memoryHitTokens += prefix.tokens(before: blocks.count) - diskTokens
        if diskBlocks > 0 {
            _ = counters.diskAcquire.record(nanoseconds)
        } else if !blocks.isEmpty {
            _ = counters.memoryAcquire.record(nanoseconds)
        }
        if !blocks.isEmpty { leaseCount += 1 }
        if blocks.count < prefix.keys.count { countMiss(stop) }
    }

    private mutating func countMiss(_ stop: PrefixStop) {
        switch stop {
        case .absent where disk.isWarming: counters.missesWarming += 1
        case .absent: counters.missesAbsent += 1
        case .inProgress: counters.missesInProgress += 1
        case .noSlot, .needsRegion: counters.missesWithoutSlot += 1
        // The run ended although the walk did not: a block on the way turned out damaged.
        case .loading, .end: counters.missesCorrupt += 1
        }
    }

    /// Marks what a lookup found as used.
    mutating func touchRun(_ blocks: [PinnedBlock]) {
        guard let last = blocks.last, slots[last.slot].entry == last.entry else { return }
        touchChain(from: last.entry, tick: nextTick(), onDisk: blocks.contains { $0.tier == .disk })
    }

    /// Keeps what is stored of a prefix from being the victim of its own continuation.
    mutating func touchPresent(_ prefix: Prefix) {
        var last = EntryID.none
        for key in prefix.keys {
            guard let id = entries.find(key), entries[id].isPresent else { break }
            last = id
        }
        if last != .none { touchChain(from: last, tick: nextTick(), onDisk: false) }
    }

    /// Whether a pinned block's bytes have the digest they were committed with; if not, drops the block.
    mutating func confirm(_ block: PinnedBlock, digest: UInt64) -> Bool {
        if slots[block.slot].digest == digest { return true }
        counters.corruptBlocks += 1
        if slots[block.slot].entry == block.entry { _ = drop(block.entry) }
        return false
    }

    /// Every counter and level. The disk's own levels are added by `DiskTier.complete`.
    func statistics() -> StoreStatistics {
        var result = StoreStatistics()
        result.lookups = counters.lookups
        result.requestedBlocks = counters.requestedBlocks
        result.requestedTokens = counters.requestedTokens
        result.memory.hitBlocks = counters.memoryHitBlocks
        result.memory.hitTokens = counters.memoryHitTokens
        result.memory.blocks = slots.classes.reduce(0) { $0 + $1.occupiedCount }
        result.memory.bytes = memoryBytes
        result.memory.capacityBytes = configuration.memoryCapacityBytes
        result.memory.evictedBlocks = counters.memoryEvictedBlocks
        result.memory.acquireP50Nanoseconds = Int(clamping: counters.memoryAcquire.valueAtPercentile(50))
        result.memory.acquireP99Nanoseconds = Int(clamping: counters.memoryAcquire.valueAtPercentile(99))
        result.disk.hitBlocks = counters.diskHitBlocks
        result.disk.hitTokens = counters.diskHitTokens
        result.disk.blocks = disk.policy.count
        result.disk.evictedBlocks = counters.diskEvictedBlocks
        result.disk.acquireP50Nanoseconds = Int(clamping: counters.diskAcquire.valueAtPercentile(50))
        result.disk.acquireP99Nanoseconds = Int(clamping: counters.diskAcquire.valueAtPercentile(99))
        result.memory.scrub = counters.memoryScrub
        result.disk.scrub = counters.diskScrub
        copyCounters(to: &result)
        result.isWarming = disk.isWarming
        result.warmUp = counters.warmUp
        result.segments = disk.segments.count
        result.diskRecords = disk.recordCount
        result.queuedBlocks = disk.queuedBlocks
        result.queuedBytes = disk.queuedBytes
        result.leases = leaseCount
        result.pinnedSlots = slots.pinnedSlotCount
        result.reservations = reservationCount
        result.regions = slots.regionCount
        result.metadataBytes = metadataBytes
        return result
    }

    private func copyCounters(to result: inout StoreStatistics) {
        result.missesAbsent = counters.missesAbsent
        result.missesInProgress = counters.missesInProgress
        result.missesWithoutSlot = counters.missesWithoutSlot
        result.missesCorrupt = counters.missesCorrupt
        result.missesWarming = counters.missesWarming
        result.committedBlocks = counters.committedBlocks
        result.divergentCommits = counters.divergentCommits
        result.discardedCommits = counters.discardedCommits
        result.abandonedBlocks = counters.abandonedBlocks
        result.refusedBlocks = counters.refusedBlocks
        result.droppedBlocks = counters.droppedBlocks
        result.removedBlocks = counters.removedBlocks
        result.corruptBlocks = counters.corruptBlocks
        result.spilledBlocks = counters.spilledBlocks
        result.spilledRawBytes = counters.spilledRawBytes
        result.spilledStoredBytes = counters.spilledStoredBytes
        result.carriedBlocks = counters.carriedBlocks
        result.carriedStoredBytes = counters.carriedStoredBytes
        result.promotedBlocks = counters.promotedBlocks
        result.promotedRawBytes = counters.promotedRawBytes
        result.diskErrors = counters.diskErrors
    }
}
