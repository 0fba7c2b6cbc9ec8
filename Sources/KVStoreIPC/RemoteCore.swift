internal import KVStore
internal import Synchronization

/// What a `RemoteBlockStore` shares with its leases and its thread: they may outlive it.
final class RemoteCore: Sendable {
    let gate: ConnectionGate

    private struct LeaseRecord {
        let epoch: UInt64
        let leaseID: UInt64
        /// Keeps the regions mapped.
        let places: [(region: MappedRegion, slot: UInt32, generation: UInt64)]
    }
    private struct ReservationRecord {
        let epoch: UInt64
        let reservationID: UInt64
        /// Keeps it mapped while it is being filled.
        let staging: MappedRegion
    }
    private struct Books {
        var nextToken: UInt64 = 1
        var leases: [UInt64: LeaseRecord] = [:]
        var reservations: [UInt64: ReservationRecord] = [:]
    }
    private let books = Mutex(Books())
    /// What the thread is woken for.
    private struct Wishes {
        var isClosing = false
        var hasReturns = false
        /// Something is held on a new connection: how soon it ends without a sign of life is not known yet.
        var hasConnected = false
        var isNone: Bool { !isClosing && !hasReturns && !hasConnected }
    }
    private let wishes = Monitor(Wishes())
    private let latestEpoch = Atomic<UInt64>(0)

    /// For the next call to take along what was given back; a lease is held this much longer at most.
    private static let returnDelayNanoseconds: UInt64 = 2_000_000

    init(_ gate: ConnectionGate) { self.gate = gate }

    /// What the client's own thread does: tells the daemon now and then that the client lives, and what it has given
    /// back if no call has done so.
    func keepInTouchUntilClosed() {
        var renewAt = monotonicNanoseconds() + 500_000_000
        while true {
            let wish = wishes.wait(untilNanoseconds: renewAt) { $0.isNone ? nil : $0 } ?? Wishes()
            if wish.isClosing { return }
            if wish.hasConnected {
                wishes.update { $0.hasConnected = false }
                renewAt = 0
            }
            if wish.hasReturns {
                let isClosing = wishes.wait(untilNanoseconds: monotonicNanoseconds() + Self.returnDelayNanoseconds) {
                    $0.isClosing ? true : nil
                }
                if isClosing == true { return }
                // Before it is told: what is given back from here on wakes this thread again.
                wishes.update { $0.hasReturns = false }
                if !gate.flushReturns() { seeToReturns() }
            }
            if monotonicNanoseconds() >= renewAt { renewAt = monotonicNanoseconds() + gate.renew() }
        }
    }

    func close() {
        wishes.update { $0.isClosing = true }
        gate.close()
    }

    /// To be called with the connection of everything that was given to us.
    private func keepAlive(_ epoch: UInt64) {
        guard latestEpoch.load(ordering: .relaxed) != epoch else { return }
        latestEpoch.store(epoch, ordering: .relaxed)
        wishes.update { $0.hasConnected = true }
    }

    private func release(_ leaseID: UInt64, epoch: UInt64) {
        if gate.release(leaseID, epoch: epoch) { seeToReturns() }
    }

    private func abandon(_ reservationID: UInt64, epoch: UInt64) {
        if gate.abandon(reservationID, epoch: epoch) { seeToReturns() }
    }

    /// Wakes the thread, unless it is awake for that already: to be woken for each lease took a fifth of a hit, on two
    /// processors that the client and the daemon keep busy.
    private func seeToReturns() {
        if !wishes.read({ $0.hasReturns }) { wishes.update { $0.hasReturns = true } }
    }

    // MARK: Calls

    func call(_ verb: Verb, _ body: [UInt8], slow: Bool) throws(ClientError) -> [UInt8] {
        let deadline = gate.deadline(slow: slow)
        return try gate.with(deadline: deadline) { (connection, _) throws(ClientError) in
            try connection.call(verb, body, deadline: deadline)
        }
    }

    /// The reply's body, nil for every reason there is not to have one.
    func ask(
        _ verb: Verb,
        _ prefix: Prefix,
        argument: UInt32 = 0,
        payload: [UInt8] = [],
        slow: Bool = false
    ) -> [UInt8]? {
        guard !prefix.keys.isEmpty else { return nil }
        return try? tryAsking(verb, prefix, argument: argument, payload: payload, slow: slow)
    }

