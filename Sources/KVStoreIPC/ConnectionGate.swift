internal import KVStore
internal import Synchronization

/// The one connection of a client, lent to one caller at a time, made again when it was lost.
///
/// Nobody waits here longer than his own deadline: not for another caller, not for a daemon that does not answer. While
/// there is no daemon, a call costs a clock read, and every now and then an attempt to connect.
///
/// @unchecked Sendable: `connection` and what belongs to it is only touched by whoever holds the gate.
final class ConnectionGate: @unchecked Sendable {
    /// A namespace that was opened once, to be opened again on every new connection.
    struct OpenedNamespace: Sendable {
        let identity: NamespaceIdentity
        let fingerprint: BlockKey
        let blockByteCount: Int
        /// The daemon's number on the present connection; nil if it would not open it again as it was.
        var wireID: UInt32?
    }

    private let path: String
    private let options: ClientOptions
    private let isHeld = Monitor(false)
    private var connection: ClientConnection?
    private var retryAt: UInt64 = 0
    private var retryNanoseconds: UInt64
    private var lastError = ClientError(.noDaemon, "not connected yet")
    private(set) var namespaces: [OpenedNamespace] = []
    /// Rises with every connection: a lease of an earlier one must not be released on this one.
    private(set) var epoch: UInt64 = 0
    private let isClosed = Atomic(false)
    /// A child of `fork` shares the socket with its parent, and would take answers that are its parent's.
    private let processID = currentProcessID()
    private var leaseNanoseconds: UInt64 = 0
    /// What the last connection had mapped, and the daemon that it belonged to.
    private var former: (daemonID: UInt64, regions: [MappedRegion]) = (0, [])
    private var daemonID: UInt64 = 0
    /// What is given back and was not told yet, of one connection.
    private struct Returns {
        var epoch: UInt64 = 0
        var leases: [UInt64] = []
        var reservations: [UInt64] = []
        var isEmpty: Bool { leases.isEmpty && reservations.isEmpty }
    }
    private let pendingReturns = Mutex(Returns())
    /// Ids in one frame, far below what a body may hold.
    private static let returnsPerFrame = 4096

    init(path: String, options: ClientOptions) {
        self.path = path
        self.options = options
        retryNanoseconds = UInt64(max(0.001, options.retrySeconds) * 1e9)
    }

    func deadline(slow: Bool = false) -> UInt64 {
        monotonicNanoseconds() + UInt64(max(0.001, slow ? options.slowTimeoutSeconds : options.timeoutSeconds) * 1e9)
    }

    // MARK: Holding

    private func hold(until deadline: UInt64) -> Bool {
        isHeld.wait(untilNanoseconds: deadline) { held -> Bool? in
            if held { return nil }
            held = true
            return true
        } ?? false
    }

    private func letGo() { isHeld.update { $0 = false } }

    private func leave() {
        if isClosed.load(ordering: .acquiring) { connection = nil }
        letGo()
    }

    /// Runs `body` on the connection. An error that is no refusal ends the connection.
    func with<Result>(
        deadline: UInt64,
        _ body: (inout ClientConnection, ConnectionGate) throws(ClientError) -> Result
    ) throws(ClientError) -> Result {
        guard currentProcessID() == processID else {
            throw ClientError(.connectionLost, "this process was forked; make a client of its own for it")
        }
        guard hold(until: deadline) else {
            throw ClientError(.timeout, "another call of this process keeps the daemon busy")
        }
        defer { leave() }
        try connect(deadline: deadline)
        do throws(ClientError) {
            enqueueReturns()
            let result = try body(&connection!, self)
            try connection!.sendEnqueued(deadline: deadline)
            return result
        } catch {
            if error.status == nil || error.code == .protocolError { drop(error) }
            throw error
        }
    }

    private func drop(_ error: ClientError) {
        if connection != nil { former = (daemonID, connection!.takeRegions()) }
        connection = nil
        lastError = error
        // A lost connection may be a restart: try at once, then ever more rarely.
        retryAt = monotonicNanoseconds() + retryNanoseconds
        retryNanoseconds = min(retryNanoseconds * 2, 5_000_000_000)
    }

    private func connect(deadline: UInt64) throws(ClientError) {
        if isClosed.load(ordering: .acquiring) { throw ClientError(.connectionLost, "the client was closed") }
        if connection != nil { return }
        guard monotonicNanoseconds() >= retryAt else { throw lastError }
        do throws(ClientError) {
            var fresh = try ClientConnection.open(path: path, options: options, deadline: deadline)
            leaseNanoseconds = UInt64(fresh.hello.leaseMilliseconds) * 1_000_000
            for index in namespaces.indices {
                namespaces[index].wireID = try reopen(namespaces[index], &fresh, deadline)
            }
            daemonID = fresh.hello.daemonID
            if former.daemonID == daemonID { fresh.adopt(former.regions) }
            former = (0, [])
            connection = consume fresh
        } catch {
            drop(error)
            throw error
        }
        epoch += 1
        retryNanoseconds = UInt64(max(0.001, options.retrySeconds) * 1e9)
    }

