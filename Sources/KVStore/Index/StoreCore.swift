/// The store's bookkeeping: which block is where, and what happens to it next. No I/O, no threads, no clock.
///
/// One `StoreCore` sits in the store's mutex. Every method is short; bytes are copied, hashed, written and read outside,
/// under pins that the core gave out. Invariants, checked by `checkInvariants` in tests:
///
/// 1. An entry that is not a root has a parent in the table: a child never outlives its parent.
/// 2. A block on disk (or queued for it) has every ancestor on disk (or queued before it).
/// 3. A slot belongs to at most one entry; a pinned slot is never given to another.
/// 4. Along every chain, parents are at least as hot as their children, in both tiers.
/// 5. Regions and metadata together stay below the cap; a tenant's regions and records stay below its quotas, from the
///    moment on that a quota that was lowered has been reached.
///
/// Life of a block's bytes in memory (`Entry.Residence`):
/// ```
///            reserve              commit               evict, no disk copy
///   (absent) ───────▶ reserved ───────────▶ resident ─────────────────────▶ spilling
///       ▲               │ abandon          ▲   ▲  │ evict, disk copy         │   │ written
///       └───────────────┘                  │   │  ▼                          │   ▼
///                              read from disk   none ◀──────────────────────────┘ (none: on disk only)
///                        none ──▶ loading ─┘   └── a lookup takes it back ──────┘
/// ```
struct StoreCore: ~Copyable {
    let configuration: Configuration
    var entries: EntryTable
    var slots: SlotTable
    var disk: DiskState
    var namespaces: [NamespaceState] = []
    /// By namespace, like `namespaceLabels`. Not in `NamespaceState`, which is copied a lot.
    var namespaceCounters: [NamespaceCounters] = []
    var namespaceLabels: [NamespaceLabel?] = []
    var tenants: [TenantState] = []
    var counters = Counters()
    var clock = TickClock()
    /// Reads in flight, by the entry they fill: whoever wants the block too waits for the same read.
    var flights: [EntryID: Flight] = [:]
    /// Regions closed under the lock, to be unmapped outside it.
    var closedRegions: [Region] = []
    /// The class that was last opened or grew fuller: it gets the next region ahead of need.
    var latestClass: Int?
    /// Set when `planRegionAhead` has something to plan, until somebody was told.
    var wantsRegionAhead = false
    var leaseCount = 0
    var reservationCount = 0
    var isClosed = false
    /// Stamps one operation; see `nextTick`. Tests set it close to its end.
    var tick: UInt32 = 0

    struct NamespaceState {
        let fingerprint: BlockKey
        let tenant: UInt64
        /// Place of the tenant in `tenants`.
        let tenantIndex: Int
        let blockByteCount: Int
        var geometry: FrameGeometry? {
            didSet { recordByteLimit = Self.recordByteLimit(blockByteCount, geometry) }
        }
        /// The most bytes that a block's record can take; what a block that waits to be written is booked with.
        private(set) var recordByteLimit: Int
        var slotByteCount: Int { roundUp(blockByteCount, to: pageByteCount) }
        /// Class of the namespace's slots; nil until the first slot is asked for.
        var classIndex: Int?

        init(
            fingerprint: BlockKey,
            tenant: UInt64,
            tenantIndex: Int,
            blockByteCount: Int,
            geometry: FrameGeometry?
        ) {
            self.fingerprint = fingerprint
            self.tenant = tenant
            self.tenantIndex = tenantIndex
            self.blockByteCount = blockByteCount
            self.geometry = geometry
            recordByteLimit = Self.recordByteLimit(blockByteCount, geometry)
        }

        private static func recordByteLimit(_ blockByteCount: Int, _ geometry: FrameGeometry?) -> Int {
            // Without a geometry nothing can be written.
            geometry.map { BlockRecord.maximumByteCount(rawByteCount: blockByteCount, geometry: $0) } ?? blockByteCount
        }
    }

