/// The right to read a run of blocks in place, from the head of a prefix on.
///
/// While the lease lives, none of its blocks is overwritten, moved or unmapped, whatever happens in the store: eviction
/// passes them by, removal only makes them unfindable. One lease covers a whole matched prefix, so a prompt of a
/// thousand blocks costs one release. Ends when it goes out of scope.
public struct BlockLease: ~Copyable, Sendable {
    private let store: BlockStore
    private let blocks: [PinnedBlock]
    private let blockByteCount: Int

    init?(store: BlockStore, blocks: [PinnedBlock], blockByteCount: Int) {
        guard !blocks.isEmpty else { return nil }
        self.store = store
        self.blocks = blocks
        self.blockByteCount = blockByteCount
    }

    deinit { store.endLease(blocks) }

    /// Leading blocks of the prefix that the lease covers; never 0.
    public var count: Int { blocks.count }

    /// Where block `index` was found.
    public func tier(at index: Int) -> Tier { blocks[index].tier }

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
}
