// What a scrub looks at next, and what follows from what it found. Decisions only; `Scrubber` reads and hashes.

/// A step of a scrub under the lock.
enum ScrubStep<Target: Sendable>: Sendable {
    case check(Target)
    /// Nothing to check up to the cursor; it moved on, and the lock was held long enough.
    case nothingYet
    /// There is nothing left before the end.
    case end
}

/// A block in memory, pinned.
struct ScrubBlock: Sendable {
    let block: PinnedBlock
    let byteCount: Int
}

/// A record on disk, and whose it must be.
struct ScrubRecord: Sendable {
    let entry: EntryID
    let position: RecordPosition
    let expected: ExpectedRecord
    let rawByteCount: Int
}

/// What became of a block that is not what was written.
enum ScrubVerdict: Sendable, Equatable {
    /// As it was written.
    case good
    /// The block left its place while it was read: nothing is known, and nothing has to be.
    case moved
    /// Damaged in one tier and good in the other, where it stays.
    case repaired
    /// Damaged, and gone with what was built on it.
    case dropped
}

extension StoreCore {
    /// Slots or records looked at in one turn under the lock, most of them free or dead.
    private static var scrubStride: Int { 256 }

    // MARK: Memory

    /// Pins the next block in memory at or after `cursor`. End its pin with `finishScrub(_:digest:)`.
    mutating func pinForScrub(from cursor: inout UInt64, end: UInt64) -> ScrubStep<ScrubBlock> {
        let limit = min(end, UInt64(slots.slotIDCount))
        let turnEnd = min(limit, cursor + UInt64(Self.scrubStride))
        while cursor < turnEnd {
            let slot = SlotID(cursor)
            cursor += 1
            let id = slots[slot].entry
            guard !slots[slot].isFree, id != .none else { continue }
            let entry = entries[id]
            // Elsewhere somebody is filling the slot.
            guard entry.residence == .resident || entry.residence == .spilling else { continue }
            pin(slot)
            let memory = slots.memory(of: slot)
            return .check(
                ScrubBlock(
                    block: PinnedBlock(entry: id, slot: slot, memory: memory, tier: .memory),
                    byteCount: namespaces[Int(entry.namespace)].blockByteCount
                )
            )
        }
        return cursor < limit ? .nothingYet : .end
    }

    /// Compares a block's digest with that of its commit and ends its pin. If they differ, the memory copy is forgotten
    /// when there is one on disk; otherwise the block is dropped with everything built on it.
    mutating func finishScrub(_ target: ScrubBlock, digest: UInt64) -> ScrubVerdict {
        let verdict = judge(target, digest: digest)
        // First judged, then unpinned: the last pin frees the slot of a block that is gone.
        unpin(target.block.slot)
        counters.memoryScrub.note(verdict, byteCount: target.byteCount)
        if verdict != .good, verdict != .moved { counters.corruptBlocks += 1 }
        return verdict
    }

    private mutating func judge(_ target: ScrubBlock, digest: UInt64) -> ScrubVerdict {
        let (id, slot) = (target.block.entry, target.block.slot)
        // Under our pin the slot was given to nobody else; its block may have left it.
        guard slots[slot].entry == id else { return .moved }
        if slots[slot].digest == digest { return .good }
        if entries[id].residence == .resident, entries[id].isOnDisk {
            forgetMemoryCopy(id)
            return .repaired
        }
        _ = drop(id)
        return .dropped
    }

    /// The block is on disk only from now on. Whoever has a pin on its slot keeps that; the last one frees it.
    private mutating func forgetMemoryCopy(_ id: EntryID) {
        let slot = entries[id].slot
        slots.policy(of: slot).remove(slot)
        countInMemory(slot, entries[id].namespace, by: -1)
        slots[slot].entry = .none
        entries[id].slot = .none
        entries[id].residence = .none
        // As with an eviction: the disk's order learns of the uses that only memory's knew.
        let tick = nextTick()
        disk.touch(id, entries[id], tick: tick)
        touchAncestorsOnDisk(of: id, tick: tick)
    }

    // MARK: Disk

    /// The next live record at or after `cursor`.
    func recordForScrub(from cursor: inout UInt64, end: UInt64) -> ScrubStep<ScrubRecord> {
        guard cursor < end else { return .end }
        var position = RecordPosition(scrubCursor: cursor)
        guard let segment = disk.segments[position.segment] else {
            guard let next = disk.segments.keys.lazy.filter({ $0 > position.segment }).min() else { return .end }
            cursor = RecordPosition(segment: next, ordinal: 0).scrubCursor
            return cursor < end ? .nothingYet : .end
        }
        let start = Int(position.ordinal)
        let turnEnd = min(segment.records.count, start + Self.scrubStride)
        for ordinal in start..<max(start, turnEnd) where segment.records[ordinal] != .none {
            position.ordinal = UInt32(ordinal)
            cursor = position.scrubCursor + 1
            return .check(scrubRecord(segment.records[ordinal], at: position))
        }
        // A segment has fewer than 2^16 records, so the cursor never runs into the next segment's numbers.
        cursor =
            turnEnd < segment.records.count
            ? RecordPosition(segment: position.segment, ordinal: UInt32(turnEnd)).scrubCursor
            : (UInt64(position.segment) + 1) << 32
        return .nothingYet
    }

