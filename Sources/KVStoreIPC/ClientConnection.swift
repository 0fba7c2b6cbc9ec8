internal import KVStore

/// How a client talks to a daemon.
public struct ClientOptions: Sendable, Hashable {
    /// Longest wait for an answer about blocks. After that the call is a miss and the connection is given up, since what
    /// comes later would answer the wrong question.
    public var timeoutSeconds: Double = 1
    /// The same for `flush`, `remove` and operators' calls, which wait for the disk.
    public var slowTimeoutSeconds: Double = 30
    /// Wait before the first attempt to connect again; doubles up to five seconds. Meanwhile every call is a miss at once.
    public var retrySeconds: Double = 0.05
    /// What the client calls itself in its first frame; the daemon takes it and makes no use of it. Cut after 64 bytes.
    public var name: String = ""
    /// Shown instead of the user id, where the daemon binds the tenant to a token. At most 1024 bytes.
    public var token: [UInt8] = []

    /// The defaults.
    public init() {}
}

/// One connection that has said hello. Not thread-safe: one call at a time.
struct ClientConnection: ~Copyable {
    private var socket: UnixSocket
    private(set) var hello: HelloReply
    private var regions: [UInt32: MappedRegion] = [:]
    /// Mappings to let go of when no lease here refers to them: the daemon has closed the region, or it was mapped anew
    /// after a reconnection.
    private var closing: [MappedRegion] = []
    private(set) var staging: MappedRegion?
    private var nextRequestID: UInt32 = 1
    /// Requests without a reply, to be sent together with the next one that has one.
    private var outgoing = WireWriter()

    /// Connects and says hello, all before `deadline`, and however late that is, within the time for one answer.
    static func open(path: String, options: ClientOptions, deadline: UInt64) throws(ClientError) -> ClientConnection {
        guard options.token.count <= WireLimits.tokenByteCount else {
            let text = "a token has at most \(WireLimits.tokenByteCount) bytes, this one \(options.token.count)"
            throw ClientError(.permissionDenied, text)
        }
        let now = monotonicNanoseconds()
        let limit = min(UInt64(max(0.001, options.timeoutSeconds) * 1e9), deadline > now ? deadline - now : 0)
        var connection = ClientConnection(try UnixSocket(path: path, timeoutNanoseconds: limit))
        let request = HelloRequest(name: Self.wireName(options.name), token: options.token)
        let body = try connection.call(.hello, request.body, deadline: now + limit)
        guard let reply = HelloReply(body), reply.version == 1 else {
            throw ClientError(.protocolError, "the daemon's hello is not understood; are both of one version?")
        }
        connection.hello = reply
        return connection
    }

    /// As many whole characters as fit.
    static func wireName(_ name: String) -> String {
        if name.isEmpty { return "kvstore client" }
        var (kept, byteCount) = ("", 0)
        for character in name {
            byteCount += character.utf8.count
            guard byteCount <= WireLimits.nameByteCount else { break }
            kept.append(character)
        }
        return kept
    }

    private init(_ socket: consuming UnixSocket) {
        self.socket = socket
        hello = HelloReply(
            hasTenant: false,
            isOperator: false,
            leaseMilliseconds: 0,
            stagingByteCount: 0,
            daemonID: 0,
            tenant: ""
        )
    }

    /// Sends a request and waits for its reply. Any error but a refusal leaves the connection unusable.
    mutating func call(_ verb: Verb, _ body: [UInt8], deadline: UInt64) throws(ClientError) -> [UInt8] {
        let requestID = nextRequestID
        enqueue(verb, body)
        try sendEnqueued(deadline: deadline)
        while true {
            let headerBytes = try socket.receive(FrameHeader.byteCount, deadline: deadline)
            guard let header = FrameHeader(headerBytes), header.kind != .request,
                Int(header.bodyByteCount) <= WireLimits.replyByteCount
            else { throw ClientError(.protocolError, "what came back is no reply of this protocol") }
            let reply = try socket.receive(Int(header.bodyByteCount), deadline: deadline)
            if header.kind == .event {
                try handleEvent(header, reply)
                continue
            }
            guard header.requestID == requestID, header.verb == verb.rawValue || header.status == .badFrame else {
                throw ClientError(.protocolError, "a reply came to a question that was not asked")
            }
            if header.status == .ok { return reply }
            throw Self.refusal(header.status, String(decoding: reply, as: UTF8.self))
        }
    }

    /// Has a request that gets no reply sent before the next one.
    mutating func enqueue(_ verb: Verb, _ body: [UInt8]) {
        Frame(.request, verb, requestID: nextRequestID, body: body).append(to: &outgoing)
        nextRequestID &+= 1
    }

    /// Sends what was enqueued, in one piece: the daemon is woken once for it.
    mutating func sendEnqueued(deadline: UInt64) throws(ClientError) {
        guard !outgoing.bytes.isEmpty else { return }
        try socket.send(outgoing.bytes, deadline: deadline)
        outgoing.removeAll(keepingCapacityBelow: 64 << 10)
    }

    private static func refusal(_ status: WireStatus, _ text: String) -> ClientError {
        switch status {
        case .badFrame, .wrongOrder, .unknownVerb, .unsupportedVersion:
            ClientError(.protocolError, "the daemon did not understand: \(text)", status: status)
        case .forbidden, .noTenant: ClientError(.permissionDenied, text, status: status)
        default: ClientError(.refused, text, status: status)
        }
    }

    private mutating func handleEvent(_ header: FrameHeader, _ body: [UInt8]) throws(ClientError) {
        guard header.verb == Verb.regions.rawValue, let event = RegionsEvent(body) else {
            throw ClientError(.protocolError, "an unknown event came")
        }
        for region in event.regions {
            let mapped = try socket.mapReceived(region)
            switch region.kind {
            case .slots: regions[region.id] = mapped
            case .staging: staging = mapped
            }
        }
    }

    /// Everything that is mapped, for whoever makes the next connection to the same daemon.
    mutating func takeRegions() -> [MappedRegion] {
        defer { (regions, closing) = ([:], []) }
        return closing + regions.values
    }

    /// Takes over what an earlier connection to the same daemon had mapped. It counts against the daemon's memory until
    /// `renew` has told that it is not mapped any more.
    mutating func adopt(_ former: [MappedRegion]) { closing = former }

    func region(_ id: UInt32) -> MappedRegion? { regions[id] ?? closing.last { $0.region.id == id } }

    /// Tells the daemon that this process lives, and lets go of what it has closed. True when there is more to let go of,
    /// so that the daemon should hear of it soon.
    mutating func renew(deadline: UInt64) throws(ClientError) -> Bool {
        var dropped: Set<UInt32> = []
        for index in closing.indices.reversed() where isKnownUniquelyReferenced(&closing[index]) {
            dropped.insert(closing.remove(at: index).region.id)
        }
        // Told once nothing of a region is mapped any more.
        let unmapped = dropped.filter { id in regions[id] == nil && !closing.contains { $0.region.id == id } }
        let body = try call(.renew, NumberList.body(Array(unmapped)), deadline: deadline)
        guard let closed = NumberList.uint32s(body) else {
            throw ClientError(.protocolError, "the answer to a renewal is not understood")
        }
        for id in closed {
            if let region = regions.removeValue(forKey: id) { closing.append(region) }
        }
        return !closing.isEmpty
    }
}
