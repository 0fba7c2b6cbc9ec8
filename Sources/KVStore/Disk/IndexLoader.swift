internal import Glibc

/// Loads the index of the disk tier into the core, while the store is being used already.
///
/// Rows come in no order; a block may only enter after its parent. So all rows are read first, then brought in hottest
/// first, which has parents first too, a slice at a time under the lock. Rows whose chain to a root is broken are
/// forgotten: nothing could ever reach them. A row whose block (or an ancestor of it) is being stored again just now waits
/// for the commit for a moment; after that it stays on disk as it is, and the next start finds it. About two hundred bytes
/// a row are needed while this lasts.
struct IndexLoader {
    let core: CoreLock
    let log: SegmentLog
    /// Whether `index` is wanted after the load.
    var keepsIndex = false
    /// What was loaded.
    private(set) var index: LoadedIndex?

    /// Rows per turn under the lock: short enough for a lookup to wait for.
    private static let sliceCount = 512
    /// How often, 10 ms apart, rows are tried again whose blocks are reserved.
    private static let reservedTries = 100

    init(core: CoreLock, log: SegmentLog, keepsIndex: Bool = false) {
        self.core = core
        self.log = log
        self.keepsIndex = keepsIndex
    }

    /// Returns the highest sequence found.
    mutating func load(stopping: () -> Bool) throws(KVStoreError) -> UInt64 {
        let rows = try withoutDescendantsOfRemoved(try log.takeRows())
        let order = ChainOrder(rows)
        addSegments()
        makeRoom(forEntries: order.reached.count)
        let namespaces = registerNamespaces(rows)
        // All taken before any that a lookup takes from now on: whatever is used while this runs is hotter.
        let lastTick = core.with { $0.takeTicks(order.reached.count) }
        let restoring = Restoring(rows: rows, order: order.reached, namespaces: namespaces, lastTick: lastTick)
        var (refused, waiting) = bringIn(order.reached.indices, restoring, stopping)
        let waitedCount = waiting.count
        for _ in 0..<Self.reservedTries where !waiting.isEmpty && !stopping() {
            usleep(10_000)
            let again = bringIn(waiting, restoring, stopping)
            refused += again.refused
            waiting = again.waiting
        }
        if waiting.count < waitedCount { touchAll(restoring) }
        try removeDescendantsOfRemoved(order.orphans + refused + waiting.map { order.reached[$0] }, of: rows)
        if keepsIndex { index = LoadedIndex(rows: rows, chains: order.reached, recency: order.recency) }
        let unwanted = (order.orphans + refused).map { rows[$0].identity }
        core.with { $0.disk.rowsToForget.append(contentsOf: unwanted) }
        return rows.reduce(0) { max($0, $1.sequence) }
    }

    // MARK: Before. Each a turn of its own: together they would keep a lookup waiting.

    private func addSegments() {
        core.with { $0.disk.removeAllSegments() }
        for segment in log.segments() {
            core.with {
                $0.disk.addSegment(segment.id, recordCount: segment.recordCount, byteCount: segment.fileByteCount)
            }
        }
    }

    private func makeRoom(forEntries count: Int) {
        for shard in 0..<EntryTable.shardCount { core.with { $0.makeRoom(forEntries: count, shard: shard) } }
    }

    private func registerNamespaces(_ rows: [IndexRow]) -> [BlockKey: UInt16] {
        var known: [BlockKey: UInt16] = [:]
        var last: BlockKey?
        // The rows of a namespace lie together.
        for row in rows where row.fingerprint != last {
            last = row.fingerprint
            guard known[row.fingerprint] == nil else { continue }
            known[row.fingerprint] = core.with { core in
                core.registerNamespace(
                    fingerprint: row.fingerprint,
                    tenant: row.tenant,
                    blockByteCount: Int(row.rawByteCount),
                    geometry: nil
                )
            }
        }
        return known
    }

    // MARK: Bringing in

