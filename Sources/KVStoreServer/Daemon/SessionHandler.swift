internal import KVStore
internal import KVStoreIPC
internal import Logging
internal import NIOCore
internal import NIOPosix

/// One connection: frames in and out around the session machine, which decides what they mean.
///
/// One request is in work at a time. Nothing is read meanwhile, and not before its reply has left, so a client that sends
/// faster than it reads only fills its own socket, and nothing of ours is pending when descriptors are sent past NIO.
/// Everything here runs on the connection's event loop; what may take long runs on workers and comes back.
final class SessionHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    let server: ServerContext
    var machine = SessionMachine()
    var peer: PeerCredentials?
    var tenant: TenantTable.Entry?
    var namespaces: [UInt32: Namespace] = [:]
    /// Leases, each with what its notes take.
    var leases: [UInt64: (LeaseBox, BudgetShare)] = [:]
    var reservations: [UInt64: StagedReservation] = [:]
    var lastID: UInt64 = 0
    var staging: Staging?
    var space = StagingSpace(byteCount: 0)
    /// Regions that this client may have mapped.
    var sharedRegions: Set<UInt32> = []
    /// Regions to tell of before the next reply.
    var announcements: [Announcement] = []
    /// The request in work.
    private(set) var request = FrameHeader(bodyByteCount: 0, kind: .request, verb: .ping, requestID: 0)
    private(set) var connectionID: UInt64 = 0

    private enum Waiting { case nothing, hello, frame, work, reply }
    private var channelContext: ChannelHandlerContext?
    private var descriptor: Int32?
    private var received = ByteBuffer()
    private var header: FrameHeader?
    private var clock: LeaseClock
    private var isBusy = false
    private var isStalled = false
    private var isAdvancing = false
    private var isClosing = false
    private var isReadPending = false
    private var heldFrameBytes = 0
    private var waiting = Waiting.hello
    private var waitingSince = monotonicNanoseconds()
    private var ticks: RepeatedTask?

    /// Bodies up to this size are not counted: each connection may have one.
    static let freeFrameBytes = 16 << 10

    init(_ server: ServerContext) {
        self.server = server
        let ttl = UInt64(server.configuration.leaseTTLMilliseconds) * 1_000_000
        clock = LeaseClock(timeToLiveNanoseconds: ttl, now: monotonicNanoseconds())
    }

    // MARK: Beginning and end

    func channelActive(context: ChannelHandlerContext) {
        channelContext = context
        descriptor = try? context.pipeline.syncOperations.withUnsafeTransportIfAvailable(of: Int32.self) { $0 }
        peer = socket.flatMap(PeerCredentials.init(socket:))
        guard let peer, server.limit.admit(peer, context.channel) else { return context.close(promise: nil) }
        let channel = context.channel
        connectionID = server.processes.connected(peer, socketOf: self) { channel.close(promise: nil) }
        let milliseconds = max(20, min(1000, Int64(clock.timeToLiveNanoseconds / 4_000_000)))
        let session = NIOLoopBound(WeakSession(self), eventLoop: context.eventLoop)
        ticks = context.eventLoop.scheduleRepeatedTask(
            initialDelay: .milliseconds(milliseconds),
            delay: .milliseconds(milliseconds)
        ) { _ in session.value.session?.tick() }
        context.fireChannelActive()
    }

    func channelInactive(context: ChannelHandlerContext) {
        ticks?.cancel()
        channelContext = nil
        if machine.leaseCount + machine.reservationCount > 0 { server.counters.diedClients.increment() }
        _ = machine.endAll()
        leases.removeAll()
        reservations.removeAll()
        staging = nil
        giveFrameBytes()
        if let peer { server.processes.disconnected(peer, connectionID, regions: sharedRegions) }
        sharedRegions.removeAll()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        server.logger.debug("a connection failed: \(error)")
        context.close(promise: nil)
    }

    /// Who the connection's share of what all share is booked to. Set before anything is.
    var owner: String { tenant?.name ?? "" }

    /// The connection's descriptor, for what NIO has no call for. NIO owns and closes it, and the channel is inactive
    /// before anybody hears of that. Kept, because asking NIO for it is a dynamic cast: a sixth of the daemon's time
    /// for a hit.
    var socket: Int32? { channelContext?.channel.isActive == true ? descriptor : nil }

    func close() {
        isClosing = true
        channelContext?.close(promise: nil)
    }

    /// Whether the client is still there.
    var isOpen: Bool { channelContext != nil }
    var eventLoop: any EventLoop { channelContext!.eventLoop }

    // MARK: Reading

    func read(context: ChannelHandlerContext) {
        if isBusy || isStalled || isClosing { isReadPending = true } else { context.read() }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !isClosing else { return }
        var more = unwrapInboundIn(data)
        if received.readableBytes == 0 { received = more } else { received.writeBuffer(&more) }
        advance()
    }

    /// Takes frames as long as there are whole ones and nothing is in work.
    func advance() {
        // A reply that leaves at once comes back here; the loop below goes on, instead of one stack frame per request.
        guard !isAdvancing, isOpen else { return }
        isAdvancing = true
        while !isBusy, !isClosing, let (header, body) = nextFrame() { take(header, body) }
        isAdvancing = false
        guard !isBusy, !isClosing, isOpen else { return }
        let isWithin = header != nil || received.readableBytes > 0
        let hasPeer = machine.peer != nil
        // While the daemon has no room for its frame, the client is not slow.
        wait(for: isStalled ? .work : isWithin ? .frame : hasPeer ? .nothing : .hello)
        if isReadPending, !isStalled {
            isReadPending = false
            channelContext?.read()
        }
    }

    private func nextFrame() -> (FrameHeader, [UInt8])? {
        if header == nil {
            guard let bytes = received.readBytes(length: FrameHeader.byteCount) else { return nil }
            let (judged, verdict) = machine.judge(bytes)
            if case .close(let frame) = verdict {
                server.counters.protocolErrors.increment()
                isBusy = true
                reply(frame, thenClose: true)
                return nil
            }
            header = judged
        }
        guard let header, takeFrameBytes(Int(header.bodyByteCount)),
            let body = received.readBytes(length: Int(header.bodyByteCount))
        else { return nil }
        self.header = nil
        if received.readableBytes == 0 { received = ByteBuffer() }
        return (header, body)
    }

    /// Counts a large body before it is read. When too many are in work already, the client waits.
    private func takeFrameBytes(_ count: Int) -> Bool {
        if count <= Self.freeFrameBytes || heldFrameBytes > 0 { return true }
        isStalled = !server.frames.take(count, for: owner)
        // It is we who are slow now, and its leases must not run out over that.
        clock.isBusy = isStalled
        if !isStalled {
            heldFrameBytes = count
            return true
        }
        eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(5)) { [weak self] in
            self?.isStalled = false
            self?.advance()
        }
        return false
    }

    /// Counts a large reply, for which what the request took is used again. False when there is no room for it now.
    func takeReplyBytes(_ count: Int) -> Bool {
        let more = count - heldFrameBytes
        if more <= Self.freeFrameBytes { return true }
        guard server.frames.take(more, for: owner) else { return false }
        heldFrameBytes += more
        return true
    }

    private func giveFrameBytes() {
        if heldFrameBytes > 0 { server.frames.give(heldFrameBytes, for: owner) }
        heldFrameBytes = 0
    }

    private func take(_ header: FrameHeader, _ body: [UInt8]) {
        server.counters.requests.increment()
        clock.heard(now: monotonicNanoseconds())
        machine.isDraining = server.isDraining
        request = header
        isBusy = true
        switch machine.received(header, body) {
        case .ignore: finish()
        case .reply(let frame): reply(frame)
        case .close(let frame):
            server.counters.protocolErrors.increment()
            reply(frame, thenClose: true)
        case .perform(let request):
            clock.isBusy = true
            wait(for: .work)
            perform(request)
        }
    }

    // MARK: Working

    /// Runs `work` on a worker and `then` back here, unless the client has gone meanwhile; what `work` made ends then.
    func onWorker<Result: Sendable>(
        _ kind: ServerContext.Work = .lookups,
        _ work: @escaping @Sendable () -> Result,
        then: @escaping (Result) -> Void
    ) {
        server.pool(for: kind).runIfActive(eventLoop: eventLoop, work).assumeIsolated().whenComplete { [self] result in
            guard isOpen else { return }
            switch result {
            case .success(let value): then(value)
            case .failure: close()  // The pool is closed: the daemon ends.
            }
        }
    }

    /// Runs `work` here if it is short, else on a worker.
    func run<Result: Sendable>(
        onWorker isLong: Bool,
        _ work: @escaping @Sendable () -> Result,
        then: @escaping (Result) -> Void
    ) {
        if isLong { onWorker(.lookups, work, then: then) } else { then(work()) }
    }

    // MARK: Answering

    /// Answers the request in work.
    func reply(_ body: [UInt8]) {
        var frame = Frame(.reply, .ping, requestID: request.requestID, body: body)
        frame.header.verb = request.verb
        reply(frame)
    }

    func refuse(_ status: WireStatus, _ text: String, thenClose: Bool = false) {
        reply(.refusal(status, text, verb: request.verb, requestID: request.requestID), thenClose: thenClose)
    }

    func reply(_ frame: Frame, thenClose: Bool = false) {
        if thenClose { isClosing = true }
        sendAnnouncements { [self] in
            write(frame.bytes) { [self] in
                if thenClose { close() } else { finish() }
            }
        }
    }

    /// The request in work is done.
    func finish() {
        isBusy = false
        wait(for: .nothing)
        clock.isBusy = false
        clock.heard(now: monotonicNanoseconds())
        giveFrameBytes()
        advance()
    }

    /// Straight to the socket, where NIO has nothing pending then: its way there, with a buffer and a future of its own,
    /// took an eighth of the daemon's time for a hit. What the socket does not take at once goes through NIO, which waits for room.
    private func write(_ bytes: [UInt8], then: @escaping () -> Void) {
        let sent = socket.map { LinuxCalls.send(bytes, over: $0) } ?? -1
        if sent == bytes.count { return then() }
        guard sent >= 0 || LinuxCalls.isTemporary(sent), let channelContext else { return close() }
        wait(for: .reply)
        let rest = wrapOutboundOut(ByteBuffer(bytes: bytes[max(0, sent)...]))
        channelContext.writeAndFlush(rest).assumeIsolated().whenComplete { [self] result in
            guard isOpen else { return }
            switch result {
            case .success: then()
            case .failure: close()
            }
        }
    }

    /// Sends what the next reply refers to, with descriptors, straight to the socket: NIO has nothing pending then.
    private func sendAnnouncements(then: @escaping () -> Void) {
        while let next = announcements.first {
            let sent = socket.map { LinuxCalls.send(next.bytes, descriptors: next.descriptors, over: $0) } ?? -1
            if sent == next.bytes.count {
                announcements.removeFirst()
            } else if sent > 0 {
                // The descriptors went with the first byte; the rest is ordinary.
                announcements.removeFirst()
                return write(Array(next.bytes[sent...])) { [self] in sendAnnouncements(then: then) }
            } else if LinuxCalls.isTemporary(sent) {
                // The client does not read. `tick` ends this when it takes too long.
                wait(for: .reply)
                eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(2)) { [weak self] in
                    guard let self, self.isOpen else { return }
                    self.sendAnnouncements(then: then)
                }
                return
            } else {
                return close()
            }
        }
        then()
    }

    // MARK: Time

    private func wait(for what: Waiting) {
        if waiting == what, what != .nothing, what != .work { return }
        waiting = what
        // For the others there is no limit.
        if what == .hello || what == .frame || what == .reply { waitingSince = monotonicNanoseconds() }
    }

    private func tick() {
        let now = monotonicNanoseconds()
        let limits = server.timeLimits
        let limit: UInt64? =
            switch waiting {
            case .nothing, .work: nil
            case .hello: limits.helloNanoseconds
            case .frame: limits.frameNanoseconds
            case .reply: limits.replyNanoseconds
            }
        if let limit, now &- waitingSince > limit {
            server.logger.info("a client was too slow and is cut off")
            server.counters.slowClients.increment()
            return close()
        }
        if clock.isExpired(now: now), machine.leaseCount + machine.reservationCount > 0 { expire() }
    }

    private func expire() {
        let ended = machine.endAll()
        server.counters.expiredLeases.increment(by: ended.leases.count)
        for id in ended.leases { leases[id] = nil }
        server.logger.info("a client was silent for too long; \(ended.leases.count) leases ended")
        // It may go on writing where it was told to: that place must be nobody else's on this connection.
        if !ended.reservations.isEmpty { close() }
    }
}

private struct WeakSession {
    weak var session: SessionHandler?
    init(_ session: SessionHandler) { self.session = session }
}

/// A REGIONS event and its descriptors.
struct Announcement {
    let bytes: [UInt8]
    let descriptors: [Int32]
}
