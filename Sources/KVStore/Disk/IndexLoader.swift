/// Loads the index of the disk tier into the core, while the store is being used already.
///
/// Rows come in no order; a block may only enter after its parent. So all rows are read first, sorted by chain, and then
/// brought in a slice at a time under the lock. Rows whose chain to a root is broken are forgotten: nothing could ever
/// reach them. About a hundred bytes a row are needed while this lasts.
struct IndexLoader {
    let core: CoreLock
    let log: SegmentLog

    /// Rows per turn under the lock: short enough for a lookup to wait for.
    private static let sliceCount = 256

    /// Returns the highest sequence found.
    mutating func load(stopping: () -> Bool) throws(KVStoreError) -> UInt64 {
        var rows: [IndexRow] = []
        try log.forEachRow { row in
            rows.append(row)
            return true
        }
        let (order, orphans, recency) = Self.arrange(rows)
        let segments = log.segments()
        var recordCounts: [UInt32: Int] = [:]
        for segment in segments { recordCounts[segment.id] = segment.recordCount }
        for row in rows { recordCounts[row.segment] = max(recordCounts[row.segment] ?? 0, Int(row.ordinal) + 1) }
        let namespaces = core.with { core -> [BlockKey: UInt16] in
            core.removeAllSegments()
            for segment in segments {
                core.disk.addSegment(
                    segment.id,
                    recordCount: recordCounts[segment.id] ?? 0,
                    byteCount: segment.fileByteCount
                )
            }
            return Self.registerNamespaces(rows, in: &core)
        }
        var unwanted = orphans.map { rows[$0].identity }
        var start = 0
        while start < order.count, !stopping() {
            let slice = order[start..<min(order.count, start + Self.sliceCount)]
            let refused = core.with { core -> [BlockIdentity] in
                let tick = core.nextTick()
                return slice.compactMap { index -> BlockIdentity? in
                    let row = rows[index]
                    guard let namespace = namespaces[row.fingerprint] else { return row.identity }
                    let isIn = core.restore(row, namespace: namespace, tick: tick)
                    let isKnown = core.entries.find(row.key).map { core.entries[$0].isOnDisk } ?? false
                    return isIn || isKnown ? nil : row.identity
                }
            }
            unwanted.append(contentsOf: refused)
            start += slice.count
        }
        sortByRecency(rows, order, recency)
        core.with { $0.disk.rowsToForget.append(contentsOf: unwanted) }
        return rows.reduce(0) { max($0, $1.sequence) }
    }

    private static func registerNamespaces(_ rows: [IndexRow], in core: inout StoreCore) -> [BlockKey: UInt16] {
        var known: [BlockKey: UInt16] = [:]
        for row in rows where known[row.fingerprint] == nil {
            known[row.fingerprint] = core.registerNamespace(
                fingerprint: row.fingerprint,
                tenant: row.tenant,
                blockByteCount: Int(row.rawByteCount),
                geometry: nil
            )
        }
        return known
    }

    /// Parents before children; rows that no root reaches; and for every row the sequence that its recency goes by: the
    /// highest of its own and its descendants', so that no parent is colder than a child.
    private static func arrange(_ rows: [IndexRow]) -> (order: [Int], orphans: [Int], recency: [UInt64]) {
        var byKey: [BlockKey: Int] = [:]
        byKey.reserveCapacity(rows.count)
        for (index, row) in rows.enumerated() { byKey[row.key] = index }
        var firstChild = [Int32](repeating: -1, count: rows.count)
        var nextSibling = [Int32](repeating: -1, count: rows.count)
        var order: [Int] = []
        order.reserveCapacity(rows.count)
        for (index, row) in rows.enumerated() {
            if row.parent == row.fingerprint {
                order.append(index)
            } else if let parent = byKey[row.parent] {
                nextSibling[index] = firstChild[parent]
                firstChild[parent] = Int32(index)
            }
        }
        var isReached = [Bool](repeating: false, count: rows.count)
        var position = 0
        while position < order.count {
            isReached[order[position]] = true
            var child = firstChild[order[position]]
            while child >= 0 {
                order.append(Int(child))
                child = nextSibling[Int(child)]
            }
            position += 1
        }
        var recency = rows.map(\.sequence)
        for index in order.reversed() {
            guard rows[index].parent != rows[index].fingerprint, let parent = byKey[rows[index].parent] else {
                continue
            }
            recency[parent] = max(recency[parent], recency[index])
        }
        let orphans = rows.indices.filter { !isReached[$0] }
        return (order, orphans, recency)
    }

    /// Puts the loaded blocks into the order they had: coldest first, children before their parents.
    private func sortByRecency(_ rows: [IndexRow], _ chains: [Int], _ recency: [UInt64]) {
        // Equal recency means one chain: there the deeper block, which comes later in `chains`, is the colder.
        let places = chains.indices.sorted {
            let (first, second) = (recency[chains[$0]], recency[chains[$1]])
            return first != second ? first < second : $0 > $1
        }
        let order = places.map { chains[$0] }
        var start = 0
        while start < order.count {
            let slice = order[start..<min(order.count, start + Self.sliceCount)]
            core.with { core in
                for index in slice {
                    guard let id = core.entries.find(rows[index].key), core.entries[id].isOnDisk else { continue }
                    core.disk.touch(id, core.entries[id], tick: core.nextTick())
                }
            }
            start += slice.count
        }
    }
}
