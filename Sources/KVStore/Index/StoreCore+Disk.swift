internal import DequeModule

// What goes to disk, what comes back, and what the disk tier gives up. Decisions only; `DiskTier` acts on them.

/// A block that a lookup found on disk only. The claimer reads it into the slot it was given.
struct LoadClaim: Sendable {
    enum Outcome: Equatable, Sendable {
        case pending
        case loaded(digest: UInt64)
        /// The stored bytes are not what was written.
        case damaged
        /// There is no such record.
        case gone
        /// The disk could not be read just now.
        case unreadable
    }
    let key: BlockKey
    let segment: UInt32
    let ordinal: UInt16
    let namespace: UInt16
    /// Number of the block in the claimer's run.
    let position: Int
    var outcome = Outcome.pending

    init(_ entry: Entry, position: Int) {
        key = entry.key
        segment = entry.segment
        ordinal = entry.ordinal
        namespace = entry.namespace
        self.position = position
    }
}

/// A block on its way to disk, with everything the writer needs outside the lock.
struct SpillItem: Sendable {
    enum Source: Sendable {
        /// The bytes are in this slot, which the item pins.
        case memory(SlotID, digest: UInt64)
        /// The record moves over unchanged.
        case segment(UInt32, ordinal: UInt16)
    }
    let entry: EntryID
    let key: BlockKey
    let parentKey: BlockKey
    let fingerprint: BlockKey
    let tenant: UInt64
    /// Nil for a namespace that nobody has opened since the start; its records can be carried over all the same.
    let geometry: FrameGeometry?
    let rawByteCount: Int
    let uses: UInt8
    let source: Source
    // Only meaningful with a memory source, whose pin keeps it valid.
    let memory: SlotMemory?
}

extension StoreCore {
    // MARK: Queueing

    /// Whether a resident block may go to disk now: every ancestor is there, queued, or can be queued with it, and the
    /// tenant's quota could hold all that.
    func canQueue(_ entry: Entry) -> Bool {
        guard disk.accepts, namespaces[Int(entry.namespace)].geometry != nil else { return false }
        var count = 1
        var parent = entry.parent
        while parent != .none, !entries[parent].isInDiskTier {
            let residence = entries[parent].residence
            guard residence == .resident || residence == .spilling else { return false }
            count += 1
            parent = entries[parent].parent
        }
        return isWithinDiskQuota(count, namespace: entry.namespace)
    }

    /// Queues a block and those of its ancestors that are not on disk yet, ancestors first. Counts them in the disk tier
    /// from now on. False when the tier will not have it.
    mutating func enqueue(_ id: EntryID, tick: UInt32) -> Bool {
        guard canQueue(entries[id]) else {
            noteQuotaRefusal(of: id)
            return false
        }
        var path: [EntryID] = []
        var member = id
        while member != .none, !entries[member].isInDiskTier {
            path.append(member)
            member = entries[member].parent
        }
        let space = Int(entries[id].namespace)
        let tenant = namespaces[space].tenantIndex
        guard makeDiskQuotaRoom(forBlocks: path.count, namespace: space, below: member) else {
            noteQuotaRefusal(of: id)
            return false
        }
        for member in path {
            entries[member].isQueued = true
            disk.policy.insert(member, tenant: tenant, tick: tick)
            namespaceCounters[space].diskBlocks += 1
            tenants[tenant].diskBytes += diskCharge(of: entries[member])
            disk.queuedBlocks += 1
            disk.queuedBytes += namespaces[Int(entries[member].namespace)].blockByteCount
        }
        for member in path.reversed() { disk.queue.append(member) }
        if path.isEmpty { disk.touch(id, entries[id], tick: tick) }
        touchAncestorsOnDisk(of: path.last ?? id, tick: tick)
        if let limit = configuration.disk?.blockLimit {
            while disk.policy.count > limit, evictFromDiskTier(protecting: .none) {}
        }
        return entries[id].isQueued
    }