    private func scrubRecord(_ id: EntryID, at position: RecordPosition) -> ScrubRecord {
        let entry = entries[id]
        let namespace = namespaces[Int(entry.namespace)]
        return ScrubRecord(
            entry: id,
            position: position,
            expected: ExpectedRecord(
                key: entry.key,
                parent: entry.parent == .none ? namespace.fingerprint : entries[entry.parent].key,
                fingerprint: namespace.fingerprint
            ),
            rawByteCount: namespace.blockByteCount
        )
    }

    /// The end of a pass over everything that is on disk now.
    var diskScrubEnd: UInt64 { disk.segments.keys.max().map { (UInt64($0) + 1) << 32 } ?? 0 }

    /// A record is not what was written. If the block is in memory too, that copy is pinned and to be checked first: call
    /// `finishRepair` then. Nil when the block is gone from this place, or has been dropped.
    mutating func pinForRepair(_ record: ScrubRecord, verdict: inout ScrubVerdict) -> ScrubBlock? {
        verdict = .moved
        guard isStill(record) else { return nil }
        let entry = entries[record.entry]
        switch entry.residence {
        case .resident where disk.accepts && namespaces[Int(entry.namespace)].geometry != nil:
            pin(entry.slot)
            let memory = slots.memory(of: entry.slot)
            return ScrubBlock(
                block: PinnedBlock(entry: record.entry, slot: entry.slot, memory: memory, tier: .memory),
                byteCount: record.rawByteCount
            )
        case .loading, .reserved, .spilling:
            // Somebody reads this very record and will find the same.
            return nil
        case .none, .resident:
            giveUp(record)
            verdict = .dropped
            return nil
        }
    }

    /// Ends the pin of `pinForRepair`. A good copy in memory is written to disk again; a bad one leaves nothing.
    mutating func finishRepair(_ record: ScrubRecord, _ copy: ScrubBlock, digest: UInt64) -> ScrubVerdict {
        defer { unpin(copy.block.slot) }
        guard isStill(record), slots[copy.block.slot].entry == record.entry else { return .moved }
        if slots[copy.block.slot].digest == digest {
            requeue(record.entry)
            return .repaired
        }
        counters.memoryScrub.note(.dropped, byteCount: copy.byteCount)
        _ = drop(record.entry)
        return .dropped
    }

    /// Books what came of a record.
    mutating func countScrubbed(_ verdict: ScrubVerdict, recordByteCount: Int) {
        counters.diskScrub.note(verdict, byteCount: recordByteCount)
        if verdict == .repaired || verdict == .dropped { counters.corruptBlocks += 1 }
    }

    private func isStill(_ record: ScrubRecord) -> Bool {
        let entry = entries[record.entry]
        return entry.key == record.expected.key && entry.segment == record.position.segment
            && UInt32(entry.ordinal) == record.position.ordinal
    }

    /// The disk copy goes, with those that build on it: a block in memory that cannot be written again stays there.
    private mutating func giveUp(_ record: ScrubRecord) {
        if entries[record.entry].residence == .resident {
            dropDiskCopies(record.entry)
        } else {
            _ = drop(record.entry)
        }
    }

    /// Queues a block that is on disk to be written once more. It stays a member of the disk tier, so nothing that builds
    /// on it has to go, and its row stays until the new one replaces it: it names a record that no reader accepts.
    private mutating func requeue(_ id: EntryID) {
        let entry = entries[id]
        disk.recordDied(segment: entry.segment, ordinal: entry.ordinal, tick: disk.policy.tick(of: id))
        tenants[namespaces[Int(entry.namespace)].tenantIndex].diskBytes -= diskCharge(of: entry)
        entries[id].segment = .none
        entries[id].isQueued = true
        tenants[namespaces[Int(entry.namespace)].tenantIndex].diskBytes += diskCharge(of: entries[id])
        noteUnwritten(entry.namespace, by: 1)
        disk.queuedBlocks += 1
        disk.queuedBytes += namespaces[Int(entry.namespace)].blockByteCount
        // Behind those of its ancestors that wait too (they were damaged as well), before everything that builds on it.
        var ancestors: Set<EntryID> = []
        var parent = entry.parent
        while parent != .none {
            if entries[parent].isQueued { ancestors.insert(parent) }
            parent = entries[parent].parent
        }
        let place = ancestors.isEmpty ? nil : disk.queue.lastIndex { ancestors.contains($0) }
        disk.queue.insert(id, at: place.map { $0 + 1 } ?? 0)
    }
}

extension RecordPosition {
    /// The position as one number, in the same order.
    var scrubCursor: UInt64 { UInt64(segment) << 32 | UInt64(ordinal) }

    init(scrubCursor: UInt64) {
        self.init(segment: UInt32(scrubCursor >> 32), ordinal: UInt32(truncatingIfNeeded: scrubCursor))
    }
}