    private func tryAsking(
        _ verb: Verb,
        _ prefix: Prefix,
        argument: UInt32,
        payload: [UInt8],
        slow: Bool
    ) throws(ClientError) -> [UInt8] {
        let deadline = gate.deadline(slow: slow)
        return try gate.with(deadline: deadline) { (connection, gate) throws(ClientError) in
            let request = try Self.request(prefix, gate, argument: argument, payload: payload)
            return try connection.call(verb, request.body, deadline: deadline)
        }
    }

    func tell(_ verb: Verb, _ prefix: Prefix) {
        guard !prefix.keys.isEmpty else { return }
        let deadline = gate.deadline()
        try? gate.with(deadline: deadline) { (connection, gate) throws(ClientError) in
            connection.enqueue(verb, try Self.request(prefix, gate).body)
        }
    }

    func count(_ verb: Verb, _ prefix: Prefix, argument: UInt32, slow: Bool) -> Int {
        ask(verb, prefix, argument: argument, slow: slow).flatMap(NumberList.uint64).map { Int(clamping: $0) } ?? 0
    }

    /// As `count`, with the error instead of a zero.
    func tryCounting(_ verb: Verb, _ prefix: Prefix, argument: UInt32) throws(ClientError) -> Int {
        let reply = try tryAsking(verb, prefix, argument: argument, payload: [], slow: true)
        guard let count = NumberList.uint64(reply) else { throw DaemonClient.notUnderstood }
        return Int(clamping: count)
    }

    private static func request(
        _ prefix: Prefix,
        _ gate: ConnectionGate,
        flags: UInt8 = 0,
        argument: UInt32 = 0,
        payload: [UInt8] = []
    ) throws(ClientError) -> PrefixRequest {
        guard payload.isEmpty || prefix.keys.count <= WireLimits.keysPerRequest else {
            throw ClientError(.refused, "a block is put by at most \(WireLimits.keysPerRequest) keys")
        }
        // More keys than a frame has room for: what leads is still a prefix.
        let prefix = prefix.first(WireLimits.keysPerRequest)
        return PrefixRequest(
            namespaceID: try gate.wireID(prefix.namespace),
            flags: flags,
            argument: argument,
            tokenCount: UInt32(clamping: prefix.tokenCount),
            blocks: .keys(prefix.keys),
            payload: payload
        )
    }

    // MARK: Leases

    func acquire(_ prefix: Prefix, memoryOnly: Bool) -> BlockLease? {
        guard !prefix.keys.isEmpty else { return nil }
        let deadline = gate.deadline()
        let byteCount = prefix.namespace.blockByteCount
        let found = try? gate.with(deadline: deadline) { (connection, gate) throws(ClientError) in
            let flags = memoryOnly ? PrefixRequest.memoryOnly : 0
            let request = try Self.request(prefix, gate, flags: flags)
            let body = try connection.call(.acquire, request.body, deadline: deadline)
            guard let reply = AcquireReply(body), reply.places.count <= prefix.keys.count else {
                throw ClientError(.protocolError, "the answer to a lookup is not understood")
            }
            return try Self.locate(reply, in: &connection, epoch: gate.epoch, byteCount: byteCount)
        }
        guard let (record, blocks) = found, !blocks.isEmpty else { return nil }
        keepAlive(record.epoch)
        let token = books.withLock { books -> UInt64 in
            defer { books.nextToken += 1 }
            books.leases[books.nextToken] = record
            return books.nextToken
        }
        return BlockLease(owner: self, blocks: blocks, blockByteCount: byteCount, token: token)
    }

    private static func locate(
        _ reply: AcquireReply,
        in connection: inout ClientConnection,
        epoch: UInt64,
        byteCount: Int
    ) throws(ClientError) -> (LeaseRecord, [PinnedBlock]) {
        var places: [(region: MappedRegion, slot: UInt32, generation: UInt64)] = []
        var blocks: [PinnedBlock] = []
        places.reserveCapacity(reply.places.count)
        blocks.reserveCapacity(reply.places.count)
        for (place, tier) in zip(reply.places, reply.tiers) {
            guard let region = connection.region(place.regionID),
                let memory = region.slotMemory(place.slotIndex, byteCount: byteCount)
            else { throw ClientError(.protocolError, "a block lies in a region that was never announced") }
            places.append((region, place.slotIndex, place.generation))
            blocks.append(PinnedBlock(entry: 0, slot: place.slotIndex, memory: memory, tier: tier))
        }
        return (LeaseRecord(epoch: epoch, leaseID: reply.leaseID, places: places), blocks)
    }