    /// Keeps parents at least as hot as their children in the disk tier. Stops at the first ancestor this operation has
    /// touched already, so evicting a whole chain costs its length once.
    mutating func touchAncestorsOnDisk(of id: EntryID, tick: UInt32) {
        var parent = entries[id].parent
        while parent != .none {
            let entry = entries[parent]
            if entry.isInDiskTier {
                if disk.policy.tick(of: parent) == tick, entry.residence != .resident { return }
                disk.touch(parent, entry, tick: tick)
            }
            parent = entry.parent
        }
    }

    /// Queues every resident block that is not on disk, heads first; of those tenants, if any are named. Returns how many
    /// cannot be queued.
    mutating func enqueueAllResident(ofTenants hashes: Set<UInt64>? = nil) -> Int {
        let isWanted = namespaces.map { hashes?.contains($0.tenant) ?? true }
        var refused = 0
        for id in 0..<EntryID(entries.highWater) {
            let entry = entries[id]
            guard entry.residence == .resident, !entry.isInDiskTier, isWanted[Int(entry.namespace)] else { continue }
            if !enqueue(id, tick: nextTick()) { refused += 1 }
        }
        return refused
    }

    /// Queues blocks that were committed up to `seconds` and are still only in memory.
    mutating func enqueueAged(committedBy seconds: UInt32) {
        while let id = disk.popDirty(committedBy: seconds) {
            let entry = entries[id]
            // The id may have been given to another block since; then this only writes that one early.
            if entry.residence == .resident, !entry.isInDiskTier { _ = enqueue(id, tick: nextTick()) }
        }
    }

    // MARK: Disk eviction

    /// The disk tier gives up its coldest block that nothing on disk builds on, or a tenant's. False when there is none.
    mutating func evictFromDiskTier(protecting protected: EntryID, ofTenant tenant: Int? = nil) -> Bool {
        let victim = disk.policy.victim(ofTenant: tenant) { id in
            let entry = entries[id]
            guard id != protected, !entry.isWriting, entry.residence != .loading else { return false }
            if entry.slot != .none, slots[entry.slot].pins > 0, entry.residence == .spilling { return false }
            return !hasChildOnDisk(entry) && (entry.residence == .resident || entry.firstChild == .none)
        }
        guard let victim else { return false }
        countDiskEviction(of: victim)
        if entries[victim].residence == .resident {
            leaveDiskTier(victim)
        } else {
            _ = drop(victim)
        }
        return true
    }

    private func hasChildOnDisk(_ entry: Entry) -> Bool {
        var child = entry.firstChild
        while child != .none {
            if entries[child].isInDiskTier { return true }
            child = entries[child].nextSibling
        }
        return false
    }

    /// Takes the disk copies of a block and of all its descendants away: blocks in memory stay there, others go.
    mutating func dropDiskCopies(_ root: EntryID) {
        for id in subtree(of: root).reversed() where entries[id].isInDiskTier {
            countDiskEviction(of: id)
            let residence = entries[id].residence
            if residence == .resident || residence == .reserved {
                leaveDiskTier(id)
            } else {
                _ = drop(id)
            }
        }
    }

    // MARK: Writing

    /// An entry has 16 bits for the place of a record in its segment; a batch takes a quarter of them, what is carried over
    /// into the same segment may take the rest.
    private static var batchLimit: Int { 1 << 14 }

    /// Takes up to `maximumBytes` of queued blocks for one segment, pinned, parents before children and each chain in
    /// one piece, so that a prefix is one sequential read later.
    mutating func takeSpillBatch(maximumBytes: Int) -> [SpillItem] {
        var chosen: [EntryID] = []
        var bytes = 0
        while bytes < maximumBytes, chosen.count < Self.batchLimit, let id = disk.queue.popFirst() {
            let entry = entries[id]
            let hasBytes = entry.residence == .resident || entry.residence == .spilling
            guard entry.isQueued, !entry.isWriting, hasBytes else { continue }
            entries[id].isWriting = true
            chosen.append(id)
            bytes += namespaces[Int(entry.namespace)].blockByteCount
        }
        return chainOrder(chosen).map { id in
            pin(entries[id].slot)
            let entry = entries[id]
            return spillItem(entry, id: id, source: .memory(entry.slot, digest: slots[entry.slot].digest))
        }
    }

