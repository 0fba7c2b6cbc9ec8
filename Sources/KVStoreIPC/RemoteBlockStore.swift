internal import FoundationEssentials
public import KVStore
internal import Synchronization

/// The cache of a daemon, used like a `BlockStore` of this process: memory hits are read in place, from memory that
/// the daemon shares, and cost a round trip whatever their size.
///
/// ```swift
/// let store: any BlockCache = RemoteBlockStore(socketPath: "/run/kvstore/kvstore.sock")
/// ```
///
/// No call waits longer than `ClientOptions` says, and none fails because of the daemon: one that is dead, hung or of
/// another version is a miss, and is looked for again in the background of later calls. Only `namespace` throws then,
/// because without the daemon there are no keys (it mixes a secret into them that never leaves it).
///
/// Of a prompt of more than 131,000 blocks only the first that many are asked for, stored or removed.
///
/// Any thread may call; calls of one `RemoteBlockStore` go over one connection, one after the other.
public final class RemoteBlockStore: BlockCache {
    private let core: RemoteCore
    private let renewal: DiskThread
    private let worker: ReaderPool
    private let isClosed = Atomic<Bool>(false)

    /// Connects when first needed.
    public init(socketPath: String, options: ClientOptions = ClientOptions()) {
        let core = RemoteCore(ConnectionGate(path: socketPath, options: options))
        self.core = core
        renewal = DiskThread(name: "kvstore-renew") { core.keepInTouchUntilClosed() }
        worker = ReaderPool(threadCount: 1, name: "kvstore-client")
    }

    deinit { close() }

    /// Opens a namespace. The daemon decides its tenant and salt: those of `identity` are not sent.
    ///
    /// - Throws: `invalidArgument`; `unavailable` when there is no daemon or it refuses (try again later).
    public func namespace(_ identity: NamespaceIdentity) throws(KVStoreError) -> Namespace {
        try identity.validate()
        var sent = identity
        sent.tenant = ""
        sent.salt = []
        let encoding = sent.canonicalEncoding
        do throws(ClientError) {
            let deadline = core.gate.deadline()
            return try core.gate.with(deadline: deadline) { (connection, gate) throws(ClientError) in
                let body = try connection.call(.openNamespace, encoding, deadline: deadline)
                guard let reply = NamespaceReply(body), reply.blockByteCount == UInt64(sent.blockByteCount) else {
                    throw ClientError(.protocolError, "the answer to a namespace is not understood")
                }
                let index = gate.register(sent, reply)
                sent.tenant = connection.hello.tenant
                return Namespace(identity: sent, fingerprint: reply.fingerprint, index: UInt16(index))
            }
        } catch {
            let isInvalid = error.status == .invalidArgument
            throw KVStoreError(isInvalid ? .invalidArgument : .unavailable, error.message)
        }
    }

    // MARK: Finding

    /// How many leading blocks are stored, and where; none when the daemon cannot be asked.
    public func match(_ prefix: Prefix) -> PrefixMatch {
        let reply = core.ask(.match, prefix).flatMap(MatchReply.init)
        return PrefixMatch(
            tiers: Array((reply?.tiers ?? []).prefix(prefix.keys.count)),
            isWarming: reply?.isWarming ?? false
        )
    }

    /// Takes a lease on the leading blocks that are stored. See `BlockLease.isCurrent`.
    public func acquire(_ prefix: Prefix, memoryOnly: Bool) -> BlockLease? {
        core.acquire(prefix, memoryOnly: memoryOnly)
    }

    /// As `acquire(_:memoryOnly:)`; the waiting is done by a thread of the client.
    public func acquire(_ prefix: Prefix) async -> BlockLease? {
        let box = await withCheckedContinuation { continuation in
            worker.submit { continuation.resume(returning: LeaseBox(self.core.acquire(prefix, memoryOnly: false))) }
        }
        return box.take()
    }

    /// Asks the daemon to promote what a coming request will need. Nothing comes back.
    public func prefetch(_ prefix: Prefix) { core.tell(.prefetch, prefix) }

