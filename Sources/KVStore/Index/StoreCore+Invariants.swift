// What must hold between any two turns under the store's lock. Tests ask after every few steps; nothing else does.

extension StoreCore {
    /// Everything that is wrong with the books, a sentence each; empty when nothing is. Touches every entry and slot.
    func checkInvariants() -> [String] {
        let live = liveEntries()
        var problems = checkTree(live)
        problems += checkSlots(live)
        problems += checkDiskTier(live)
        problems += checkQueue(live)
        problems += checkSegments(live)
        // While a run is being read, its blocks have their places but not yet their order.
        if flights.isEmpty { problems += checkMemoryOrder(live) }
        problems += checkDiskOrder(live)
        problems += checkTenants(live)
        if memoryBytes > configuration.memoryCapacityBytes {
            problems.append("\(memoryBytes) bytes of memory against a cap of \(configuration.memoryCapacityBytes)")
        }
        return problems
    }

    /// Ids in use. A free id has no key that the table would find.
    private func liveEntries() -> [EntryID] {
        (0..<EntryID(entries.highWater)).filter { entries.find(entries[$0].key) == $0 }
    }

    // MARK: Invariant 1

    private func checkTree(_ live: [EntryID]) -> [String] {
        var problems: [String] = []
        let isLive = Set(live)
        if live.count != entries.count { problems.append("\(live.count) entries are found, \(entries.count) counted") }
        var children: [EntryID: Int] = [:]
        for id in live where entries[id].parent != .none {
            let parent = entries[id].parent
            children[parent, default: 0] += 1
            if !isLive.contains(parent) {
                problems.append("entry \(id) has a parent \(parent) that is not in the table")
            } else if entries[parent].namespace != entries[id].namespace {
                problems.append("entry \(id) and its parent \(parent) are of different namespaces")
            }
        }
        for id in live {
            var (previous, child, linked) = (EntryID.none, entries[id].firstChild, 0)
            while child != .none, linked <= live.count {
                if entries[child].parent != id {
                    problems.append("entry \(id) links \(child), which has another parent")
                }
                if entries[child].previousSibling != previous {
                    problems.append("entry \(child) does not link back to its sibling \(previous)")
                }
                (previous, child, linked) = (child, entries[child].nextSibling, linked + 1)
            }
            if linked != children[id, default: 0] {
                problems.append("entry \(id) links \(linked) children and has \(children[id, default: 0])")
            }
        }
        return problems
    }

    // MARK: Invariant 3

    private func checkSlots(_ live: [EntryID]) -> [String] {
        var problems: [String] = []
        var occupied = [Int](repeating: 0, count: slots.classes.count)
        for id in live {
            let entry = entries[id]
            if (entry.slot == .none) != (entry.residence == .none) {
                problems.append("entry \(id) is \(entry.residence) with slot \(entry.slot)")
            }
            if (entry.residence == .loading) != (flights[id] != nil) {
                problems.append(
                    "entry \(id) is \(entry.residence), a read of it is\(flights[id] == nil ? " not" : "") booked"
                )
            }
            guard entry.slot != .none else { continue }
            if slots[entry.slot].entry != id { problems.append("entry \(id)'s slot \(entry.slot) belongs to another") }
            if slots[entry.slot].isFree { problems.append("entry \(id)'s slot \(entry.slot) is free") }
            let classIndex = slots.classIndex(of: entry.slot)
            if namespaces[Int(entry.namespace)].classIndex != classIndex {
                problems.append("entry \(id)'s slot is of another class")
            }
            switch entry.residence {
            case .resident, .reserved, .loading: occupied[classIndex] += 1
            case .spilling, .none: break
            }
        }
        let members = Set(live)
        for (index, region) in slots.regions.enumerated() {
            guard let region else { continue }
            problems += checkRegion(region, number: index, live: members)
        }
        var pinned = [Int](repeating: 0, count: slots.classes.count)
        for id in 0..<SlotID(slots.slotIDCount) where slots[id].pins > 0 { pinned[slots.classIndex(of: id)] += 1 }
        for index in slots.classes.indices {
            if slots.classes[index].pinnedCount != pinned[index] {
                problems.append("class \(index): pinned \(pinned[index]), counted \(slots.classes[index].pinnedCount)")
            }
            if slots.classes[index].occupiedCount != occupied[index] {
                problems.append(
                    "class \(index) counts \(slots.classes[index].occupiedCount) blocks, \(occupied[index]) are"
                )
            }
            problems += checkClass(index)
        }
        return problems
    }

