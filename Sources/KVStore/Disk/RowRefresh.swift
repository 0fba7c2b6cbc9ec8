/// What a clean close writes into the index: how often and in which order blocks were used since their rows were written.
///
/// A row gets its uses and its sequence when its block is written, which is soon after it was stored. Without this, a
/// restart would know nothing of all the hits since: the heads that every request begins with would be the oldest blocks
/// of all. A kill loses these, and only these.
struct RowRefresh {
    let core: CoreLock
    let log: SegmentLog

    /// The hottest of the rows that are out of date, at most: about a second of writing.
    private static let rowLimit = 1 << 17
    private static let rowsPerBatch = 1024

    /// Writes the rows anew.
    ///
    /// - Parameter nextSequence: the first free sequence.
    /// - Returns: the first that is free afterwards.
    func run(from nextSequence: UInt64) throws(KVStoreError) -> UInt64 {
        var rows: [IndexRow] = []
        try log.forEachRow { row in
            rows.append(row)
            return true
        }
        let recency = ChainOrder(rows).recency
        var states = core.with { core in rows.indices.compactMap { core.rowState($0, rows[$0]) } }
        for index in states.indices { states[index].sequence = recency[states[index].row] }
        let changed = Self.outOfDate(states)
        var sequence = nextSequence
        for start in stride(from: 0, to: changed.count, by: Self.rowsPerBatch) {
            let batch = changed[start..<min(changed.count, start + Self.rowsPerBatch)].map { state in
                var row = rows[state.row]
                row.uses = state.uses
                row.sequence = sequence
                sequence += 1
                return row
            }
            try log.updateRows(batch)
        }
        return sequence
    }

    /// The part of the blocks, in the order of their last use, that begins with the first whose sequence does not fit
    /// there. A pure function, apart so that it can be tested.
    static func outOfDate(_ states: [RowState]) -> [RowState] {
        let order = states.sorted { $0.tick != $1.tick ? $0.tick < $1.tick : $0.sequence < $1.sequence }
        var first = order.startIndex
        var last: UInt64 = 0
        while first < order.endIndex, order[first].sequence >= last {
            last = order[first].sequence
            first += 1
        }
        return Array(order[max(first, order.endIndex - rowLimit)...])
    }
}

/// A row, and what the core knows of its block.
struct RowState: Hashable, Sendable {
    /// Number of the row in its list.
    var row: Int
    /// When the block was used last, in either tier.
    var tick: UInt32
    var uses: UInt32
    /// What the row says about that.
    var sequence: UInt64 = 0
}

extension StoreCore {
    /// Nil when the row is not that of a block on disk.
    fileprivate func rowState(_ number: Int, _ row: IndexRow) -> RowState? {
        guard let id = entries.find(row.key) else { return nil }
        let entry = entries[id]
        guard entry.segment == row.segment, UInt32(entry.ordinal) == row.ordinal else { return nil }
        var tick = disk.policy.tick(of: id)
        if entry.residence == .resident { tick = max(tick, slots.policy(of: entry.slot).tick(of: entry.slot)) }
        return RowState(row: number, tick: tick, uses: UInt32(entry.uses))
    }
}