    init(configuration: Configuration) throws(KVStoreError) {
        let capacity = configuration.memoryCapacityBytes
        // A quarter of the cap may go to metadata; an entry on disk costs its 64 bytes, 12 in the disk tier's policy, up
        // to 11 in the key table and 8 in its segment's lists.
        let entryCapacity = max(1024, capacity / 4 / 96)
        // All parts first: a noncopyable struct cannot be left half made.
        let entries = try EntryTable(capacity: entryCapacity)
        let slots = try SlotTable(capacityBytes: capacity, policyName: configuration.policy)
        let disk = try DiskState(configuration: configuration, entryCapacity: entryCapacity)
        self.configuration = configuration
        self.entries = entries
        self.slots = slots
        self.disk = disk
    }

    // MARK: Namespaces

    /// The number of a namespace, found by fingerprint or added.
    mutating func registerNamespace(
        fingerprint: BlockKey,
        tenant: UInt64,
        blockByteCount: Int,
        geometry: FrameGeometry?,
        label: NamespaceLabel? = nil
    ) -> UInt16? {
        if let index = namespaces.firstIndex(where: { $0.fingerprint == fingerprint }) {
            if let geometry { namespaces[index].geometry = geometry }
            if let label {
                namespaceLabels[index] = label
                tenants[namespaces[index].tenantIndex].name = label.tenant
            }
            return UInt16(index)
        }
        guard namespaces.count < Int(UInt16.max) else { return nil }
        let tenantIndex = registerTenant(tenant, name: label?.tenant)
        namespaceCounters.append(NamespaceCounters())
        namespaceLabels.append(label)
        disk.namespaceTenants.append(tenantIndex)
        namespaces.append(
            NamespaceState(
                fingerprint: fingerprint,
                tenant: tenant,
                tenantIndex: tenantIndex,
                blockByteCount: blockByteCount,
                geometry: geometry
            )
        )
        return UInt16(namespaces.count - 1)
    }

    /// A namespace of another store would name slots of another size here.
    func requireOwn(_ namespace: Namespace) {
        precondition(
            Int(namespace.index) < namespaces.count
                && namespaces[Int(namespace.index)].fingerprint == namespace.fingerprint,
            "the namespace was opened by another store"
        )
    }

    /// The slot class of a namespace, or nil when no metadata can be had for it.
    mutating func classIndex(ofNamespace index: UInt16) -> Int? {
        if let known = namespaces[Int(index)].classIndex { return known }
        let state = namespaces[Int(index)]
        guard
            let made = try? slots.classIndex(tenant: state.tenant, slotByteCount: state.slotByteCount)
        else { return nil }
        namespaces[Int(index)].classIndex = made
        return made
    }

    // MARK: Budget

    /// Metadata of everything, inside the cap.
    var metadataBytes: Int { entries.metadataBytes + slots.metadataBytes + disk.metadataBytes }

    /// What regions leave free so that metadata can grow a step at a time.
    var metadataHeadroomBytes: Int { 256 << 10 }

    /// What the disk's writer makes a record in: a 32nd of the cap is set aside for the longest one (and what a record is
    /// longer than its block), which bounds the size of a block.
    static func stagingBytes(_ configuration: Configuration) -> Int {
        configuration.disk == nil ? 0 : max(5 << 18, configuration.memoryCapacityBytes / 32 + (64 << 10))
    }

    /// What the cap is compared with.
    var memoryBytes: Int { slots.regionBytes + metadataBytes + Self.stagingBytes(configuration) }

