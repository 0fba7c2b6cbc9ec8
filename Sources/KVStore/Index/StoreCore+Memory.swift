// Getting slots: reserve, pin, load, commit, and the evictions they force.

/// A block whose slot the holder has pinned.
package struct PinnedBlock: Sendable {
    let entry: EntryID
    let slot: SlotID
    // The pin keeps the memory where it is.
    let memory: SlotMemory
    /// Where the block was found.
    var tier: Tier

    package init(entry: EntryID, slot: SlotID, memory: SlotMemory, tier: Tier) {
        self.entry = entry
        self.slot = slot
        self.memory = memory
        self.tier = tier
    }
}

/// Why a walk along a prefix ended.
enum PrefixStop {
    case end
    case absent
    case inProgress
    case noSlot
    /// Somebody else reads this block from disk right now.
    case loading(Flight)
    /// A region must be mapped first (outside the lock); then the walk goes on.
    case needsRegion(SlotTable.RegionPlan)
}

/// What asking for a slot came to.
enum SlotGrant {
    case slot(SlotID)
    case needsRegion(SlotTable.RegionPlan)
    case none
}

extension StoreCore {
    // MARK: Lookup

    /// Leading blocks of `keys` that are present, without pinning or touching anything.
    func countPresent(_ keys: [BlockKey], namespace: UInt16, visit: (Tier) -> Void) -> Int {
        var last = EntryID.none
        for (position, key) in keys.enumerated() {
            guard let id = entries.find(key, after: last), entries[id].namespace == namespace, entries[id].isPresent
            else { return position }
            visit(entries[id].residence == .resident ? .memory : .disk)
            last = id
        }
        return keys.count
    }

    /// Pins the leading blocks of `prefix` from `blocks.count` on. Blocks that are only on disk get a slot and a claim:
    /// the caller must read them and then call `finishLoads`.
    ///
    /// - Parameter fromDisk: whether to claim blocks that are only on disk, or to stop there.
    mutating func pinRun(
        _ prefix: Prefix,
        blocks: inout [PinnedBlock],
        claims: inout [LoadClaim],
        fromDisk: Bool,
        flight: inout Flight?
    ) -> PrefixStop {
        requireOwn(prefix.namespace)
        let space = namespaces[Int(prefix.namespace.index)]
        // A block that somebody has pinned already counts once for all who do.
        var room = slots.leaseRoom(ofTenant: space.tenant)
        while blocks.count < prefix.keys.count {
            // The last entry is only a hint: it may have gone while a region was mapped.
            guard let id = entries.find(prefix.keys[blocks.count], after: blocks.last?.entry ?? .none),
                entries[id].namespace == prefix.namespace.index
            else { return .absent }
            if room != .max, entries[id].slot == .none || slots[entries[id].slot].pins == 0 {
                guard room >= space.slotByteCount else { return .noSlot }
                room -= space.slotByteCount
            }
            switch entries[id].residence {
            case .reserved: return .inProgress
            case .loading: return flights[id].map { .loading($0) } ?? .inProgress
            case .resident: pinFound(id, tier: .memory, blocks: &blocks)
            case .spilling:
                takeBack(id)
                pinFound(id, tier: .disk, blocks: &blocks)
            case .none:
                guard fromDisk else { return .absent }
                // Marked first, so that making room cannot choose this very block.
                entries[id].residence = .loading
                switch takeSlot(namespace: prefix.namespace.index, for: id) {
                case .slot(let slot):
                    let shared = flight ?? Flight()
                    flight = shared
                    flights[id] = shared
                    countInMemory(slot, entries[id].namespace, by: 1)
                    claims.append(LoadClaim(entries[id], position: blocks.count))
                    pinFound(id, tier: .disk, blocks: &blocks)
                case .needsRegion(let plan):
                    entries[id].residence = .none
                    return .needsRegion(plan)
                case .none:
                    if entries[id].key == prefix.keys[blocks.count] { entries[id].residence = .none }
                    return .noSlot
                }
            }
        }
        return .end
    }

    @inline(__always)
    private mutating func pinFound(_ id: EntryID, tier: Tier, blocks: inout [PinnedBlock]) {
        let slot = entries[id].slot
        pin(slot)
        if entries[id].uses < .max { entries[id].uses += 1 }
        blocks.append(PinnedBlock(entry: id, slot: slot, memory: slots.memory(of: slot), tier: tier))
    }

