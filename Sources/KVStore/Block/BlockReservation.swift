/// The right to fill slots that nobody else can see yet.
///
/// Fill every slot, then `commit`. A reservation that ends without a commit is abandoned: its slots go back, nothing
/// became visible. After 10 seconds the keys may be reserved by somebody else; a late commit then loses to whoever
/// committed first, and never harms.
public struct BlockReservation: ~Copyable, Sendable {
    private var pending: Pending
    private let blockByteCount: Int

    /// Gives the slots back unless they were committed. A struct of its own so that `commit` can consume it. Not private:
    /// who keeps a reservation in a property of another module links against its type.
    @usableFromInline struct Pending: ~Copyable, Sendable {
        let store: BlockStore
        var blocks: [StoreCore.ReservedBlock]
        deinit { if !blocks.isEmpty { store.abandon(blocks) } }
    }

    init(store: BlockStore, namespace: Namespace, blocks: [StoreCore.ReservedBlock]) {
        pending = Pending(store: store, blocks: blocks)
        blockByteCount = namespace.blockByteCount
    }

    /// Slots of the reservation; never 0.
    public var count: Int { pending.blocks.count }

    /// The number, within the prefix, of the block that slot `index` is for. Rises with `index`.
    public func blockIndex(at index: Int) -> Int { pending.blocks[index].position }

    /// The memory of slot `index`. What it holds before it is written is undefined.
    public mutating func withMutableBytes<Result>(
        at index: Int,
        _ body: (inout MutableRawSpan) throws -> Result
    ) rethrows -> Result {
        // Reserved for us alone until commit or abandon; the span cannot leave the closure.
        let bytes = unsafe pending.blocks[index].memory.mutableBytes(blockByteCount)
        var span = unsafe bytes.mutableBytes
        return try body(&span)
    }

    /// Computes the digests and makes the blocks visible, from the head of the chain on. Returns how many became visible.
    ///
    /// - Complexity: one pass over the bytes, outside the store's lock.
    @discardableResult
    public consuming func commit() -> Int {
        let blocks = pending.blocks
        // From here on the pins are ended by the commit, not by deinit.
        pending.blocks = []
        return pending.store.commit(blocks, blockByteCount: blockByteCount)
    }
}

extension BlockStore {
    func commit(_ blocks: [StoreCore.ReservedBlock], blockByteCount: Int) -> Int {
        let started = monotonicNanoseconds()
        // The reservation's pins hold until the core's commit below ends them.
        let digests = blocks.map { unsafe XXH3.digest($0.memory.bytes(blockByteCount)) }
        let now = secondsNow()
        let visible = core.with { core in
            core.reservationCount -= 1
            defer { core.counters.commit.record(monotonicNanoseconds() - started) }
            return core.commit(blocks, digests: digests, nowSeconds: now)
        }
        disk?.nudge()
        return visible
    }

    func abandon(_ blocks: [StoreCore.ReservedBlock]) {
        core.with { core in
            core.reservationCount -= 1
            core.abandon(blocks)
        }
    }
}
