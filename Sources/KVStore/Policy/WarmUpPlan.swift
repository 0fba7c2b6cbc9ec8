/// Which blocks on disk to read into memory first after a start. A pure function: no clock, no I/O.
///
/// The most used heads come first. Uses count in powers of two, so that of blocks used about as often the one used last
/// comes first, and of those the one nearer the root. A block counts as used as often and as lately as anything that
/// builds on it, so the order always has ancestors before children, and any leading part of it is whole prefixes.
enum WarmUpPlan {
    /// One block on disk.
    struct Candidate: Hashable, Sendable {
        /// Place of the parent in the list, before this one; nil for a root.
        var parent: Int?
        var uses: UInt32
        /// Greater is later.
        var recency: UInt64
        /// What it takes in memory.
        var byteCount: Int
    }

    /// The places of the blocks to read, in order: as many as fit into `budgetBytes`, up to the first that does not.
    ///
    /// - Parameter candidates: parents before children.
    /// - Complexity: O(n log n).
    static func order(_ candidates: [Candidate], budgetBytes: Int) -> [Int] {
        struct Rank {
            var place: Int
            var useClass: Int
            var recency: UInt64
            var depth: Int
        }
        var ranks = candidates.enumerated().map { place, candidate in
            Rank(
                place: place,
                useClass: UInt32.bitWidth - candidate.uses.leadingZeroBitCount,
                recency: candidate.recency,
                depth: 0
            )
        }
        for place in candidates.indices {
            guard let parent = candidates[place].parent else { continue }
            precondition(parent < place, "parents come before children")
            ranks[place].depth = ranks[parent].depth + 1
        }
        for place in candidates.indices.reversed() {
            guard let parent = candidates[place].parent else { continue }
            ranks[parent].useClass = max(ranks[parent].useClass, ranks[place].useClass)
            ranks[parent].recency = max(ranks[parent].recency, ranks[place].recency)
        }
        ranks.sort { first, second in
            if first.useClass != second.useClass { return first.useClass > second.useClass }
            if first.recency != second.recency { return first.recency > second.recency }
            if first.depth != second.depth { return first.depth < second.depth }
            return first.place < second.place
        }
        var chosen: [Int] = []
        var room = budgetBytes
        for rank in ranks {
            room -= candidates[rank.place].byteCount
            if room < 0 { break }
            chosen.append(rank.place)
        }
        return chosen
    }
}