    // MARK: Reservations

    func reserve(_ prefix: Prefix) -> BlockReservation? {
        guard !prefix.keys.isEmpty else { return nil }
        let deadline = gate.deadline()
        let byteCount = prefix.namespace.blockByteCount
        let found = try? gate.with(deadline: deadline) { (connection, gate) throws(ClientError) in
            let body = try connection.call(.reserve, try Self.request(prefix, gate).body, deadline: deadline)
            guard let reply = ReserveReply(body) else {
                throw ClientError(.protocolError, "the answer to a reservation is not understood")
            }
            return try Self.locate(reply, prefix, in: &connection, epoch: gate.epoch, byteCount: byteCount)
        }
        guard let (record, blocks) = found ?? nil else { return nil }
        keepAlive(record.epoch)
        let token = books.withLock { books -> UInt64 in
            defer { books.nextToken += 1 }
            books.reservations[books.nextToken] = record
            return books.nextToken
        }
        return BlockReservation(owner: self, namespace: prefix.namespace, blocks: blocks, token: token)
    }

    private static func locate(
        _ reply: ReserveReply,
        _ prefix: Prefix,
        in connection: inout ClientConnection,
        epoch: UInt64,
        byteCount: Int
    ) throws(ClientError) -> (ReservationRecord, [ReservedBlock])? {
        guard !reply.places.isEmpty else { return nil }
        guard let staging = connection.staging else {
            throw ClientError(.protocolError, "a reservation came before the staging region")
        }
        var blocks: [ReservedBlock] = []
        for place in reply.places {
            guard Int(place.blockNumber) < prefix.keys.count, let offset = Int(exactly: place.stagingOffset),
                let memory = staging.memory(at: offset, byteCount: byteCount)
            else { throw ClientError(.protocolError, "a reserved block lies outside of the staging region") }
            blocks.append(
                ReservedBlock(
                    key: prefix.keys[Int(place.blockNumber)],
                    entry: 0,
                    slot: 0,
                    memory: memory,
                    position: Int(place.blockNumber)
                )
            )
        }
        return (ReservationRecord(epoch: epoch, reservationID: reply.reservationID, staging: staging), blocks)
    }

    private func takeReservation(_ token: UInt64) -> ReservationRecord? {
        books.withLock { $0.reservations.removeValue(forKey: token) }
    }
}

extension RemoteCore: LeaseOwner, ReservationOwner {
    func endLease(_ blocks: [PinnedBlock], token: UInt64) {
        guard let record = books.withLock({ $0.leases.removeValue(forKey: token) }) else { return }
        release(record.leaseID, epoch: record.epoch)
    }

    func isCurrent(token: UInt64) -> Bool {
        guard let record = books.withLock({ $0.leases[token] }) else { return false }
        return record.places.allSatisfy { $0.region.generation(ofSlot: $0.slot) == $0.generation }
    }

    func commit(_ blocks: [ReservedBlock], digests: [UInt64]?, blockByteCount: Int, token: UInt64) -> Int {
        guard let record = takeReservation(token) else { return 0 }
        let deadline = gate.deadline()
        do throws(ClientError) {
            let visible = try gate.with(deadline: deadline) { (connection, gate) throws(ClientError) -> UInt64? in
                guard gate.epoch == record.epoch else { return nil }
                let body = NumberList.body(record.reservationID)
                return NumberList.uint64(try connection.call(.commit, body, deadline: deadline))
            }
            return Int(clamping: visible ?? 0)
        } catch {
            // Perhaps it was never sent; if it was, there is nothing left to give back.
            abandon(record.reservationID, epoch: record.epoch)
            return 0
        }
    }

    func abandon(_ blocks: [ReservedBlock], token: UInt64) {
        guard let record = takeReservation(token) else { return }
        abandon(record.reservationID, epoch: record.epoch)
    }
}