    /// Adds an entry, making room for its metadata if the cap demands it. Nil means: not now.
    mutating func addEntry(_ key: BlockKey, parent: EntryID, namespace: UInt16) -> EntryID? {
        let room = configuration.memoryCapacityBytes - memoryBytes
        let parentKey = parent == .none ? nil : entries[parent].key
        if room < metadataHeadroomBytes / 2, let donor = largestClass(except: nil) {
            // Metadata grows at the price of the least valuable region; until that is empty, nothing new comes in.
            drainColdestRegion(of: donor)
            if configuration.memoryCapacityBytes - memoryBytes < metadataHeadroomBytes / 4 { return nil }
            // The region may have held the parent, which then went with it.
            if let parentKey, entries.find(parentKey) != parent { return nil }
        }
        if entries.count == entries.capacity, !evictFromDiskTier(protecting: parent) { return nil }
        guard let id = entries.insert(key, parent: parent, namespace: namespace) else { return nil }
        guard disk.policy.grow(toCount: entries.highWater) else {
            entries.remove(id)
            return nil
        }
        namespaceCounters[Int(namespace)].blocks += 1
        return id
    }

    /// Grows one shard of the key table for its part of `count` more entries, as far as free memory goes.
    mutating func makeRoom(forEntries count: Int, shard: Int) {
        let room = configuration.memoryCapacityBytes - memoryBytes - metadataHeadroomBytes
        let newCount = min(count, entries.capacity - entries.count)
        entries.reserve(shard: shard, forNewEntries: newCount, byteLimit: room)
    }

    // MARK: Order

    /// A new stamp. Within one operation every touched block gets the same one, which tells `touchChain` where it has
    /// been already.
    mutating func nextTick() -> UInt32 {
        if tick == .max - 1 { rescaleTicks() }
        tick += 1
        return tick
    }

    /// Sets `count` stamps aside that are all before the next; returns the last of them.
    mutating func takeTicks(_ count: Int) -> UInt32 {
        if Int(UInt32.max - 1 - tick) < count { rescaleTicks() }
        tick += UInt32(count)
        return tick
    }

    private mutating func rescaleTicks() {
        tick = disk.rescaleTicks(slots.classes.map(\.policy), entries: entries)
        clock.halveTicks()
    }

    /// Marks a chain as used now, from `last` to its root, so that parents end up hotter than children.
    ///
    /// - Parameter onDisk: also in the disk tier's order. A memory hit does not refresh disk copies: their turn comes
    ///   when memory gives the block up, which keeps a hit cheap and the disk order useful.
    mutating func touchChain(from last: EntryID, tick: UInt32, onDisk: Bool) {
        guard last != .none else { return }
        var id = last
        // All blocks of a chain are of one namespace, hence of one class.
        let classIndex = namespaces[Int(entries[last].namespace)].classIndex
        let policy = classIndex.map { slots.classes[$0].policy }
        while id != .none {
            let entry = entries[id]
            if entry.residence == .resident { policy?.touch(entry.slot, tick: tick) }
            if onDisk, entry.isInDiskTier { disk.touch(id, entry, tick: tick) }
            id = entry.parent
        }
    }

    // MARK: Pins

    mutating func pin(_ slot: SlotID) { slots.pin(slot) }

    /// Ends a pin. The last one on a slot whose block was removed frees the slot.
    mutating func unpin(_ slot: SlotID) {
        guard slots.unpin(slot) == 0 else { return }
        let entry = slots[slot].entry
        if entry == .none {
            freeSlot(slot)
        } else if slots.isDraining(slot), entries[entry].residence == .resident {
            evict(entry, tick: nextTick())
        }
    }

    mutating func freeSlot(_ slot: SlotID) {
        if let region = slots.free(slot) { closedRegions.append(region) }
    }

    // MARK: Taking entries out

    /// Removes a block and everything that builds on it, from every tier.
    ///
    /// Slots under a pin stay readable for whoever holds the pin; they hold no entry any more and are freed by the last
    /// `unpin`.
    mutating func drop(_ root: EntryID) -> Int {
        let order = subtree(of: root)
        for id in order.reversed() { removeLeaf(id) }
        return order.count
    }

