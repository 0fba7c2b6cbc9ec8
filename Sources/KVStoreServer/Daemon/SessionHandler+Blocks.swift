internal import KVStore
internal import KVStoreIPC
internal import NIOCore

extension SessionHandler {
    /// Hashing or looking up more than this many at once would hold up the other clients of the event loop.
    private static let shortTokenCount = 2048
    private static let shortKeyCount = 4096

    /// Makes the prefix that a request names, which hashes if tokens were sent.
    ///
    /// - Returns: how to make it, and whether that is long.
    private func prefix(of request: PrefixRequest) -> (make: @Sendable () -> Prefix, isLong: Bool) {
        guard let namespace = namespaces[request.namespaceID] else {
            preconditionFailure("the session machine let an unknown namespace pass")
        }
        switch request.blocks {
        case .keys(let keys):
            let prefix = Prefix(namespace: namespace, keys: keys, tokenCount: Int(request.tokenCount))
            return ({ prefix }, keys.count > Self.shortKeyCount)
        case .tokens(let tokens):
            return ({ namespace.prefix(tokens: tokens) }, tokens.count > Self.shortTokenCount)
        }
    }

    /// How many blocks a request names, which tokens do not show by their number.
    func blockCount(of request: PrefixRequest) -> Int {
        switch request.blocks {
        case .keys(let keys): return keys.count
        case .tokens(let tokens): return tokens.count / (namespaces[request.namespaceID]?.identity.tokensPerBlock ?? 1)
        }
    }

    func match(_ request: PrefixRequest) {
        let (make, isLong) = prefix(of: request)
        let store = server.store
        run(onWorker: isLong) {
            store.match(make())
        } then: { [self] found in
            reply(MatchReply(tiers: found.tiers, isWarming: found.isWarming).body)
        }
    }

    // MARK: Leases

    func acquire(_ request: PrefixRequest) {
        let (make, isLong) = prefix(of: request)
        let store = server.store
        let memoryOnly = request.flags & PrefixRequest.memoryOnly != 0
        if isLong || store.configuration.verifyMemoryHits {
            onWorker {
                LeaseBox.acquire(make(), from: store, memoryOnly: memoryOnly)
            } then: { [self] in
                lease($0)
            }
            return
        }
        let prefix = make()
        if !memoryOnly, store.configuration.disk != nil, store.match(prefix).needsDisk {
            onWorker {
                LeaseBox.acquire(prefix, from: store, memoryOnly: false)
            } then: { [self] in
                lease($0)
            }
        } else {
            // All of it in memory or nowhere: answered here, without a change of threads.
            lease(LeaseBox.acquire(prefix, from: store, memoryOnly: true))
        }
    }

    private func lease(_ box: LeaseBox?) {
        guard let box else { return reply(AcquireReply(leaseID: 0, places: [], tiers: []).body) }
        guard let notes = BudgetShare(LeaseBox.noteByteCount(blocks: box.count), of: server.leaseNotes, for: owner),
            takeReplyBytes(box.count * AcquireReply.bytesPerBlock)
        else { return refuse(.limitReached, "too many blocks are leased; release some") }
        lastID += 1
        leases[lastID] = (box, notes)
        machine.leased(lastID, blockCount: box.count)
        announce(box.places.map(\.regionID))
        reply(
            AcquireReply(
                leaseID: lastID,
                places: box.places.map {
                    WirePlace(regionID: $0.regionID, slotIndex: $0.slotIndex, generation: $0.generation)
                },
                tiers: box.tiers
            ).body
        )
    }

    /// Prepares the regions that the client does not know yet.
    private func announce(_ regionIDs: [UInt32]) {
        var fresh: [SharedRegion] = []
        for id in regionIDs where !sharedRegions.contains(id) {
            // Open, because the lease holds a block in it.
            guard let region = server.store.share(regionID: id) else { continue }
            sharedRegions.insert(id)
            fresh.append(region)
        }
        while !fresh.isEmpty {
            let some = fresh.prefix(WireLimits.descriptorsPerEvent)
            fresh.removeFirst(some.count)
            announcements.append(Announcement(some.map { ($0.event, $0.fileDescriptor) }))
        }
    }

    func release(_ ids: [UInt64]) {
        for id in machine.released(ids) { leases[id] = nil }
        finish()
    }

    func renew(_ unmapped: [UInt32]) {
        let mine = unmapped.filter { sharedRegions.remove($0) != nil }
        server.store.unshare(regionIDs: mine)
        // Those of its earlier connections too: the client says so when nothing of a region is mapped any more.
        if let peer { server.processes.unmapped(peer, unmapped) }
        reply(NumberList.body(sharedRegions.isEmpty ? [] : server.store.closedRegions(among: sharedRegions)))
    }

    // MARK: Without shared memory

