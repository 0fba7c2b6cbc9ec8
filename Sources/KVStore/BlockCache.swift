/// What an engine needs of a cache of KV blocks, wherever it lives: a `BlockStore` in this process, or the daemon that
/// all engine processes of the node share (`RemoteBlockStore`). An engine switches by the line that makes it.
///
/// Every method may be called from any thread. None throws once a namespace is open: what cannot be had is a miss.
public protocol BlockCache: AnyObject, Sendable {
    /// Opens a namespace: the complete identity of one model instance and tenant.
    func namespace(_ identity: NamespaceIdentity) throws(KVStoreError) -> Namespace

    /// How many leading blocks of a prefix are stored, and where. Moves nothing, holds nothing.
    func match(_ prefix: Prefix) -> PrefixMatch

    /// Takes a lease on the leading blocks of a prefix that are stored; nil when the first block is a miss.
    ///
    /// - Parameter memoryOnly: stop before the first block that is only on disk.
    func acquire(_ prefix: Prefix, memoryOnly: Bool) -> BlockLease?

    /// As `acquire(_:memoryOnly:)`, without blocking a thread of Swift's cooperative pool.
    func acquire(_ prefix: Prefix) async -> BlockLease?

    /// Promotes what a coming request will need, in the background.
    func prefetch(_ prefix: Prefix)

    /// Asks for slots for the blocks of a prefix that are missing, head first; nil when there is nothing to store.
    func reserve(_ prefix: Prefix) -> BlockReservation?

    /// Removes blocks from number `first` on, and every block that builds on one of them, from every tier.
    @discardableResult func remove(_ prefix: Prefix, from first: Int) -> Int

    /// Writes everything that is only in memory to disk and waits for it.
    func flush() -> FlushResult

    /// A snapshot of every counter and level.
    var statistics: StoreStatistics { get }

    /// Ends the cache. Leases that are out stay readable; every later call is a miss.
    func close()
}

extension BlockCache {
    /// As `acquire(_:memoryOnly:)`, reading the disk where needed; the call waits for that.
    public func acquire(_ prefix: Prefix) -> BlockLease? { acquire(prefix, memoryOnly: false) }

    /// Removes every block of a prefix.
    @discardableResult
    public func remove(_ prefix: Prefix) -> Int { remove(prefix, from: 0) }

    /// Stores blocks that the caller has as bytes: reserve, copy, commit.
    ///
    /// - Parameter fill: called with the number of a missing block and the memory to fill.
    /// - Returns: how many blocks became visible.
    @discardableResult
    public func store(_ prefix: Prefix, fill: (Int, inout MutableRawSpan) -> Void) -> Int {
        guard var reservation = reserve(prefix) else { return 0 }
        for slot in 0..<reservation.count {
            let number = reservation.blockIndex(at: slot)
            reservation.withMutableBytes(at: slot) { fill(number, &$0) }
        }
        return reservation.commit()
    }
}
