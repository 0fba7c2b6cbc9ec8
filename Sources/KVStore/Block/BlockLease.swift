/// The right to read a run of blocks in place, from the head of a prefix on.
///
/// While the lease lives, none of its blocks is overwritten, moved or unmapped, whatever happens in the store: eviction
/// passes them by, removal only makes them unfindable. One lease covers a whole matched prefix, so a prompt of a
/// thousand blocks costs one release. Ends when it goes out of scope.
///
/// A lease from a daemon has one thing more to it: should this process be stopped for longer than the daemon's lease time,
/// its blocks may be given to others. The memory stays mapped; `isCurrent` tells, and is to be asked after the bytes
/// were used.
public struct BlockLease: ~Copyable, Sendable {
    private let owner: any LeaseOwner
    private let blocks: [PinnedBlock]
    private let blockByteCount: Int
    /// The owner's number for the lease.
    private let token: UInt64

    package init?(owner: any LeaseOwner, blocks: [PinnedBlock], blockByteCount: Int, token: UInt64 = 0) {
        guard !blocks.isEmpty else { return nil }
        self.owner = owner
        self.blocks = blocks
        self.blockByteCount = blockByteCount
        self.token = token
    }

    deinit { owner.endLease(blocks, token: token) }

    /// Leading blocks of the prefix that the lease covers; never 0.
    public var count: Int { blocks.count }

    /// Where block `index` was found.
    public func tier(at index: Int) -> Tier { blocks[index].tier }

    /// Whether every byte read under this lease up to now was the right one. Always true in an embedded store. When it
    /// is false, throw away what was computed and treat the prefix as a miss.
    ///
    /// - Complexity: one load per block.
    public var isCurrent: Bool { owner.isCurrent(token: token) }

    /// The bytes of block `index`, in place.
    public func withBytes<Result>(at index: Int, _ body: (RawSpan) throws -> Result) rethrows -> Result {
        // The pin holds the memory until deinit, and the span cannot leave the closure.
        let bytes = unsafe blocks[index].memory.bytes(blockByteCount)
        return try body(unsafe bytes.bytes)
    }

    /// The bytes of block `index` as a span that borrows the lease.
    @_lifetime(borrow self)
    public func bytes(at index: Int) -> RawSpan {
        // The pin holds the memory until deinit; the lifetime ties the span to the lease.
        let span = unsafe blocks[index].memory.bytes(blockByteCount).bytes
        return unsafe _overrideLifetime(span, borrowing: self)
    }

    /// The slots under the lease, head first.
    package var slots: [SlotID] { blocks.map(\.slot) }
}

/// Who gave a lease out: the store in this process, or the connection to a daemon.
package protocol LeaseOwner: AnyObject, Sendable {
    func endLease(_ blocks: [PinnedBlock], token: UInt64)
    func isCurrent(token: UInt64) -> Bool
}