    /// What to bring in.
    private struct Restoring {
        let rows: [IndexRow]
        /// Numbers of rows, hottest first.
        let order: [Int]
        let namespaces: [BlockKey: UInt16]
        /// The tick of the first in the order; those after it have the ticks before.
        let lastTick: UInt32
    }

    /// Restores the rows at some places of the order. Returns the rows that have no place in the store, and the places of
    /// those that may have one once a reservation of their block or of one before it has ended.
    private func bringIn(
        _ places: some RandomAccessCollection<Int>,
        _ restoring: Restoring,
        _ stopping: () -> Bool
    ) -> (refused: [Int], waiting: [Int]) {
        var (refused, waiting): ([Int], [Int]) = ([], [])
        var blocked: Set<BlockKey> = []
        var previous = EntryID.none
        var rest = places[...]
        while !rest.isEmpty, !stopping() {
            let slice = rest.prefix(Self.sliceCount)
            rest = rest.dropFirst(Self.sliceCount)
            core.with { core in
                for place in slice {
                    let number = restoring.order[place]
                    let row = restoring.rows[number]
                    let tick = restoring.lastTick - UInt32(place)
                    if let namespace = restoring.namespaces[row.fingerprint],
                        let id = core.restore(row, namespace: namespace, tick: tick, after: previous)
                    {
                        previous = id
                        continue
                    }
                    let entry = core.entries.find(row.key).map { core.entries[$0] }
                    if entry?.isOnDisk == true { continue }
                    let isRemoved = core.disk.removedWhileWarming.contains(row.key)
                    if !isRemoved, entry?.residence == .reserved || blocked.contains(row.parent) {
                        waiting.append(place)
                        blocked.insert(row.key)
                    } else {
                        refused.append(number)
                    }
                }
            }
        }
        return (refused, waiting)
    }

    /// Puts all loaded blocks into their order once more, coldest first: rows that had to wait came in behind all others.
    /// This forgets what was used while the index loaded, but no chain is left with a parent colder than its child.
    private func touchAll(_ restoring: Restoring) {
        var rest = restoring.order[...]
        while !rest.isEmpty {
            let slice = rest.suffix(Self.sliceCount)
            rest = rest.dropLast(Self.sliceCount)
            core.with { core in
                for number in slice.reversed() {
                    guard let id = core.entries.find(restoring.rows[number].key), core.entries[id].isOnDisk else {
                        continue
                    }
                    core.disk.touch(id, core.entries[id], tick: core.nextTick())
                }
            }
        }
    }

    // MARK: What builds on removed blocks

    /// The rows without those that should have gone when a block before them was removed. Who removes a block while the
    /// index is being loaded cannot name descendants that nobody has read yet; a kill before they are written down here
    /// leaves them, and a repair brings back what was only forgotten. Stored again, their parent would bring them with it.
    private func withoutDescendantsOfRemoved(_ rows: [IndexRow]) throws(KVStoreError) -> [IndexRow] {
        let doomed = try removeDescendantsOfRemoved(rows.indices, of: rows)
        if doomed.isEmpty { return rows }
        return rows.indices.filter { !doomed.contains($0) }.map { rows[$0] }
    }

    /// Removes for good, of some rows, those whose parent was removed when they were there already, and all that builds on
    /// them among these rows. Returns their numbers.
    @discardableResult
    private func removeDescendantsOfRemoved(
        _ numbers: some Collection<Int>,
        of rows: [IndexRow]
    ) throws(KVStoreError) -> Set<Int> {
        if numbers.isEmpty { return [] }
        let removals = try log.removals()
        if removals.isEmpty { return [] }
        var found = numbers.filter { removals.coversParent(of: rows[$0]) }
        if found.isEmpty { return [] }
        var children: [BlockIdentity: [Int]] = [:]
        for number in numbers {
            children[rows[number].parentIdentity, default: []].append(number)
        }
        var doomed = Set(found)
        while let number = found.popLast() {
            for child in children[rows[number].identity] ?? [] where doomed.insert(child).inserted {
                found.append(child)
            }
        }
        try log.remove(doomed.map { rows[$0].identity }, includingOpenSegments: true)
        return doomed
    }
}