    func spillItem(_ entry: Entry, id: EntryID, source: SpillItem.Source) -> SpillItem {
        let namespace = namespaces[Int(entry.namespace)]
        var memory: SlotMemory?
        if case .memory(let slot, _) = source { memory = slots.memory(of: slot) }
        return SpillItem(
            entry: id,
            key: entry.key,
            parentKey: entry.parent == .none ? namespace.fingerprint : entries[entry.parent].key,
            fingerprint: namespace.fingerprint,
            tenant: namespace.tenant,
            geometry: namespace.geometry,
            rawByteCount: namespace.blockByteCount,
            uses: entry.uses,
            source: source,
            memory: memory
        )
    }

    /// Depth-first order over the chosen blocks: a parent comes before its children, and a chain stays together.
    func chainOrder(_ chosen: [EntryID]) -> [EntryID] {
        let members = Set(chosen)
        var ordered: [EntryID] = []
        ordered.reserveCapacity(chosen.count)
        for root in chosen where !members.contains(entries[root].parent) {
            var stack = [root]
            while let id = stack.popLast() {
                ordered.append(id)
                var child = entries[id].firstChild
                while child != .none {
                    if members.contains(child) { stack.append(child) }
                    child = entries[child].nextSibling
                }
            }
        }
        return ordered
    }

    /// The segment is sealed: its blocks are on disk, but for those whose rows a removal kept from being written
    /// (`staleOrdinals`). Such a block was usually dropped; if it was stored again since, it waits for the next segment.
    mutating func finishSpill(
        _ items: [SpillItem],
        segment: UInt32,
        byteCount: Int,
        storedByteCounts: [Int],
        staleOrdinals: Set<UInt32> = []
    ) {
        disk.addSegment(segment, recordCount: items.count, byteCount: byteCount)
        counters.segmentsWritten += 1
        for (ordinal, item) in items.enumerated() {
            let stored = storedByteCounts[ordinal]
            if case .memory = item.source, staleOrdinals.contains(UInt32(ordinal)) {
                failSpill([item])
                continue
            }
            switch item.source {
            case .memory(let slot, _):
                counters.spilledBlocks += 1
                counters.spilledRawBytes += item.rawByteCount
                counters.spilledStoredBytes += stored
                finishSpilled(
                    item,
                    slot: slot,
                    segment: segment,
                    ordinal: UInt16(ordinal),
                    storedByteCount: stored
                )
            case .segment(let oldSegment, let oldOrdinal):
                counters.carriedBlocks += 1
                counters.carriedStoredBytes += stored
                let entry = entries[item.entry]
                guard entry.key == item.key, entry.segment == oldSegment, entry.ordinal == oldOrdinal else {
                    forgetUnlessIndexed(item)
                    continue
                }
                tenants[namespaces[Int(entry.namespace)].tenantIndex].diskBytes -= diskCharge(of: entry)
                disk.recordDied(
                    segment: oldSegment,
                    ordinal: oldOrdinal,
                    tick: disk.policy.tick(of: item.entry)
                )
                place(item.entry, segment: segment, ordinal: UInt16(ordinal), storedByteCount: stored)
            }
        }
    }

    private mutating func finishSpilled(
        _ item: SpillItem,
        slot: SlotID,
        segment: UInt32,
        ordinal: UInt16,
        storedByteCount: Int
    ) {
        let entry = entries[item.entry]
        let isOurs = slots[slot].entry == item.entry && entry.key == item.key && entry.isWriting && entry.isQueued
        if isOurs {
            tenants[namespaces[Int(entry.namespace)].tenantIndex].diskBytes -= diskCharge(of: entry)
            entries[item.entry].isWriting = false
            entries[item.entry].isQueued = false
            disk.queuedBytes -= item.rawByteCount
            disk.queuedBlocks -= 1
            place(item.entry, segment: segment, ordinal: ordinal, storedByteCount: storedByteCount)
            if entry.residence == .spilling {
                disk.spillingCount -= 1
                entries[item.entry].residence = .none
                entries[item.entry].slot = .none
                slots[slot].entry = .none
            }
        } else {
            forgetUnlessIndexed(item)
        }
        unpin(slot)
    }