    func get(_ request: PrefixRequest) {
        let (make, _) = prefix(of: request)
        let (store, index) = (server.store, Int(request.argument))
        guard index < request.blocks.count, takeReplyBytes(namespaces[request.namespaceID]!.blockByteCount) else {
            return index < request.blocks.count
                ? refuse(.limitReached, "too many blocks are being sent; try again")
                : refuse(.invalidArgument, "block \(index) is not among those named")
        }
        onWorker { () -> [UInt8]? in
            guard let lease = store.acquire(make().first(index + 1), memoryOnly: false), lease.count > index else {
                return nil
            }
            return lease.withBytes(at: index) { span in
                // Copied while the lease holds it.
                unsafe span.withUnsafeBytes { unsafe Array($0) }
            }
        } then: { [self] bytes in
            if let bytes { reply(bytes) } else { refuse(.notFound, "the block is not stored") }
        }
    }

    func put(_ request: PrefixRequest) {
        let (make, _) = prefix(of: request)
        let (store, payload) = (server.store, request.payload)
        onWorker { () -> UInt64 in
            let prefix = make()
            let last = prefix.keys.count - 1
            let present = store.match(prefix).count
            // There already, or without the block before it, without which it could not be found.
            if present > last { return 1 }
            guard last >= 0, present == last, var reservation = store.reserve(prefix), reservation.count == 1,
                reservation.blockIndex(at: 0) == last
            else { return 0 }
            reservation.withMutableBytes(at: 0) { span in
                // Both have a block's bytes: the session machine compared.
                unsafe span.withUnsafeMutableBytes { unsafe $0.copyBytes(from: payload) }
            }
            return UInt64(reservation.commit())
        } then: { [self] count in
            reply(NumberList.body(count))
        }
    }

    // MARK: Wishes

    func prefetch(_ request: PrefixRequest) {
        // Nobody waits for it, so it is forgotten when what waits already takes too much.
        let byteCount = 1024 + blockCount(of: request) * MemoryLayout<BlockKey>.stride
        guard let share = BudgetShare(byteCount, of: server.wishes, for: owner) else { return finish() }
        let (make, isLong) = prefix(of: request)
        let store = server.store
        run(onWorker: isLong) {
            store.prefetch(make(), holding: share)
        } then: { [self] in
            finish()
        }
    }

    func pin(_ request: PrefixRequest) {
        let (make, _) = prefix(of: request)
        let (server, seconds, name) = (server, Int(request.argument), tenant?.name ?? "")
        onWorker(.slow) {
            let limit = server.memoryBytes(ofTenant: name) / 4
            return server.pins.pin(make(), seconds: seconds, tenant: name, limitBytes: limit, in: server.store)
        } then: { [self] count in
            reply(NumberList.body(UInt64(count)))
        }
    }

    func unpin(_ request: PrefixRequest) {
        let (make, _) = prefix(of: request)
        let (server, name) = (server, tenant?.name ?? "")
        onWorker {
            server.pins.unpin(make(), tenant: name)
        } then: { [self] count in
            reply(NumberList.body(UInt64(count)))
        }
    }

    func remove(_ request: PrefixRequest) {
        let (make, _) = prefix(of: request)
        let (store, first) = (server.store, Int(request.argument))
        onWorker(.slow) {
            store.remove(make(), from: first)
        } then: { [self] count in
            reply(NumberList.body(UInt64(count)))
        }
    }
}

/// A lease that a client holds, and where its blocks are. Ends with the last reference.
final class LeaseBox: Sendable {
    private let lease: BlockLease
    let places: [SlotPlace]
    let tiers: [Tier]

    private init(_ lease: consuming BlockLease, places: [SlotPlace]) {
        tiers = (0..<lease.count).map { lease.tier(at: $0) }
        self.places = places
        self.lease = lease
    }

    static func acquire(_ prefix: Prefix, from store: BlockStore, memoryOnly: Bool) -> LeaseBox? {
        guard let lease = store.acquire(prefix, memoryOnly: memoryOnly) else { return nil }
        let places = store.places(of: lease)
        return LeaseBox(lease, places: places)
    }

    var count: Int { places.count }
    /// Of each block its place, its tier and its slot are noted; rounded up, for arrays grow in steps.
    static func noteByteCount(blocks count: Int) -> Int { 512 + 64 * count }
}

extension SharedRegion {
    fileprivate var event: RegionsEvent.Region {
        RegionsEvent.Region(
            id: id,
            kind: .slots,
            slotCount: UInt32(slotCount),
            slotByteCount: UInt64(slotByteCount),
            byteCount: UInt64(byteCount)
        )
    }
}

extension Announcement {
    init(_ regions: [(RegionsEvent.Region, Int32)]) {
        let event = RegionsEvent(regions: regions.map(\.0))
        bytes = Frame(.event, .regions, requestID: 0, body: event.body).bytes
        descriptors = regions.map(\.1)
    }
}
