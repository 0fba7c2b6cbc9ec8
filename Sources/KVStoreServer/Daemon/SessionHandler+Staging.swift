internal import KVStore
internal import KVStoreIPC
internal import NIOCore
internal import Synchronization

// Storing: the client fills places in its staging region, the daemon copies them into slots that nobody else can write.
extension SessionHandler {
    /// Copying more than this would hold up the other clients of the event loop.
    private static let shortCopyBytes = 64 << 10

    func reserve(_ request: PrefixRequest) {
        guard let namespace = namespaces[request.namespaceID] else {
            preconditionFailure("the session machine let an unknown namespace pass")
        }
        let (server, owner, blocks) = (server, owner, request.blocks)
        let blockByteCount = namespace.blockByteCount
        let current = stagingToKeep(blockByteCount: blockByteCount)
        let free = current == nil ? nil : space.freeCount(blockByteCount: blockByteCount)
        let wanted = stagingByteCount(blockByteCount)
        let tokenCount = Int(request.tokenCount)
        onWorker { () -> (Staging, ReservationBox?)? in
            let prefix: Prefix =
                switch blocks {
                case .keys(let keys): Prefix(namespace: namespace, keys: keys, tokenCount: tokenCount)
                case .tokens(let tokens): namespace.prefix(tokens: tokens)
                }
            guard let staging = current ?? Staging(byteCount: wanted, budget: server.staging, owner: owner) else {
                return nil
            }
            let room = free ?? staging.byteCount / StagingSpace.placeByteCount(blockByteCount)
            return (staging, ReservationBox.reserve(prefix, atMost: room, in: server.store))
        } then: { [self] result in
            guard let (made, box) = result else {
                server.counters.stagingRefusals.increment()
                return reply(ReserveReply(reservationID: 0, places: []).body)
            }
            adopt(made)
            guard let box, let offsets = space.take(box.count, blockByteCount: blockByteCount) else {
                return reply(ReserveReply(reservationID: 0, places: []).body)
            }
            lastID += 1
            reservations[lastID] = StagedReservation(box: box, offsets: offsets, blockByteCount: blockByteCount)
            machine.reserved(lastID)
            let places = zip(box.blockNumbers, offsets).map { number, offset in
                ReserveReply.Place(blockNumber: UInt32(number), stagingOffset: UInt64(offset))
            }
            reply(ReserveReply(reservationID: lastID, places: places).body)
        }
    }

    /// The staging region there is, unless the block does not fit and nothing in it is in use.
    private func stagingToKeep(blockByteCount: Int) -> Staging? {
        if let staging, staging.byteCount < blockByteCount, reservations.isEmpty { self.staging = nil }
        return staging
    }

    /// Room for what is configured and for one block of every namespace; a third of what is left, but four blocks while
    /// half of that has room for them. When others have taken most of it, a quarter, so that the last to come can store as
    /// well: of 512 MiB with blocks of 2 MiB, the eighth client got nothing otherwise.
    private func stagingByteCount(_ blockByteCount: Int) -> Int {
        let largest = max(blockByteCount, namespaces.values.map(\.blockByteCount).max() ?? 0)
        let free = server.staging.freeBytes(for: owner)
        let configured = server.configuration.stagingPerConnectionBytes
        let isScarce = free < server.staging.capacityBytes / 2
        let wanted = isScarce ? min(configured, free / 4) : max(min(configured, free / 3), min(4 * largest, free / 2))
        return roundUp(max(wanted, largest), to: pageByteCount)
    }

    private func adopt(_ made: Staging) {
        guard staging !== made else { return }
        staging = made
        space = StagingSpace(byteCount: made.byteCount)
        lastID += 1
        let region = RegionsEvent.Region(
            id: UInt32(truncatingIfNeeded: lastID),
            kind: .staging,
            slotCount: 0,
            slotByteCount: 0,
            byteCount: UInt64(made.byteCount)
        )
        announcements.append(Announcement([(region, made.fileDescriptor)]))
    }

    func endReservation(_ id: UInt64) {
        guard let reservation = reservations.removeValue(forKey: id) else { return }
        space.give(reservation.offsets, blockByteCount: reservation.blockByteCount)
    }

    func commit(_ id: UInt64) {
        guard machine.endReservation(id), let reservation = reservations.removeValue(forKey: id), let staging else {
            return refuse(.notFound, "there is no such reservation; it may have ended")
        }
        let byteCount = reservation.offsets.count * reservation.blockByteCount
        // A short copy takes less time than the way to a worker and back.
        run(onWorker: byteCount > Self.shortCopyBytes) {
            reservation.box.commit(from: staging, reservation.offsets, blockByteCount: reservation.blockByteCount)
        } then: { [self] count in
            space.give(reservation.offsets, blockByteCount: reservation.blockByteCount)
            reply(NumberList.body(UInt64(count)))
        }
    }
}

/// A reservation and the places in staging where its blocks are being made.
struct StagedReservation: Sendable {
    let box: ReservationBox
    let offsets: [Int]
    let blockByteCount: Int
}

/// A reservation that a client fills. Abandoned with the last reference unless it was committed.
final class ReservationBox: Sendable {
    private let reservation: Mutex<BlockReservation?>
    /// Numbers, within the prefix, of the blocks to fill.
    let blockNumbers: [Int]

    private init(_ reservation: consuming sending BlockReservation, blockNumbers: [Int]) {
        self.reservation = Mutex(reservation)
        self.blockNumbers = blockNumbers
    }

    var count: Int { blockNumbers.count }

    /// Slots for the first missing blocks of a prefix, at most `limit`. Nil when there is nothing to store, or no room.
    static func reserve(_ prefix: Prefix, atMost limit: Int, in store: BlockStore) -> ReservationBox? {
        guard limit > 0 else { return nil }
        // A reservation cannot be cut, so what is asked for is: what is there, and as many more.
        let present = store.match(prefix).count
        guard let reservation = store.reserve(prefix.first(present + limit)), reservation.count <= limit else {
            return nil
        }
        let numbers = (0..<reservation.count).map { reservation.blockIndex(at: $0) }
        return ReservationBox(reservation, blockNumbers: numbers)
    }

    /// Copies the blocks into their slots and makes them visible. Returns how many became so.
    func commit(from staging: Staging, _ offsets: [Int], blockByteCount: Int) -> Int {
        guard var reservation = reservation.withLock({ $0.take() }), let stream = XXH3.Stream() else { return 0 }
        var digests: [UInt64] = []
        unsafe withUnsafeTemporaryAllocation(byteCount: Self.pieceByteCount, alignment: 64) { piece in
            for (index, offset) in offsets.enumerated() {
                // The client may still be writing there; what is hashed is what arrived in the slot.
                digests.append(
                    unsafe staging.withBytes(at: offset, count: blockByteCount) { bytes in
                        unsafe reservation.copyIn(at: index, from: bytes, stream, piece: piece)
                    }
                )
            }
        }
        return reservation.commit(digests: digests)
    }

    /// Measured best of 1 to 128 KiB; see the kernel.
    private static let pieceByteCount = 2 << 10
}