    /// A spilling block is wanted again: the memory tier counts it once more. It stays queued for the disk.
    private mutating func takeBack(_ id: EntryID) {
        let slot = entries[id].slot
        entries[id].residence = .resident
        disk.spillingCount -= 1
        slots.policy(of: slot).insert(slot, tick: nextTick())
        countInMemory(slot, entries[id].namespace, by: 1)
    }

    /// Evicts until the memory tier counts no more than it may: blocks taken back from the spill buffer came on top.
    mutating func trimToLimit(namespace: UInt16) {
        guard let classIndex = classIndex(ofNamespace: namespace) else { return }
        while isOverLimit(classIndex), evictColdest(classIndex) {}
    }

    /// Makes loaded blocks visible. Returns how many leading blocks of the run are good; the pins of the others are
    /// ended here.
    mutating func finishLoads(_ claims: [LoadClaim], blocks: inout [PinnedBlock]) -> Int {
        var good = blocks.count
        let tick = nextTick()
        for claim in claims {
            let block = blocks[claim.position]
            // Dropped meanwhile, the block is nobody's: only our pin keeps its slot.
            let stillThere = slots[block.slot].entry == block.entry
            if stillThere { flights[block.entry] = nil }
            guard case .loaded(let digest) = claim.outcome else {
                good = min(good, claim.position)
                if claim.outcome == .damaged { counters.corruptBlocks += 1 }
                if stillThere { failLoad(claim, block) }
                continue
            }
            guard stillThere else {
                good = min(good, claim.position)
                continue
            }
            slots[block.slot].digest = digest
            entries[block.entry].residence = .resident
            slots.policy(of: block.slot).insert(block.slot, tick: tick)
            counters.promotedBlocks += 1
            counters.promotedRawBytes += namespaces[Int(entries[block.entry].namespace)].blockByteCount
        }
        for block in blocks[good...] { unpin(block.slot) }
        blocks.removeSubrange(good...)
        return good
    }

    /// A read failed. Damage drops the block and what builds on it; so does a record that is gone, unless the block moved
    /// to another segment meanwhile. A disk that cannot be read right now only costs the hit.
    private mutating func failLoad(_ claim: LoadClaim, _ block: PinnedBlock) {
        let entry = entries[block.entry]
        let hasMoved = entry.segment != claim.segment || entry.ordinal != claim.ordinal
        if claim.outcome == .damaged || !entry.isOnDisk || (claim.outcome == .gone && !hasMoved) {
            _ = drop(block.entry)
            return
        }
        countInMemory(block.slot, entry.namespace, by: -1)
        entries[block.entry].residence = .none
        entries[block.entry].slot = .none
        slots[block.slot].entry = .none
    }

    // MARK: Reserve and commit

    /// Goes on along `prefix` from `position`, giving a slot to every block that is missing. Stops at the first that
    /// gets none: what comes after it could never be found.
    mutating func reserveRun(
        _ prefix: Prefix,
        position: inout Int,
        parent: inout EntryID,
        blocks: inout [ReservedBlock],
        nowSeconds: UInt32
    ) -> PrefixStop {
        requireOwn(prefix.namespace)
        clock.note(tick: tick, seconds: nowSeconds)
        // While a region was mapped outside the lock, the parent may have gone and its number to another block.
        if position > 0, entries.find(prefix.keys[position - 1]) != parent { return .absent }
        while position < prefix.keys.count {
            let key = prefix.keys[position]
            var id = entries.find(key)
            if let found = id, entries[found].namespace != prefix.namespace.index { return .absent }
            if let found = id, entries[found].residence == .reserved, isExpired(entries[found].slot, nowSeconds) {
                revokeReservation(found)
                id = found
            } else if let found = id {
                parent = found
                position += 1
                continue
            }
            guard let entry = id ?? addEntry(key, parent: parent, namespace: prefix.namespace.index) else {
                return .noSlot
            }
            // Marked first, so that making room passes it by.
            entries[entry].residence = .reserved
            switch takeSlot(namespace: prefix.namespace.index, for: entry) {
            case .slot(let slot):
                countInMemory(slot, prefix.namespace.index, by: 1)
                pin(slot)
                slots[slot].digest = UInt64(nowSeconds)
                blocks.append(
                    ReservedBlock(
                        key: key,
                        entry: entry,
                        slot: slot,
                        memory: slots.memory(of: slot),
                        position: position
                    )
                )
                parent = entry
                position += 1
            case .needsRegion(let plan):
                if entries[entry].key == key { _ = drop(entry) }
                return .needsRegion(plan)
            case .none:
                if entries[entry].key == key { _ = drop(entry) }
                return .noSlot
            }
        }
        return .end
    }