    private func checkRegion(_ state: SlotTable.RegionState, number: Int, live: Set<EntryID>) -> [String] {
        var problems: [String] = []
        var used = 0
        for (place, id) in state.slotIDs.enumerated() {
            let slot = slots[id]
            if Int(slot.region) != number || Int(slot.indexInRegion) != place {
                problems.append("slot \(id) does not know its place \(place) in region \(number)")
            }
            if slot.isFree {
                if slot.pins != 0 || slot.entry != .none { problems.append("slot \(id) is free, and pinned or owned") }
                continue
            }
            used += 1
            if slot.entry == .none {
                if slot.pins == 0 { problems.append("slot \(id) is neither free nor held by anybody") }
            } else if !live.contains(slot.entry) || entries[slot.entry].slot != id {
                problems.append("slot \(id) names entry \(slot.entry), which does not name it")
            }
        }
        if used != state.usedSlots {
            problems.append("region \(number) counts \(state.usedSlots) used slots, \(used) are")
        }
        if used == 0, state.isDraining { problems.append("region \(number) is drained and still there") }
        return problems
    }

    private func checkClass(_ index: Int) -> [String] {
        var problems: [String] = []
        let slotClass = slots.classes[index]
        var (regionBytes, slotCount, free) = (0, 0, 0)
        for case let state? in slots.regions where state.classIndex == index {
            regionBytes += state.region.byteCount
            slotCount += state.slotIDs.count
            if !state.isDraining { free += state.slotIDs.count - state.usedSlots }
        }
        if regionBytes != slotClass.regionBytes { problems.append("class \(index) has wrong region bytes") }
        if slotCount != slotClass.slotCount { problems.append("class \(index) has a wrong slot count") }
        var (linked, head) = (0, slotClass.freeHead)
        while head != .none, linked <= slotCount {
            if !slots[head].isFree || slots.isDraining(head) || slots.classIndex(of: head) != index {
                problems.append("slot \(head) is in the free list of class \(index) and must not be")
            }
            (linked, head) = (linked + 1, slots[head].nextFree)
        }
        if linked != free || linked != slotClass.freeCount {
            problems.append("class \(index): \(free) slots are free, \(linked) linked, \(slotClass.freeCount) counted")
        }
        return problems
    }

    // MARK: Invariant 2

    private func checkDiskTier(_ live: [EntryID]) -> [String] {
        var problems: [String] = []
        var (spilling, queuedBlocks, queuedBytes, members) = (0, 0, 0, 0)
        for id in live {
            let entry = entries[id]
            if entry.residence == .spilling {
                spilling += 1
                if !entry.isQueued { problems.append("entry \(id) is spilling and nothing will write it") }
            }
            if entry.residence == .none || entry.residence == .loading, !entry.isOnDisk {
                problems.append("entry \(id) has its bytes nowhere")
            }
            if entry.isWriting, !entry.isQueued { problems.append("entry \(id) is being written and not queued") }
            if entry.isQueued, entry.isOnDisk { problems.append("entry \(id) is on disk and queued for it") }
            if entry.isInDiskTier != (disk.policy.tick(of: id) != 0) {
                problems.append("entry \(id)'s membership of the disk tier's order is wrong")
            }
            if entry.isQueued {
                queuedBlocks += 1
                queuedBytes += namespaces[Int(entry.namespace)].blockByteCount
            }
            guard entry.isInDiskTier else { continue }
            members += 1
            if entry.parent != .none, !entries[entry.parent].isInDiskTier {
                problems.append("entry \(id) is in the disk tier without its parent \(entry.parent)")
            }
        }
        if spilling != disk.spillingCount { problems.append("\(spilling) blocks spill, \(disk.spillingCount) counted") }
        if (queuedBlocks, queuedBytes) != (disk.queuedBlocks, disk.queuedBytes) {
            problems.append(
                "\(queuedBlocks) blocks of \(queuedBytes) bytes are queued, "
                    + "\(disk.queuedBlocks) of \(disk.queuedBytes) counted"
            )
        }
        if members != disk.policy.count {
            problems.append("the disk tier has \(members) blocks, \(disk.policy.count) counted")
        }
        return problems
    }

    /// Every queued block waits in the queue or is being written, its parent before it.
    private func checkQueue(_ live: [EntryID]) -> [String] {
        var problems: [String] = []
        var last: [EntryID: Int] = [:]
        for (position, id) in disk.queue.enumerated() { last[id] = position }
        for id in live where entries[id].isQueued && !entries[id].isWriting {
            guard let position = last[id] else {
                problems.append("entry \(id) is queued and not in the queue")
                continue
            }
            let parent = entries[id].parent
            guard parent != .none, entries[parent].isQueued, !entries[parent].isWriting else { continue }
            if let ahead = last[parent], ahead > position {
                problems.append("entry \(id) waits before its parent \(parent)")
            }
        }
        return problems
    }

