// Getting the space of segments back.
extension StoreCore {
    /// What to do to get a segment's space back.
    struct ReclaimPlan: Sendable {
        let segment: UInt32
        let byteCount: Int
        /// Records worth keeping; they go into the next segment before the old one is dropped.
        let carried: [SpillItem]
        var carriedBytes: Int
    }

    /// Picks the segment that is cheapest to lose, and the part of it that is worth carrying over: its hottest records, up
    /// to three in ten and up to `carryLimitBytes`. The others go, with what builds on them.
    ///
    /// Only what was used in the last two fifths of the time that the tier remembers is carried: a colder record would
    /// be copied and given up soon after. On both recorded traces that gains hits and saves writes, and so does a limit
    /// on the share: a segment carried over whole makes no room for anything new.
    mutating func planReclaim(excluding excluded: Set<UInt32>, carryLimitBytes: Int) -> ReclaimPlan? {
        guard let id = cheapestSegment(excluding: excluded), let segment = disk.segments[id] else { return nil }
        let live = segment.records.filter { $0 != .none }
        // A parent is worth at least as much as each of its children; of equals the earlier record is nearer the root.
        let ordered = live.map { (entry: $0, worth: worth(of: $0)) }.sorted {
            $0.worth != $1.worth ? $0.worth > $1.worth : entries[$0.entry].ordinal < entries[$1.entry].ordinal
        }.map(\.entry)
        // By each block's raw size, which its record can hardly exceed: records of a segment differ in size, and the room
        // for what is carried over is exact.
        let remembered = tick &- disk.policy.coldestTick
        let least = disk.policy.coldestTick &+ remembered / 5 * 3
        var carriedBytes = 0
        var limit = 0
        while limit < min(segment.records.count * 3 / 10, ordered.count) {
            let bytes = namespaces[Int(entries[ordered[limit]].namespace)].blockByteCount + 1024
            let isHot = disk.policy.tick(of: ordered[limit]) >= least
            guard isHot, carriedBytes + bytes <= carryLimitBytes else { break }
            carriedBytes += bytes
            limit += 1
        }
        let kept = Set(ordered.prefix(limit))
        for member in ordered.dropFirst(limit) {
            // A colder block may have gone already with an ancestor.
            if entries[member].segment == id { dropDiskCopies(member) }
        }
        let carriedIDs = chainOrder(kept.filter { entries[$0].segment == id }.sorted())
        let carried = carriedIDs.map { member in
            spillItem(entries[member], id: member, source: .segment(id, ordinal: entries[member].ordinal))
        }
        return ReclaimPlan(segment: id, byteCount: segment.byteCount, carried: carried, carriedBytes: carriedBytes)
    }

    /// What a block's record is worth keeping: how much later than the tier's coldest block it was used. Parents were
    /// used at least as late as their children, so worth never rises along a chain.
    private func worth(of id: EntryID) -> Double {
        Double(disk.policy.tick(of: id) &- disk.policy.coldestTick) + 1
    }

    /// The segment whose live records are worth least together. Dead records are worth nothing. The sums are kept with
    /// every touch, so this is one pass over the segments.
    private func cheapestSegment(excluding excluded: Set<UInt32>) -> UInt32? {
        let floor = UInt64(disk.policy.coldestTick)
        var best: (id: UInt32, cost: UInt64)?
        for (id, segment) in disk.segments where !excluded.contains(id) {
            // Every live record is at least as hot as the coldest; one more is never worth nothing.
            let cost = segment.tickSum - UInt64(segment.liveCount) * floor + UInt64(segment.liveCount)
            if best == nil || cost < best!.cost || (cost == best!.cost && id < best!.id) { best = (id, cost) }
        }
        return best?.id
    }

    /// The segment is gone from disk; whatever still names it is dropped.
    mutating func finishReclaim(_ segment: UInt32) {
        if let state = disk.segments[segment] {
            for id in state.records where id != .none && entries[id].segment == segment { dropDiskCopies(id) }
        }
        disk.removeSegment(segment)
        counters.segmentsDropped += 1
    }
}
