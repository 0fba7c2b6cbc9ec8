internal import Glibc

/// Loads the index of the disk tier into the core, while the store is being used already.
///
/// Rows come in no order; a block may only enter after its parent. So all rows are read first, sorted by chain, and then
/// brought in a slice at a time under the lock. Rows whose chain to a root is broken are forgotten: nothing could ever
/// reach them. A row whose block (or an ancestor of it) is being stored again just now waits for the commit for a moment;
/// after that it stays on disk as it is, and the next start finds it. About a hundred bytes a row are needed while this
/// lasts.
struct IndexLoader {
    let core: CoreLock
    let log: SegmentLog
    /// Whether `index` is wanted after the load.
    var keepsIndex = false
    /// What was loaded.
    private(set) var index: LoadedIndex?

    /// Rows per turn under the lock: short enough for a lookup to wait for.
    private static let sliceCount = 256
    /// How often, 10 ms apart, rows are tried again whose blocks are reserved.
    private static let reservedTries = 100

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
        var (refused, waiting) = bringIn(order, rows, namespaces, stopping)
        for _ in 0..<Self.reservedTries where !waiting.isEmpty && !stopping() {
            usleep(10_000)
            let again = bringIn(waiting, rows, namespaces, stopping)
            refused += again.refused
            waiting = again.waiting
        }
        sortByRecency(rows, order, recency)
        try rememberRemovals(refused, rows)
        if keepsIndex { index = LoadedIndex(rows: rows, chains: order, recency: recency) }
        let unwanted = (orphans + refused).map { rows[$0].identity }
        core.with { $0.disk.rowsToForget.append(contentsOf: unwanted) }
        return rows.reduce(0) { max($0, $1.sequence) }
    }

    /// Rows refused because they, or what they build on, were removed while this ran: the caller of `remove` could not
    /// name descendants that nobody had read yet, so they are written down here. `refused` has parents first.
    private func rememberRemovals(_ refused: [Int], _ rows: [IndexRow]) throws(KVStoreError) {
        var removed = core.with { $0.disk.removedWhileWarming }
        guard !removed.isEmpty else { return }
        var identities: [BlockIdentity] = []
        for index in refused where removed.contains(rows[index].key) || removed.contains(rows[index].parent) {
            removed.insert(rows[index].key)
            identities.append(rows[index].identity)
        }
        if !identities.isEmpty { try log.remove(identities, includingOpenSegments: true) }
    }

    /// Restores rows, parents first. Returns those that have no place, and those that may have one once a reservation of
    /// their block or of one before it has ended.
    private func bringIn(
        _ order: [Int],
        _ rows: [IndexRow],
        _ namespaces: [BlockKey: UInt16],
        _ stopping: () -> Bool
    ) -> (refused: [Int], waiting: [Int]) {
        var (refused, waiting): ([Int], [Int]) = ([], [])
        var waitingKeys: Set<BlockKey> = []
        var start = 0
        while start < order.count, !stopping() {
            let slice = Array(order[start..<min(order.count, start + Self.sliceCount)])
            let (none, later) = core.with { [waitingKeys] core -> ([Int], [Int]) in
                let tick = core.nextTick()
                var (none, later): ([Int], [Int]) = ([], [])
                var blocked = waitingKeys
                for index in slice {
                    let row = rows[index]
                    if let namespace = namespaces[row.fingerprint], core.restore(row, namespace: namespace, tick: tick)
                    {
                        continue
                    }
                    let entry = core.entries.find(row.key).map { core.entries[$0] }
                    if entry?.isOnDisk == true { continue }
                    let isRemoved = core.disk.removedWhileWarming.contains(row.key)
                    if !isRemoved, entry?.residence == .reserved || blocked.contains(row.parent) {
                        later.append(index)
                        blocked.insert(row.key)
                    } else {
                        none.append(index)
                    }
                }
                return (none, later)
            }
            refused += none
            waiting += later
            for index in later { waitingKeys.insert(rows[index].key) }
            start += slice.count
        }
        return (refused, waiting)
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
    static func arrange(_ rows: [IndexRow]) -> (order: [Int], orphans: [Int], recency: [UInt64]) {
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