    /// A block and everything that builds on it, parents first.
    func subtree(of root: EntryID) -> [EntryID] {
        var order: [EntryID] = []
        var stack = [root]
        while let id = stack.popLast() {
            order.append(id)
            var child = entries[id].firstChild
            while child != .none {
                stack.append(child)
                child = entries[child].nextSibling
            }
        }
        return order
    }

    private mutating func removeLeaf(_ id: EntryID) {
        leaveDiskTier(id)
        let entry = entries[id]
        if entry.slot != .none {
            switch entry.residence {
            case .resident:
                slots.policy(of: entry.slot).remove(entry.slot)
                countInMemory(entry.slot, entry.namespace, by: -1)
                if !entry.isOnDisk { noteUnwritten(entry.namespace, by: -1) }
            case .reserved: countInMemory(entry.slot, entry.namespace, by: -1)
            case .loading:
                countInMemory(entry.slot, entry.namespace, by: -1)
                flights[id] = nil
            case .spilling:
                disk.spillingCount -= 1
                if !entry.isOnDisk { noteUnwritten(entry.namespace, by: -1) }
            case .none: preconditionFailure("a slot without a residence")
            }
            slots[entry.slot].entry = .none
            if slots[entry.slot].pins == 0 { freeSlot(entry.slot) }
        }
        entries.remove(id)
        namespaceCounters[Int(entry.namespace)].blocks -= 1
    }

    /// Takes a block out of the disk tier's books: its order, its segment, the write queue. Its row is deleted later.
    mutating func leaveDiskTier(_ id: EntryID) {
        let entry = entries[id]
        guard entry.isInDiskTier else { return }
        let tick = disk.policy.tick(of: id)
        let space = Int(entry.namespace)
        disk.policy.remove(id, tenant: namespaces[space].tenantIndex)
        namespaceCounters[space].diskBlocks -= 1
        tenants[namespaces[space].tenantIndex].diskBytes -= diskCharge(of: entry)
        if entry.isQueued {
            disk.queuedBytes -= namespaces[space].blockByteCount
            disk.queuedBlocks -= 1
        }
        if entry.isOnDisk {
            disk.recordDied(segment: entry.segment, ordinal: entry.ordinal, tick: tick)
            if !disk.forgetsNoRows { disk.rowsToForget.append(rowName(of: entry)) }
            if entry.residence == .resident || entry.residence == .spilling { noteUnwritten(entry.namespace, by: 1) }
        }
        entries[id].isQueued = false
        // A write that is under way is nobody's any more; `finishSpill` will find that out, and the block may queue again.
        entries[id].isWriting = false
        entries[id].segment = .none
    }

    func rowName(of entry: Entry) -> BlockIdentity {
        let namespace = namespaces[Int(entry.namespace)]
        return BlockIdentity(tenant: namespace.tenant, fingerprint: namespace.fingerprint, key: entry.key)
    }

    /// Removes blocks that the caller names, with their descendants. Returns the keys of everything removed.
    mutating func remove(_ keys: [BlockKey], namespace: UInt16) -> [BlockKey] {
        var removed: [BlockKey] = []
        // Rows that are being read just now must not bring them back.
        if disk.isWarming { disk.removedWhileWarming.formUnion(keys) }
        for key in keys {
            guard let id = entries.find(key), entries[id].namespace == namespace else { continue }
            removed.append(contentsOf: subtree(of: id).map { entries[$0].key })
            _ = drop(id)
        }
        counters.removedBlocks += removed.count
        returnToCap()
        return removed
    }

    /// The names of many rows to forget take memory at once, which `addEntry`'s headroom does not cover: regions pay.
    mutating func returnToCap() {
        while memoryBytes > configuration.memoryCapacityBytes, let donor = largestClass(except: nil) {
            let before = slots.regionBytes
            drainColdestRegion(of: donor)
            if slots.regionBytes == before { return }
        }
    }
}