    /// The block's record is at this place now. What it was booked with before has been taken off its tenant.
    mutating func place(_ id: EntryID, segment: UInt32, ordinal: UInt16, storedByteCount: Int) {
        let before = entries[id]
        if !before.isOnDisk, before.residence == .resident || before.residence == .spilling {
            noteUnwritten(before.namespace, by: -1)
        }
        entries[id].segment = segment
        entries[id].ordinal = ordinal
        disk.recordLives(segment: segment, ordinal: ordinal, entry: id, storedByteCount: storedByteCount)
        tenants[namespaces[Int(before.namespace)].tenantIndex].diskBytes += diskCharge(of: entries[id])
    }

    /// The block left the tier while its record was written: the row that sealing wrote must go, unless the key has come
    /// back and lives elsewhere by now (then its own row replaces this one).
    private mutating func forgetUnlessIndexed(_ item: SpillItem) {
        if let id = entries.find(item.key), entries[id].isOnDisk { return }
        disk.rowsToForget.append(BlockIdentity(tenant: item.tenant, fingerprint: item.fingerprint, key: item.key))
    }

    /// The segment could not be written: its blocks wait again, in front.
    mutating func failSpill(_ items: [SpillItem]) {
        var waiting: [EntryID] = []
        for item in items {
            guard case .memory(let slot, _) = item.source else { continue }
            if slots[slot].entry == item.entry, entries[item.entry].isWriting {
                entries[item.entry].isWriting = false
                waiting.append(item.entry)
            }
            unpin(slot)
        }
        disk.queue.prepend(contentsOf: waiting)
    }

    /// The disk tier stops taking blocks. What only waited to be written goes back to being an ordinary resident, or is
    /// dropped if memory had given it up.
    mutating func stopAccepting() {
        disk.accepts = false
        while let id = disk.queue.popFirst() {
            guard entries[id].isQueued, !entries[id].isWriting else { continue }
            if entries[id].residence == .spilling {
                counters.droppedBlocks += 1
                _ = drop(id)
            } else {
                dequeueWithDescendants(id)
            }
        }
    }

    private mutating func dequeueWithDescendants(_ id: EntryID) {
        leaveDiskTier(id)
        var child = entries[id].firstChild
        while child != .none {
            let next = entries[child].nextSibling
            if entries[child].isQueued, !entries[child].isWriting, entries[child].residence == .spilling {
                counters.droppedBlocks += 1
                _ = drop(child)
            } else if entries[child].isOnDisk {
                // Only below a block that a scrub queued once more: on disk no child stays without its parent.
                dropDiskCopies(child)
            }
            child = next
        }
    }
}

extension StoreCore {
    /// Queues what is only in memory, if blocks are to be written back by age: after a start or a pause, when their
    /// turn may have passed.
    mutating func enqueueAllResidentIfWriteBack() -> Int {
        configuration.disk?.writeBackDelaySeconds == nil ? 0 : enqueueAllResident()
    }

    /// Visible blocks without a disk copy.
    var unwrittenBlocks: Int { namespaceCounters.reduce(0) { $0 + $1.unwrittenBlocks } }

    /// Blocks of a tenant, or all, that are on disk, and those that are not. Looks at every entry for a tenant.
    func durableBlocks(ofTenant hash: UInt64?) -> (durable: Int, refused: Int) {
        guard let hash else { return (disk.policy.count - disk.queuedBlocks, unwrittenBlocks) }
        let isTheirs = namespaces.map { $0.tenant == hash }
        let refused = zip(isTheirs, namespaceCounters).reduce(0) { $0 + ($1.0 ? $1.1.unwrittenBlocks : 0) }
        var durable = 0
        // A free id is on no disk.
        for id in 0..<EntryID(entries.highWater) where entries[id].isOnDisk && isTheirs[Int(entries[id].namespace)] {
            durable += 1
        }
        return (durable, refused)
    }

    /// The log was closed: nothing is on disk until it is loaded again. Blocks in memory stay.
    mutating func forgetDisk() {
        for id in 0..<EntryID(entries.highWater) where entries[id].isInDiskTier { dropDiskCopies(id) }
        disk.rowsToForget.removeAll()
        disk.removeAllSegments()
    }
}