    /// Reservations expire after 10 s: the key may then be reserved by somebody else. The slot stays with its holder.
    /// (While a block is reserved, its slot's digest field holds the second it was reserved in.)
    private func isExpired(_ slot: SlotID, _ nowSeconds: UInt32) -> Bool {
        UInt64(nowSeconds) > slots[slot].digest + 10
    }

    private mutating func revokeReservation(_ id: EntryID) {
        let slot = entries[id].slot
        countInMemory(slot, entries[id].namespace, by: -1)
        slots[slot].entry = .none
        entries[id].slot = .none
        entries[id].residence = .none
    }

    /// Makes reserved blocks visible, from the head. Ends the reservation's pins. Returns how many became visible.
    mutating func commit(_ blocks: [ReservedBlock], digests: [UInt64], nowSeconds: UInt32) -> Int {
        clock.note(tick: tick, seconds: nowSeconds)
        let tick = nextTick()
        var visible = 0
        var last = EntryID.none
        for (block, digest) in zip(blocks, digests) {
            let ours =
                slots[block.slot].entry == block.entry && entries[block.entry].key == block.key
                && entries[block.entry].residence == .reserved
            if ours {
                entries[block.entry].residence = .resident
                slots[block.slot].digest = digest
                slots.policy(of: block.slot).insert(block.slot, tick: tick)
                counters.committedBlocks += 1
                noteUnwritten(entries[block.entry].namespace, by: 1)
                visible += 1
                last = block.entry
                disk.noteDirty(block.entry, nowSeconds: nowSeconds)
            } else {
                discard(block, digest: digest)
            }
        }
        // A fresh tick: the inserts above ran head to tail, the chain must end up tail to head.
        let newest = nextTick()
        if last != .none { touchChain(from: last, tick: newest, onDisk: false) }
        if configuration.disk?.writeThrough == true {
            for block in blocks where slots[block.slot].entry == block.entry { _ = enqueue(block.entry, tick: newest) }
        }
        // Last, for the end of a pin in a draining region evicts: the chain must be in order by then.
        for block in blocks { unpin(block.slot) }
        return visible
    }

    /// The reservation had expired, or a parent was removed. If somebody else committed the key meanwhile, the first
    /// commit stays, and other bytes are worth counting: the same prefix computed twice may differ in low bits.
    private mutating func discard(_ block: ReservedBlock, digest: UInt64) {
        counters.discardedCommits += 1
        guard let other = entries.find(block.key) else { return }
        let entry = entries[other]
        if entry.residence == .resident || entry.residence == .spilling, slots[entry.slot].digest != digest {
            counters.divergentCommits += 1
        }
    }

    /// Gives reserved blocks back, last first.
    mutating func abandon(_ blocks: [ReservedBlock]) {
        for block in blocks.reversed() {
            if slots[block.slot].entry == block.entry, entries[block.entry].residence == .reserved {
                _ = drop(block.entry)
            }
            unpin(block.slot)
            counters.abandonedBlocks += 1
        }
    }

    // MARK: Slots

    /// A slot for `entry`, evicting if the tier's limit demands it. Never waits for the disk.
    ///
    /// Making room can drop whole subtrees. If that ever takes the parent of `entry`, the entry goes with it, and there
    /// is nothing left to give a slot to: none is granted.
    mutating func takeSlot(namespace: UInt16, for entry: EntryID) -> SlotGrant {
        let key = entries[entry].key
        guard let classIndex = classIndex(ofNamespace: namespace) else { return .none }
        shrinkToQuota(classIndex)
        if !hasRoom(classIndex), slots.classes.count > 1 { takeFromColderClass(for: classIndex) }
        while !hasRoom(classIndex) {
            guard evictColdest(classIndex) else { return .none }
        }
        if let slot = takeFree(classIndex, for: entry, key: key) { return .slot(slot) }
        if let plan = planRegion(classIndex) { return .needsRegion(plan) }
        // Every slot of the class is taken, maybe by blocks that wait for the disk or are in use.
        takeFromColderClass(for: classIndex)
        if let plan = planRegion(classIndex) { return .needsRegion(plan) }
        if dropColdestSpilling(classIndex) || evictColdest(classIndex),
            let slot = takeFree(classIndex, for: entry, key: key)
        {
            return .slot(slot)
        }
        takeFromOtherClass(for: classIndex)
        if let plan = planRegion(classIndex) { return .needsRegion(plan) }
        return .none
    }

