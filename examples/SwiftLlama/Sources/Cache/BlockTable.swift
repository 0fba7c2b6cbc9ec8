internal import KVStore

/// The blocks of one sequence, by number: first those under a lease, read in the store's memory, then the engine's own
/// pages. Attention sees no difference.
///
/// @unchecked Sendable: the engine changes it between passes; during a pass workers only read it.
final class BlockTable: @unchecked Sendable {
    /// A lease as a value that can be kept.
    final class Leased: Sendable {
        let lease: BlockLease
        init(_ lease: consuming BlockLease) { self.lease = lease }
    }

    private let pool: PagePool
    private(set) var leased: Leased?
    private var pages: [Page] = []

    init(pool: PagePool) { self.pool = pool }

    deinit { for page in pages { pool.give(page) } }

    /// Blocks under the lease.
    var leasedCount: Int { leased?.lease.count ?? 0 }
    /// Blocks that the table has room for.
    var count: Int { leasedCount + pages.count }

    /// Lends the bytes of a block, in place.
    func withBytes<Result>(at block: Int, _ body: (RawSpan) throws -> Result) rethrows -> Result {
        if let leased, block < leased.lease.count { return try leased.lease.withBytes(at: block, body) }
        return try pages[block - leasedCount].withBytes(body)
    }

    /// Lends the bytes of one of the engine's own pages. Blocks under a lease belong to all and are never written.
    func withMutableBytes<Result>(at block: Int, _ body: (inout MutableRawSpan) throws -> Result) rethrows -> Result {
        precondition(block >= leasedCount, "a block under a lease is not written")
        return try pages[block - leasedCount].withMutableBytes(body)
    }

    /// Adds pages until there are `count` blocks.
    func grow(to count: Int) {
        while self.count < count { pages.append(pool.take()) }
    }

    /// Reads the first blocks under `lease` from now on and gives back the pages that held the same.
    ///
    /// - Precondition: The lease covers no more blocks than the table has, unless it has no page.
    func adopt(_ lease: consuming BlockLease) {
        let before = leasedCount
        let leased = Leased(lease)
        guard leased.lease.count > before else { return }
        let replaced = min(leased.lease.count - before, pages.count)
        for page in pages.prefix(replaced) { pool.give(page) }
        pages.removeFirst(replaced)
        self.leased = leased
    }

    /// Whether everything read under the lease up to now was right. Only false with a daemon, after this process was
    /// stopped for longer than the lease time.
    var isCurrent: Bool { leased?.lease.isCurrent ?? true }

    /// Gives everything back.
    func clear() {
        for page in pages { pool.give(page) }
        pages.removeAll()
        leased = nil
    }
}
