// What a warm-up may read next, and how what it read is ordered. Decisions only; `WarmUp` reads.

/// What a warm-up got.
enum WarmUpGrant {
    /// Slots, pinned and booked as being loaded: read into them, then call `finishWarmUp`.
    case claims([LoadClaim], blocks: [PinnedBlock], flight: Flight)
    case needsRegion(SlotTable.RegionPlan)
    /// A lookup reads from disk now, which goes first.
    case busy
    /// Memory holds as much as a warm-up may fill, or there is nothing left to read.
    case finished
}

/// A block that was read by the warm-up, with the tick it got then: if it still has it, nobody has used it since.
struct WarmedBlock: Sendable {
    let key: BlockKey
    let tick: UInt32
}

extension StoreCore {
    /// One turn of reading: short enough for a lookup to wait for.
    private static var warmUpTurnBlocks: Int { 16 }
    private static var warmUpTurnBytes: Int { 4 << 20 }

    /// Claims the next blocks of a plan. `next` moves past blocks that need no reading, or have no parent in memory.
    /// Nothing is evicted for them: only free slots are used, up to `fraction` of the cap, whoever filled it.
    mutating func claimForWarmUp(_ keys: [BlockKey], next: inout Int, fraction: Double) -> WarmUpGrant {
        guard !isClosed else { return .finished }
        guard flights.isEmpty else { return .busy }
        var (claims, blocks, bytes) = ([LoadClaim](), [PinnedBlock](), 0)
        let flight = Flight()
        turn: while next < keys.count, claims.count < Self.warmUpTurnBlocks, bytes < Self.warmUpTurnBytes {
            guard let id = entries.find(keys[next]), isWorthReading(entries[id]) else {
                next += 1
                continue
            }
            switch takeFreeSlot(for: id, fraction: fraction) {
            case .slot(let slot):
                entries[id].residence = .loading
                flights[id] = flight
                countInMemory(slot, entries[id].namespace, by: 1)
                pin(slot)
                claims.append(LoadClaim(entries[id], position: blocks.count))
                blocks.append(PinnedBlock(entry: id, slot: slot, memory: slots.memory(of: slot), tier: .disk))
                bytes += namespaces[Int(entries[id].namespace)].blockByteCount
                next += 1
            case .needsRegion(let plan):
                if claims.isEmpty { return .needsRegion(plan) }
                slots.cancelRegion(plan)
                break turn
            case .none:
                break turn
            }
        }
        return claims.isEmpty ? .finished : .claims(claims, blocks: blocks, flight: flight)
    }

    private func isWorthReading(_ entry: Entry) -> Bool {
        guard entry.isOnDisk, entry.residence == .none else { return false }
        guard entry.parent != .none else { return true }
        switch entries[entry.parent].residence {
        case .resident, .loading, .spilling: return true
        // Given up or damaged: what builds on it would be read for nothing.
        case .none, .reserved: return false
        }
    }

    private mutating func takeFreeSlot(for id: EntryID, fraction: Double) -> SlotGrant {
        guard let classIndex = classIndex(ofNamespace: entries[id].namespace) else { return .none }
        let slotBytes = slots.classes[classIndex].slotByteCount
        let occupied = slots.classes.reduce(0) { $0 + $1.occupiedCount }
        let occupiedBytes = slots.classes.reduce(0) { $0 + $1.occupiedCount * $1.slotByteCount }
        guard Double(occupiedBytes + slotBytes) <= Double(configuration.memoryCapacityBytes) * fraction,
            Double(occupied + 1) <= Double(configuration.memoryBlockLimit ?? .max) * fraction, hasRoom(classIndex)
        else { return .none }
        if let slot = takeFree(classIndex, for: id, key: entries[id].key) { return .slot(slot) }
        return planRegion(classIndex).map { .needsRegion($0) } ?? .none
    }

    /// Makes what was read visible and ends its pins. Children end up colder than their parents, as after a lookup.
    mutating func finishWarmUp(_ claims: [LoadClaim], _ blocks: [PinnedBlock]) -> [WarmedBlock] {
        let promotedBefore = (counters.promotedBlocks, counters.promotedRawBytes)
        var good = blocks
        _ = finishLoads(claims, blocks: &good)
        counters.warmUp.blocks += counters.promotedBlocks - promotedBefore.0
        counters.warmUp.bytes += counters.promotedRawBytes - promotedBefore.1
        let loaded = zip(claims, blocks).filter { claim, block in
            // Under a pin of ours, or evicted since by nobody: we are still in the turn that made it resident.
            slots[block.slot].entry == block.entry && entries[block.entry].key == claim.key
                && entries[block.entry].residence == .resident
        }
        let parents = Set(loaded.map { entries[$0.1.entry].parent })
        for (_, block) in loaded where !parents.contains(block.entry) {
            touchChain(from: block.entry, tick: nextTick(), onDisk: false)
        }
        let warmed = loaded.map { claim, block in
            WarmedBlock(key: claim.key, tick: slots.policy(of: block.slot).tick(of: block.slot))
        }
        for block in good { unpin(block.slot) }
        return warmed
    }

    /// Orders chains by worth, best last: they were read best first, which left the best coldest. A chain whose end was
    /// used since has its place already.
    mutating func orderWarmed(_ chainEnds: some Sequence<WarmedBlock>) {
        for end in chainEnds {
            guard let id = entries.find(end.key), entries[id].residence == .resident else { continue }
            let slot = entries[id].slot
            guard slots.policy(of: slot).tick(of: slot) == end.tick else { continue }
            touchChain(from: id, tick: nextTick(), onDisk: false)
        }
    }
}