    private func checkSegments(_ live: [EntryID]) -> [String] {
        var problems: [String] = []
        var (liveCounts, tickSums): ([UInt32: Int], [UInt32: UInt64]) = ([:], [:])
        for id in live where entries[id].isOnDisk {
            let entry = entries[id]
            liveCounts[entry.segment, default: 0] += 1
            tickSums[entry.segment, default: 0] += UInt64(disk.policy.tick(of: id))
            let records = disk.segments[entry.segment]?.records ?? []
            if Int(entry.ordinal) >= records.count || records[Int(entry.ordinal)] != id {
                problems.append(
                    "entry \(id)'s record \(entry.ordinal) of segment \(entry.segment) is not booked as its own"
                )
            }
        }
        for (number, segment) in disk.segments {
            let booked = segment.records.count { $0 != .none }
            if segment.liveCount != liveCounts[number, default: 0] || segment.liveCount != booked {
                problems.append(
                    "segment \(number) counts \(segment.liveCount) live records, lists \(booked), "
                        + "\(liveCounts[number, default: 0]) entries name it"
                )
            }
            if segment.tickSum != tickSums[number, default: 0] {
                problems.append("segment \(number) has a wrong tick sum")
            }
        }
        return problems
    }

    // MARK: Invariant 5

    /// What is counted of each namespace and tenant is what there is.
    private func checkTenants(_ live: [EntryID]) -> [String] {
        var problems: [String] = []
        var found = [NamespaceCounters](repeating: NamespaceCounters(), count: namespaces.count)
        var diskBytes = [Int](repeating: 0, count: tenants.count)
        for id in live {
            let entry = entries[id]
            let space = Int(entry.namespace)
            found[space].blocks += 1
            switch entry.residence {
            case .resident, .reserved, .loading: found[space].memoryBlocks += 1
            case .spilling, .none: break
            }
            if !entry.isOnDisk, entry.residence == .resident || entry.residence == .spilling {
                found[space].unwrittenBlocks += 1
            }
            guard entry.isInDiskTier else { continue }
            found[space].diskBlocks += 1
            diskBytes[namespaces[space].tenantIndex] += diskCharge(of: entry)
            if diskCharge(of: entry) == 0 { problems.append("entry \(id) is in the disk tier for nothing") }
        }
        for (number, (found, counted)) in zip(found, namespaceCounters).enumerated() {
            let (are, booked) = (
                [found.blocks, found.memoryBlocks, found.diskBlocks, found.unwrittenBlocks],
                [counted.blocks, counted.memoryBlocks, counted.diskBlocks, counted.unwrittenBlocks]
            )
            if are != booked {
                problems.append("namespace \(number): blocks, in memory, on disk, unwritten \(are), counted \(booked)")
            }
        }
        for (tenant, bytes) in zip(tenants, diskBytes) where tenant.diskBytes != bytes {
            problems.append("a tenant has \(bytes) bytes on disk, \(tenant.diskBytes) counted")
        }
        let leases = slots.classes.reduce(0) { $0 + $1.leaseCount }
        if leases != leaseCount { problems.append("\(leases) leases of classes, \(leaseCount) counted") }
        return problems
    }

    // MARK: Invariant 4

    private func checkMemoryOrder(_ live: [EntryID]) -> [String] {
        var problems: [String] = []
        for id in live where entries[id].residence == .resident {
            let slot = entries[id].slot
            let tick = slots.policy(of: slot).tick(of: slot)
            if tick == 0 { problems.append("entry \(id) is resident and not in its policy's order") }
            var parent = entries[id].parent
            while parent != .none, entries[parent].residence != .resident { parent = entries[parent].parent }
            guard parent != .none else { continue }
            let above = entries[parent].slot
            let tickAbove = slots.policy(of: above).tick(of: above)
            if tickAbove < tick {
                problems.append(
                    "entry \(id) is hotter in memory (\(tick)) than entry \(parent) above it (\(tickAbove))"
                )
            }
        }
        return problems
    }

    private func checkDiskOrder(_ live: [EntryID]) -> [String] {
        live.compactMap { id in
            let parent = entries[id].parent
            guard entries[id].isInDiskTier, parent != .none, entries[parent].isInDiskTier,
                disk.policy.tick(of: parent) < disk.policy.tick(of: id)
            else { return nil }
            return "entry \(id) is hotter on disk than its parent \(parent)"
        }
    }
}