    private func reopen(
        _ namespace: OpenedNamespace,
        _ connection: inout ClientConnection,
        _ deadline: UInt64
    ) throws(ClientError) -> UInt32? {
        do throws(ClientError) {
            let body = try connection.call(.openNamespace, namespace.identity.canonicalEncoding, deadline: deadline)
            guard let reply = NamespaceReply(body) else {
                throw ClientError(.protocolError, "the answer to a namespace is not understood")
            }
            // Another salt: a daemon that lost its state directory. Keys made with the old one name nothing there.
            return reply.fingerprint == namespace.fingerprint ? reply.namespaceID : nil
        } catch {
            if error.status != nil, error.code != .protocolError { return nil }
            throw error
        }
    }

    // MARK: Namespaces. Called by whoever holds the gate.

    /// The index of a namespace here, opened on the present connection.
    func register(_ identity: NamespaceIdentity, _ reply: NamespaceReply) -> Int {
        let opened = OpenedNamespace(
            identity: identity,
            fingerprint: reply.fingerprint,
            blockByteCount: Int(clamping: reply.blockByteCount),
            wireID: reply.namespaceID
        )
        if let index = namespaces.firstIndex(where: { $0.fingerprint == reply.fingerprint }) {
            namespaces[index] = opened
            return index
        }
        namespaces.append(opened)
        return namespaces.count - 1
    }

    /// The daemon's number of a namespace.
    func wireID(_ namespace: Namespace) throws(ClientError) -> UInt32 {
        let index = Int(namespace.index)
        precondition(
            index < namespaces.count && namespaces[index].fingerprint == namespace.fingerprint,
            "the namespace was opened by another store"
        )
        guard let id = namespaces[index].wireID else {
            throw ClientError(
                .refused,
                "the daemon does not know this namespace any more; open it again",
                status: .unknownNamespace
            )
        }
        return id
    }

    // MARK: Giving back

    /// Gives a lease back: the daemon hears of it with the next call, or from `flushReturns`. True when somebody has to
    /// see to that, because nothing else waits to be told already.
    func release(_ leaseID: UInt64, epoch: UInt64) -> Bool { giveBack(epoch) { $0.leases.append(leaseID) } }

    /// Gives a reservation back that was not committed, likewise.
    func abandon(_ reservationID: UInt64, epoch: UInt64) -> Bool {
        giveBack(epoch) { $0.reservations.append(reservationID) }
    }

    private func giveBack(_ epoch: UInt64, _ append: (inout Returns) -> Void) -> Bool {
        guard currentProcessID() == processID else { return false }
        return pendingReturns.withLock { pending in
            // Those of an earlier connection ended with it.
            if epoch < pending.epoch { return false }
            if epoch > pending.epoch { pending = Returns(epoch: epoch) }
            defer { append(&pending) }
            return pending.isEmpty
        }
    }

    /// Tells the daemon what was given back, unless somebody is talking to it, whose next call takes it along. Does not
    /// wait: each end of a call would wake whoever waits, only to find that the next call was quicker.
    ///
    /// - Returns: false when there is still something to be told.
    func flushReturns() -> Bool {
        guard pendingReturns.withLock({ !$0.isEmpty }) else { return true }
        guard hold(until: monotonicNanoseconds()) else { return false }
        defer { leave() }
        guard connection != nil else { return true }
        enqueueReturns()
        do throws(ClientError) { try connection!.sendEnqueued(deadline: deadline()) } catch { drop(error) }
        return true
    }

    /// To be called with a connection.
    private func enqueueReturns() {
        let returns = pendingReturns.withLock { pending -> Returns in
            if pending.isEmpty { return pending }
            defer { pending = Returns(epoch: pending.epoch) }
            return pending
        }
        guard !returns.isEmpty, returns.epoch == epoch else { return }
        for start in stride(from: 0, to: returns.leases.count, by: Self.returnsPerFrame) {
            let end = min(start + Self.returnsPerFrame, returns.leases.count)
            connection!.enqueue(.release, NumberList.body(Array(returns.leases[start..<end])))
        }
        for id in returns.reservations { connection!.enqueue(.abandon, NumberList.body(id)) }
    }

    // MARK: Signs of life

    /// Renews every lease and lets go of closed regions, if there is a connection and nobody uses it at the moment.
    /// Returns how long to wait for the next time.
    func renew() -> UInt64 {
        let idle: UInt64 = 500_000_000
        guard hold(until: monotonicNanoseconds() + 1_000_000) else { return 20_000_000 }
        defer { leave() }
        guard connection != nil else { return idle }
        do throws(ClientError) {
            let hasMore = try connection!.renew(deadline: deadline())
            return hasMore ? min(leaseNanoseconds / 3, 100_000_000) : max(leaseNanoseconds / 3, 10_000_000)
        } catch {
            drop(error)
            return idle
        }
    }

    /// Ends the connection: at once, or when the call that is using it ends.
    func close() {
        isClosed.store(true, ordering: .releasing)
        if hold(until: deadline()) { leave() }
    }
}
