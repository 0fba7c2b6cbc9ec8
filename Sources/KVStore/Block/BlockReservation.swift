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
        let owner: any ReservationOwner
        var blocks: [ReservedBlock]
        let token: UInt64
        deinit { if !blocks.isEmpty { owner.abandon(blocks, token: token) } }
    }

    package init(
        owner: any ReservationOwner,
        namespace: Namespace,
        blocks: [ReservedBlock],
        token: UInt64 = 0
    ) {
        pending = Pending(owner: owner, blocks: blocks, token: token)
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
        return pending.owner.commit(blocks, digests: nil, blockByteCount: blockByteCount, token: pending.token)
    }

    /// Commits blocks whose digests the caller has computed from the slots themselves, see `copyIn`.
    package consuming func commit(digests: [UInt64]) -> Int {
        precondition(digests.count == pending.blocks.count, "a digest for every block")
        let blocks = pending.blocks
        pending.blocks = []
        return pending.owner.commit(blocks, digests: digests, blockByteCount: blockByteCount, token: pending.token)
    }

    /// Fills slot `index` from memory that somebody else may be writing: each piece goes to `piece` and to the slot in
    /// one pass, and is hashed from `piece`, where nobody writes. What is hashed is what is stored, whatever happens to
    /// the source.
    ///
    /// - Parameters:
    ///   - source: at least a block's bytes.
    ///   - piece: scratch, small enough that the hashing of one piece overlaps the stores of the last.
    /// - Returns: the digest for `commit(digests:)`.
    package mutating func copyIn(
        at index: Int,
        from source: UnsafeRawBufferPointer,
        _ stream: XXH3.Stream,
        piece: UnsafeMutableRawBufferPointer
    ) -> UInt64 {
        unsafe precondition(source.count >= blockByteCount && !piece.isEmpty, "the source is shorter than a block")
        // Reserved for us alone until commit or abandon; both ranges are checked above.
        let slot = unsafe pending.blocks[index].memory.mutableBytes(blockByteCount)
        stream.restart()
        var offset = 0
        while offset < blockByteCount {
            let count = min(piece.count, blockByteCount - offset)
            let cached = unsafe UnsafeMutableRawBufferPointer(rebasing: piece[..<count])
            unsafe Kernels.copyTwice(
                UnsafeRawBufferPointer(rebasing: source[offset..<offset + count]),
                cached: cached,
                streamed: UnsafeMutableRawBufferPointer(rebasing: slot[offset..<offset + count]),
                level: .best
            )
            unsafe stream.append(UnsafeRawBufferPointer(cached))
            offset += count
        }
        Kernels.copiesAreDone()
        return stream.digest
    }
}

/// A slot that was given out to be filled, not yet visible.
package struct ReservedBlock: Sendable {
    let key: BlockKey
    let entry: EntryID
    let slot: SlotID
    // The reservation's pin keeps the memory where it is.
    let memory: SlotMemory
    /// Number of the block in its prefix.
    package let position: Int

    package init(key: BlockKey, entry: EntryID, slot: SlotID, memory: SlotMemory, position: Int) {
        self.key = key
        self.entry = entry
        self.slot = slot
        self.memory = memory
        self.position = position
    }
}

/// Who gave a reservation out: the store in this process, or the connection to a daemon.
package protocol ReservationOwner: AnyObject, Sendable {
    /// - Parameter digests: of the blocks' bytes; nil when the owner has to compute them.
    func commit(_ blocks: [ReservedBlock], digests: [UInt64]?, blockByteCount: Int, token: UInt64) -> Int
    func abandon(_ blocks: [ReservedBlock], token: UInt64)
}

extension BlockStore: LeaseOwner, ReservationOwner {
    package func commit(_ blocks: [ReservedBlock], digests: [UInt64]?, blockByteCount: Int, token: UInt64) -> Int {
        let started = monotonicNanoseconds()
        // The reservation's pins hold until the core's commit below ends them.
        let digests = digests ?? blocks.map { unsafe XXH3.digest($0.memory.bytes(blockByteCount)) }
        let now = secondsNow()
        let visible = core.with { core in
            core.reservationCount -= 1
            defer { core.counters.commit.record(monotonicNanoseconds() - started) }
            return core.commit(blocks, digests: digests, nowSeconds: now)
        }
        disk?.nudge()
        return visible
    }

    package func abandon(_ blocks: [ReservedBlock], token: UInt64) {
        core.with { core in
            core.reservationCount -= 1
            core.abandon(blocks)
        }
    }

    package func endLease(_ blocks: [PinnedBlock], token: UInt64) {
        core.with { core in
            core.endLease(on: blocks[0].slot)
            for block in blocks { core.unpin(block.slot) }
        }
    }

    package func isCurrent(token: UInt64) -> Bool { true }
}