    /// One more region for the class, if the cap leaves room beside everything else.
    mutating func planRegion(_ classIndex: Int) -> SlotTable.RegionPlan? {
        slots.planRegion(classIndex, otherBytes: memoryBytes - slots.regionBytes + metadataHeadroomBytes)
    }

    mutating func takeFree(_ classIndex: Int, for entry: EntryID, key: BlockKey) -> SlotID? {
        guard entries[entry].key == key, entries[entry].slot == .none else { return nil }
        guard slots.classes[classIndex].policy.grow(toCount: slots.slotIDCount) else { return nil }
        guard let slot = slots.takeFree(classIndex, for: entry) else { return nil }
        entries[entry].slot = slot
        noteUse(ofClass: classIndex)
        return slot
    }

    private var occupiedCount: Int { slots.classes.reduce(0) { $0 + $1.occupiedCount } }

    private func isOverLimit(_ classIndex: Int) -> Bool {
        if let limit = configuration.memoryBlockLimit { return occupiedCount > limit }
        let slotClass = slots.classes[classIndex]
        return disk.accepts && slotClass.occupiedCount > slotClass.slotCount - spillShare(slotClass)
            && !hasRoom(classIndex)
    }

    /// Whether the memory tier may count one more block of this class without giving one up.
    func hasRoom(_ classIndex: Int) -> Bool {
        let slotClass = slots.classes[classIndex]
        if let limit = configuration.memoryBlockLimit { return occupiedCount < limit }
        // Without a disk, or while the cap still allows a region, only the slots themselves are the limit.
        guard disk.accepts else { return true }
        let oneSlot = Region.byteCount(slotByteCount: slotClass.slotByteCount, slotCount: 1)
        let room = configuration.memoryCapacityBytes - memoryBytes - metadataHeadroomBytes
        if min(room, slots.quotaRoom(classIndex)) >= oneSlot { return true }
        return slotClass.occupiedCount < slotClass.slotCount - spillShare(slotClass)
    }

    /// The spill buffer: an eighth of a class's slots hold blocks that were evicted and wait for the disk.
    private func spillShare(_ slotClass: SlotClass) -> Int {
        slotClass.slotCount < 2 ? 0 : max(1, slotClass.slotCount / 8)
    }

    /// Evicts the coldest block that may go. False when everything is in use.
    private mutating func evictColdest(_ classIndex: Int) -> Bool {
        let policy = slots.classes[classIndex].policy
        // A closure cannot borrow self, so the walk asks through a plain loop in `coldestEvictable`.
        guard let slot = coldestEvictable(policy) else { return false }
        evict(slots[slot].entry, tick: nextTick())
        return true
    }

    private func coldestEvictable(_ policy: any EvictionPolicy) -> SlotID? {
        policy.victim { slot in
            guard slots[slot].pins == 0 else { return false }
            let entry = entries[slots[slot].entry]
            // What is on disk can be forgotten and what can be queued can wait there; all else must be a leaf.
            return entry.isOnDisk || entry.firstChild == .none || canQueue(entry)
        }
    }

    /// The memory tier gives up a resident, unpinned block.
    mutating func evict(_ id: EntryID, tick: UInt32) {
        counters.memoryEvictedBlocks += 1
        let slot = entries[id].slot
        if let age = clock.age(ofTick: slots.policy(of: slot).tick(of: slot)) {
            counters.memoryEvictionAge.record(age)
        }
        if entries[id].isOnDisk {
            slots.policy(of: slot).remove(slot)
            countInMemory(slot, entries[id].namespace, by: -1)
            entries[id].residence = .none
            entries[id].slot = .none
            slots[slot].entry = .none
            freeSlot(slot)
            disk.touch(id, entries[id], tick: tick)
            touchAncestorsOnDisk(of: id, tick: tick)
            return
        }
        guard canQueue(entries[id]), enqueue(id, tick: tick) else {
            if configuration.disk != nil { counters.droppedBlocks += 1 }
            _ = drop(id)
            return
        }
        // `enqueue` may have made room in the disk tier, but never by dropping what it just queued.
        slots.policy(of: slot).remove(slot)
        countInMemory(slot, entries[id].namespace, by: -1)
        entries[id].residence = .spilling
        disk.spillingCount += 1
    }