    // MARK: Storing and removing

    /// Asks for places for missing blocks. They lie in this connection's staging region; commit copies them.
    public func reserve(_ prefix: Prefix) -> BlockReservation? { core.reserve(prefix) }

    /// Removes blocks and all that builds on them.
    @discardableResult
    public func remove(_ prefix: Prefix, from first: Int) -> Int {
        core.count(.remove, prefix, argument: UInt32(clamping: first), slow: true)
    }

    /// Keeps the stored blocks of a prefix in the daemon's memory for a time. Returns how many are kept.
    @discardableResult
    public func pin(_ prefix: Prefix, seconds: Int) -> Int {
        core.count(.pin, prefix, argument: UInt32(clamping: seconds), slow: true)
    }

    /// Ends a pin. Returns how many blocks were kept by it.
    @discardableResult
    public func unpin(_ prefix: Prefix) -> Int { core.count(.unpin, prefix, argument: 0, slow: true) }

    /// PIN, UNPIN or REMOVE for people, who want to know why nothing was done: errors are thrown.
    package func count(_ verb: Verb, _ prefix: Prefix, argument: Int = 0) throws(ClientError) -> Int {
        try core.tryCounting(verb, prefix, argument: UInt32(clamping: argument))
    }

    // MARK: Without shared memory

    /// The bytes of block `index` of a prefix, sent over the socket; nil on a miss.
    public func get(_ prefix: Prefix, at index: Int) -> [UInt8]? {
        guard prefix.keys.indices.contains(index) else { return nil }
        let bytes = core.ask(.get, prefix.first(index + 1), argument: UInt32(index))
        return bytes?.count == prefix.namespace.blockByteCount ? bytes : nil
    }

    /// Stores the last block of a prefix by sending its bytes over the socket. True when it is there now.
    @discardableResult
    public func put(_ prefix: Prefix, _ bytes: [UInt8]) -> Bool {
        precondition(bytes.count == prefix.namespace.blockByteCount, "a block has exactly blockByteCount bytes")
        let argument = UInt32(bytes.count)
        return core.ask(.put, prefix, argument: argument, payload: bytes).flatMap(NumberList.uint64) == 1
    }

    // MARK: Whole store

    /// Has everything written to disk that is only in the daemon's memory.
    public func flush() -> FlushResult {
        do throws(ClientError) {
            let body = try core.call(.flush, [], slow: true)
            guard let reply = FlushReply(body) else {
                throw ClientError(.protocolError, "the answer to a flush is not understood")
            }
            return FlushResult(
                durableBlocks: Int(clamping: reply.durableBlocks),
                refusedBlocks: Int(clamping: reply.refusedBlocks),
                reason: reply.reason.isEmpty ? nil : reply.reason
            )
        } catch {
            return FlushResult(durableBlocks: 0, refusedBlocks: 0, reason: error.description)
        }
    }

    /// The counters of this client's tenant; all zero when the daemon cannot be asked.
    public var statistics: StoreStatistics {
        struct StorePart: Decodable { let store: StoreStatistics }
        guard let body = try? core.call(.statistics, [0, 0, 0], slow: false) else { return StoreStatistics() }
        return (try? JSONDecoder().decode(StorePart.self, from: Data(body)))?.store ?? StoreStatistics()
    }

    /// Ends the connection and with it the daemon's side of all leases; their memory stays mapped while they live.
    public func close() {
        // Its threads are joined once; the end of the object comes here too.
        guard !isClosed.exchange(true, ordering: .relaxed) else { return }
        core.close()
        worker.stop()
        renewal.join()
    }
}

/// A noncopyable lease on its way through a continuation.
private final class LeaseBox: Sendable {
    private let lease: Mutex<BlockLease?>
    init(_ lease: consuming sending BlockLease?) { self.lease = Mutex(lease) }
    func take() -> BlockLease? { lease.withLock { $0.take() } }
}
