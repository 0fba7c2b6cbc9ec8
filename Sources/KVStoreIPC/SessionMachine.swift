/// One connection, as the daemon sees it: what may come next, and what it means. No I/O and no clock of its own.
///
/// ```
/// awaitingHello ──hello──▶ authenticating ──accepted──▶ ready ──bad frame, end of the stream──▶ closed
///                               └──────────refused──────────────────────────────────────────▶ closed
/// ```
/// The server reads a header, asks `limit(for:)` before it takes the body, hands both to `received` and does what comes
/// back. One request is in work at a time; the server reads on when its reply has left.
package struct SessionMachine: Sendable {
    /// Who is at the other end, as the server decided it from the peer's uid or token.
    package struct Peer: Hashable, Sendable {
        /// Nil: an operator without a tenant of its own.
        package var tenant: String?
        package var isOperator: Bool

        package init(tenant: String?, isOperator: Bool) {
            self.tenant = tenant
            self.isOperator = isOperator
        }
    }

    private enum State: Sendable {
        case awaitingHello
        case authenticating
        case ready(Peer)
        case closed
    }

    /// What a header comes to, before its body is read.
    package enum HeaderVerdict: Hashable, Sendable {
        case read(byteCount: Int)
        /// The stream cannot be followed any further: answer, then close.
        case close(Frame)
    }

    package enum Action: Hashable, Sendable {
        case perform(SessionRequest)
        case reply(Frame)
        /// A one-way request that was refused: there is nobody to tell.
        case ignore
        case close(Frame)
    }

    private var state = State.awaitingHello
    /// The namespaces of this session by their wire number, with the size of their blocks.
    private var blockByteCounts: [UInt32: Int] = [:]
    /// Blocks under each lease.
    private var leases: [UInt64: Int] = [:]
    private var leasedBlockCount = 0
    private var reservations: Set<UInt64> = []
    /// Whether the client takes descriptors.
    package private(set) var takesDescriptors = false
    /// Set by the server: no new blocks, no new namespaces.
    package var isDraining = false

    package init() {}

    package var peer: Peer? { if case .ready(let peer) = state { peer } else { nil } }
    package var leaseCount: Int { leases.count }
    package var reservationCount: Int { reservations.count }
    package var namespaceCount: Int { blockByteCounts.count }

    // MARK: Frames

    /// Judges a header. Nothing is allocated for a body before this said how long it may be.
    package mutating func judge(_ headerBytes: [UInt8]) -> (FrameHeader?, HeaderVerdict) {
        guard let header = FrameHeader(headerBytes), header.kind == .request, header.status == .ok else {
            state = .closed
            let text = "this is no request of protocol version \(FrameHeader.version)"
            return (nil, .close(.refusal(.badFrame, text, verb: 0, requestID: 0)))
        }
        let limit =
            Verb(rawValue: header.verb)?
            .requestLimit(largestBlockByteCount: blockByteCounts.values.max() ?? 0) ?? WireLimits.bodyByteCount
        guard Int(header.bodyByteCount) <= limit else {
            state = .closed
            let text = "a body of \(header.bodyByteCount) bytes; this verb takes at most \(limit)"
            return (
                header,
                .close(.refusal(.badFrame, text, verb: header.verb, requestID: header.requestID))
            )
        }
        return (header, .read(byteCount: Int(header.bodyByteCount)))
    }

    /// Takes a whole frame.
    package mutating func received(_ header: FrameHeader, _ body: [UInt8]) -> Action {
        guard let verb = Verb(rawValue: header.verb), verb != .regions else {
            return refuse(header, nil, .unknownVerb, "verb \(header.verb) is not known here")
        }
        guard let request = SessionRequest(verb, body) else {
            state = .closed
            return .close(
                .refusal(
                    .badFrame, "the body is not laid out as \(verb) demands", verb: header.verb,
                    requestID: header.requestID)
            )
        }
        switch state {
        case .closed: return .ignore
        case .authenticating: return refuse(header, verb, .wrongOrder, "the hello is still being answered")
        case .awaitingHello:
            guard case .hello(let hello) = request else {
                return refuse(header, verb, .wrongOrder, "say hello first")
            }
            guard hello.lowestVersion <= 1, hello.highestVersion >= 1 else {
                state = .closed
                let text = "this daemon speaks version 1, the client \(hello.lowestVersion) to \(hello.highestVersion)"
                return .close(.refusal(.unsupportedVersion, text, verb: header.verb, requestID: header.requestID))
            }
            state = .authenticating
            takesDescriptors = hello.features & 1 != 0
            return .perform(request)
        case .ready(let peer):
            if let (status, text) = refusal(of: request, verb, peer) { return refuse(header, verb, status, text) }
            return .perform(request)
        }
    }

    private func refuse(_ header: FrameHeader, _ verb: Verb?, _ status: WireStatus, _ text: String) -> Action {
        if verb?.isOneWay == true { return .ignore }
        return .reply(.refusal(status, text, verb: header.verb, requestID: header.requestID))
    }

    /// Why a request that is well formed is not allowed; nil when it is.
    private func refusal(of request: SessionRequest, _ verb: Verb, _ peer: Peer) -> (WireStatus, String)? {
        if case .hello = request { return (.wrongOrder, "hello was said already") }
        if let refusal = Self.permissionRefusal(request, verb, peer) { return refusal }
        if let prefix = request.prefix {
            guard let blockByteCount = blockByteCounts[prefix.namespaceID] else {
                return (.unknownNamespace, "namespace \(prefix.namespaceID) was not opened on this connection")
            }
            if verb == .put, prefix.payload.count != blockByteCount {
                return (.invalidArgument, "a block here has \(blockByteCount) bytes, not \(prefix.payload.count)")
            }
            if prefix.blocks.count == 0 { return (.invalidArgument, "no block is named") }
        }
        return limitRefusal(request)
    }

    private static func permissionRefusal(
        _ request: SessionRequest,
        _ verb: Verb,
        _ peer: Peer
    ) -> (WireStatus, String)? {
        let asksForAll =
            switch request {
            case .statistics(everything: true, _), .namespaces(everything: true): true
            case .statistics(_, let hottest): hottest > 0
            case .purge(let tenant): tenant != nil && tenant != peer.tenant
            default: false
            }
        switch verb.permission {
        case .anybody: return nil
        case .operatorOnly: return peer.isOperator ? nil : (.forbidden, "only an operator may do this")
        case .tenant: return peer.tenant != nil ? nil : (.noTenant, "this user belongs to no tenant")
        case .tenantOrOperator:
            if peer.isOperator { return nil }
            if asksForAll { return (.forbidden, "only an operator may ask about other tenants") }
            return peer.tenant != nil ? nil : (.noTenant, "this user belongs to no tenant")
        }
    }

    private func limitRefusal(_ request: SessionRequest) -> (WireStatus, String)? {
        switch request {
        case .openNamespace where isDraining, .reserve where isDraining, .put where isDraining, .pin where isDraining:
            (.draining, "the daemon is shutting down")
        case .openNamespace where blockByteCounts.count >= WireLimits.namespaces:
            (.limitReached, "a connection opens at most \(WireLimits.namespaces) namespaces")
        case .acquire where leases.count >= WireLimits.leases || leasedBlockCount >= WireLimits.leasedBlocks:
            (
                .limitReached,
                "a connection holds at most \(WireLimits.leases) leases on \(WireLimits.leasedBlocks) blocks"
            )
        case .reserve where reservations.count >= WireLimits.reservations:
            (.limitReached, "a connection holds at most \(WireLimits.reservations) reservations")
        case .acquire where !takesDescriptors, .reserve where !takesDescriptors:
            (.invalidArgument, "this client takes no descriptors; use get and put")
        case .commit(let id) where !reservations.contains(id):
            (.notFound, "there is no such reservation; it may have ended")
        default: nil
        }
    }

    // MARK: What the server did

    /// The answer to `hello`. Nil: nobody is bound to this user or token, and the connection ends.
    package mutating func authenticated(_ peer: Peer?) {
        guard case .authenticating = state else { return }
        state = peer.map { .ready($0) } ?? .closed
    }

    package mutating func opened(namespaceID: UInt32, blockByteCount: Int) {
        blockByteCounts[namespaceID] = blockByteCount
    }

    package mutating func leased(_ id: UInt64, blockCount: Int) {
        leases[id] = blockCount
        leasedBlockCount += blockCount
    }

    package mutating func reserved(_ id: UInt64) { reservations.insert(id) }

    /// Of the ids a client wants to give back, those that are its own.
    package mutating func released(_ ids: [UInt64]) -> [UInt64] {
        ids.filter { id in
            guard let blockCount = leases.removeValue(forKey: id) else { return false }
            leasedBlockCount -= blockCount
            return true
        }
    }

    /// Whether the reservation was this session's. It is not any more.
    package mutating func endReservation(_ id: UInt64) -> Bool { reservations.remove(id) != nil }

    /// Every lease and reservation ends: the client is gone, or was silent for too long.
    package mutating func endAll() -> (leases: Set<UInt64>, reservations: Set<UInt64>) {
        defer {
            leases = [:]
            leasedBlockCount = 0
            reservations = []
        }
        return (Set(leases.keys), reservations)
    }
}
