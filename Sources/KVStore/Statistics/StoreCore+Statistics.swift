// Counting, and the small questions the façade asks.

extension StoreCore {
    /// Books one `acquire`, which ended at `nowSeconds`.
    mutating func countLookup(
        _ prefix: Prefix,
        blocks: [PinnedBlock],
        stop: PrefixStop,
        nanoseconds: UInt64,
        nowSeconds: UInt32
    ) {
        clock.note(tick: tick, seconds: nowSeconds)
        var diskBlocks = 0
        var diskTokens = 0
        for (position, block) in blocks.enumerated() where block.tier == .disk {
            diskBlocks += 1
            diskTokens += prefix.tokens(before: position + 1) - prefix.tokens(before: position)
        }
        let space = Int(prefix.namespace.index)
        namespaceCounters[space].lookups += 1
        namespaceCounters[space].requestedBlocks += prefix.keys.count
        namespaceCounters[space].requestedTokens += prefix.tokenCount
        namespaceCounters[space].diskHitBlocks += diskBlocks
        namespaceCounters[space].diskHitTokens += diskTokens
        namespaceCounters[space].memoryHitBlocks += blocks.count - diskBlocks
        namespaceCounters[space].memoryHitTokens += prefix.tokens(before: blocks.count) - diskTokens
        if diskBlocks > 0 {
            counters.diskAcquire.record(nanoseconds)
        } else if !blocks.isEmpty {
            counters.memoryAcquire.record(nanoseconds)
        }
        if let first = blocks.first { beginLease(on: first.slot) }
        if blocks.count < prefix.keys.count { countMiss(stop, namespace: space) }
    }

    private mutating func countMiss(_ stop: PrefixStop, namespace: Int) {
        switch stop {
        case .absent where disk.isWarming: namespaceCounters[namespace].missesWarming += 1
        case .absent: namespaceCounters[namespace].missesAbsent += 1
        case .inProgress: namespaceCounters[namespace].missesInProgress += 1
        case .noSlot, .needsRegion: namespaceCounters[namespace].missesWithoutSlot += 1
        // The run ended although the walk did not: a block on the way turned out damaged.
        case .loading, .end: namespaceCounters[namespace].missesCorrupt += 1
        }
    }

    /// Counts a lease whose first block is in `slot`, which the lease pins: it tells the tenant.
    mutating func beginLease(on slot: SlotID) {
        leaseCount += 1
        slots.adjustLeases(slot, by: 1)
    }

    /// Ends what `beginLease` began. Before the pin ends.
    mutating func endLease(on slot: SlotID) {
        leaseCount -= 1
        slots.adjustLeases(slot, by: -1)
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
        let sums = namespaceCounters.reduce(into: NamespaceCounters()) { $0 += $1 }
        copy(sums, to: &result)
        result.memory.blocks = slots.classes.reduce(0) { $0 + $1.occupiedCount }
        result.memory.bytes = memoryBytes
        result.memory.capacityBytes = configuration.memoryCapacityBytes
        result.memory.evictedBlocks = counters.memoryEvictedBlocks
        result.memory.ageAtEviction = counters.memoryEvictionAge.summary
        result.memory.acquireP50Nanoseconds = counters.memoryAcquire.percentile(50)
        result.memory.acquireP99Nanoseconds = counters.memoryAcquire.percentile(99)
        result.disk.blocks = disk.policy.count
        result.disk.evictedBlocks = counters.diskEvictedBlocks
        result.disk.ageAtEviction = counters.diskEvictionAge.summary
        result.disk.acquireP50Nanoseconds = counters.diskAcquire.percentile(50)
        result.disk.acquireP99Nanoseconds = counters.diskAcquire.percentile(99)
        result.memory.scrub = counters.memoryScrub
        result.disk.scrub = counters.diskScrub
        copyCounters(to: &result)
        result.quotaRefusedBlocks = tenants.reduce(0) { $0 + $1.quotaRefusedBlocks }
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
        result.unusedBytes = slots.classes.reduce(0) { $0 + $1.freeBytes }
        return result
    }

    private func copy(_ sums: NamespaceCounters, to result: inout StoreStatistics) {
        result.lookups = sums.lookups
        result.requestedBlocks = sums.requestedBlocks
        result.requestedTokens = sums.requestedTokens
        result.memory.hitBlocks = sums.memoryHitBlocks
        result.memory.hitTokens = sums.memoryHitTokens
        result.disk.hitBlocks = sums.diskHitBlocks
        result.disk.hitTokens = sums.diskHitTokens
        result.missesAbsent = sums.missesAbsent
        result.missesInProgress = sums.missesInProgress
        result.missesWithoutSlot = sums.missesWithoutSlot
        result.missesCorrupt = sums.missesCorrupt
        result.missesWarming = sums.missesWarming
        result.unwrittenBlocks = sums.unwrittenBlocks
    }

    /// How long each operation took, by its name; see `BlockStore.latencies`.
    func latencies() -> [String: LatencySummary] {
        [
            "acquire.memory": counters.memoryAcquire.summary,
            "acquire.disk": counters.diskAcquire.summary,
            "reserve": counters.reserve.summary,
            "commit": counters.commit.summary,
            "promote": counters.promote.summary,
        ]
    }

    private func copyCounters(to result: inout StoreStatistics) {
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