    /// With the spill buffer full, the block that has waited longest and has nothing built on it is given up.
    private mutating func dropColdestSpilling(_ classIndex: Int) -> Bool {
        guard disk.spillingCount > 0 else { return false }
        for id in disk.queue.prefix(256) {
            let entry = entries[id]
            guard entry.isQueued, !entry.isWriting, entry.residence == .spilling, entry.firstChild == .none,
                slots[entry.slot].pins == 0, slots.classIndex(of: entry.slot) == classIndex
            else { continue }
            counters.droppedBlocks += 1
            _ = drop(id)
            return true
        }
        return false
    }

    // MARK: Ahead of need

    /// Somebody will want slots for blocks of this namespace.
    mutating func noteUse(ofNamespace index: UInt16) {
        guard configuration.memoryAheadBytes > 0, let classIndex = classIndex(ofNamespace: index) else { return }
        noteUse(ofClass: classIndex)
    }

    /// Somebody will want slots of this class.
    mutating func noteUse(ofClass classIndex: Int) {
        guard configuration.memoryAheadBytes > 0 else { return }
        latestClass = classIndex
        wantsRegionAhead = classWithoutReserve != nil
    }

    /// A region to map before it is needed. Only while a quarter of the cap is free: what one class has ahead is then
    /// never what another lacks.
    mutating func planRegionAhead() -> SlotTable.RegionPlan? { classWithoutReserve.flatMap { planRegion($0) } }

    private var classWithoutReserve: Int? {
        guard !isClosed, let classIndex = latestClass else { return nil }
        let byteCount = slots.classes[classIndex].slotByteCount * slots.slotsPerRegion(classIndex)
        guard slots.unusedBytes + byteCount <= configuration.memoryAheadBytes,
            memoryBytes + byteCount <= configuration.memoryCapacityBytes / 4 * 3,
            slots.quotaRoom(classIndex) / 2 >= byteCount
        else { return nil }
        return classIndex
    }

    // MARK: Between classes

    func largestClass(except classIndex: Int?) -> Int? {
        slots.classes.indices.filter { $0 != classIndex && slots.classes[$0].slotCount > 0 }
            .max { slots.classes[$0].regionBytes < slots.classes[$1].regionBytes }
    }

    /// As `takeFromOtherClass`, if the donor's coldest block is colder than our own: a tenant may use what others leave
    /// idle, but keeps an equal share from those who ask for more.
    private mutating func takeFromColderClass(for classIndex: Int) {
        guard let donor = donorClass(for: classIndex) else { return }
        let (own, others) = (slots.classes[classIndex].policy, slots.classes[donor].policy)
        if own.count == 0 || others.coldestTick < own.coldestTick { takeFromOtherClass(for: classIndex) }
    }

    /// Memory moves to a class that has less than the largest one, a region at a time.
    private mutating func takeFromOtherClass(for classIndex: Int) {
        guard let donor = donorClass(for: classIndex) else { return }
        let wanted = slots.classes[classIndex].slotByteCount * slots.slotsPerRegion(classIndex)
        guard slots.classes[donor].regionBytes > slots.classes[classIndex].regionBytes + wanted else { return }
        drainColdestRegion(of: donor)
    }

    /// A slot of the region to empty next: one that has a free slot, or the coldest block.
    func slotToDrain(_ classIndex: Int) -> SlotID? {
        let freeSlot = slots.classes[classIndex].freeHead
        if freeSlot != .none { return freeSlot }
        return slots.classes[classIndex].policy.victim { !slots.isDraining($0) }
    }

    /// Empties the region that holds the coldest block of a class; it is closed when its last slot is free.
    ///
    /// - Parameter alongsideOthers: also while another region of the class is being emptied.
    mutating func drainColdestRegion(of classIndex: Int, alongsideOthers: Bool = false) {
        guard alongsideOthers || !slots.hasDrainingRegion(classIndex), let start = slotToDrain(classIndex) else {
            return
        }
        let members = slots.slotIDs(inRegionOf: start)
        if let region = slots.drainRegion(of: start) {
            closedRegions.append(region)
            return
        }
        let tick = nextTick()
        for slot in members where !slots[slot].isFree && slots[slot].pins == 0 && slots[slot].entry != .none {
            if entries[slots[slot].entry].residence == .resident { evict(slots[slot].entry, tick: tick) }
        }
    }
}
