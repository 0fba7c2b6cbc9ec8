internal import KVStore
internal import KVStoreIPC
internal import Logging
internal import NIOPosix
internal import Synchronization

/// What every connection of the daemon shares. Thread-safe.
final class ServerContext: Sendable {
    let store: BlockStore
    let logger: Logger
    /// Waits for the disk, copies and hashes: whatever would hold an event loop up.
    let workers: NIOThreadPool
    /// Flushes, purges and figures for people, which may take seconds and must not keep lookups from their workers.
    let slowWorkers: NIOThreadPool
    let processes: ClientProcesses
    let limit: ConnectionLimit
    let counters: DaemonCounters
    let staging: StagingBudget
    let frames: FrameBudget
    let pins: PinTable
    let timeLimits: SessionTimeLimits
    /// Tells clients of the next daemon that theirs is gone.
    let daemonID: UInt64
    let startedNanoseconds = HostClock.monotonicNanoseconds()

    private struct State: Sendable {
        var configuration: ServerConfiguration
        var tenants: TenantTable
        var isDraining = false
        /// Namespaces that each tenant opened since the start, by fingerprint.
        var namespaces: [String: Set<BlockKey>] = [:]
        var requestShutdown: (@Sendable () -> Void)?
    }

    private let state: Mutex<State>

    init(
        configuration: ServerConfiguration,
        tenants: TenantTable,
        store: BlockStore,
        workers: NIOThreadPool,
        slowWorkers: NIOThreadPool,
        watch: ClientWatch,
        logger: Logger,
        timeLimits: SessionTimeLimits
    ) {
        state = Mutex(State(configuration: configuration, tenants: tenants))
        self.store = store
        self.workers = workers
        self.slowWorkers = slowWorkers
        self.logger = logger
        self.timeLimits = timeLimits
        let counters = DaemonCounters()
        self.counters = counters
        processes = ClientProcesses(watch: watch, store: store) { counters.diedClients.increment() }
        limit = ConnectionLimit(configuration.maximumConnections)
        staging = StagingBudget(capacityBytes: configuration.stagingCapacityBytes)
        frames = FrameBudget(capacityBytes: configuration.frameCapacityBytes)
        pins = PinTable(capacityBytes: configuration.memoryCapacityBytes / 2)
        daemonID = UInt64.random(in: 1...UInt64.max)
    }

    var configuration: ServerConfiguration { state.withLock { $0.configuration } }
    var tenants: TenantTable { state.withLock { $0.tenants } }
    /// No new blocks any more; set once.
    var isDraining: Bool {
        get { state.withLock { $0.isDraining } }
        set { state.withLock { $0.isDraining = newValue } }
    }

    /// Takes a changed configuration over. Connections that are open stay who they are.
    func reload(_ configuration: ServerConfiguration, tenants: TenantTable) {
        let old = state.withLock { state in
            defer {
                state.configuration = configuration
                state.tenants = tenants
            }
            return state.configuration.tenants
        }
        limit.limit = configuration.maximumConnections
        setQuotas(from: old, to: configuration.tenants)
    }

    /// Tells the store what each tenant may hold; tenants that are gone lose their limits.
    func setQuotas(from old: [TenantConfiguration] = [], to new: [TenantConfiguration]) {
        for tenant in new {
            store.setQuota(tenant: tenant.name, memoryBytes: tenant.memoryQuotaBytes, diskBytes: tenant.diskQuotaBytes)
        }
        for tenant in old where !new.contains(where: { $0.name == tenant.name }) {
            store.setQuota(tenant: tenant.name, memoryBytes: nil, diskBytes: nil)
        }
    }

    /// Ends the daemon as SIGTERM does.
    func requestShutdown() { state.withLock { $0.requestShutdown }?() }
    func onShutdownRequest(_ action: @escaping @Sendable () -> Void) { state.withLock { $0.requestShutdown = action } }

    struct NamespaceProblem: Error {
        var status: WireStatus
        var text: String
    }

    /// Opens a namespace, if its tenant has not too many. May wait for the disk.
    func openNamespace(_ identity: NamespaceIdentity) -> Result<Namespace, NamespaceProblem> {
        do throws(KVStoreError) {
            try identity.validate()
            let fingerprint = identity.fingerprint
            let isAllowed = state.withLock { state in
                var known = state.namespaces[identity.tenant] ?? []
                guard known.contains(fingerprint) || known.count < WireLimits.namespaces else { return false }
                known.insert(fingerprint)
                state.namespaces[identity.tenant] = known
                return true
            }
            guard isAllowed else {
                let text =
                    "a tenant opens at most \(WireLimits.namespaces) namespaces; restart the daemon to forget old ones"
                return .failure(NamespaceProblem(status: .limitReached, text: text))
            }
            return .success(try store.namespace(identity))
        } catch {
            return .failure(NamespaceProblem(status: .invalidArgument, text: error.message))
        }
    }
}

/// What the daemon counts itself; blocks are counted by the store.
final class DaemonCounters: Sendable {
    let requests = Atomic<Int>(0)
    let protocolErrors = Atomic<Int>(0)
    let refusedPeers = Atomic<Int>(0)
    let expiredLeases = Atomic<Int>(0)
    let diedClients = Atomic<Int>(0)
    let acceptErrors = Atomic<Int>(0)
    let slowClients = Atomic<Int>(0)
    let stagingRefusals = Atomic<Int>(0)
}

extension Atomic<Int> {
    func increment(by count: Int = 1) { wrappingAdd(count, ordering: .relaxed) }
    var count: Int { load(ordering: .relaxed) }
}

/// Memory in which connections prepare blocks: an eighth of the cap, whoever asks first.
final class StagingBudget: Sendable {
    let capacityBytes: Int
    private let used = Mutex(0)

    init(capacityBytes: Int) { self.capacityBytes = capacityBytes }

    var usedBytes: Int { used.withLock { $0 } }
    var freeBytes: Int { capacityBytes - usedBytes }

    /// False when that much is not left; nothing changed then.
    func take(_ byteCount: Int) -> Bool {
        used.withLock { used in
            guard byteCount <= capacityBytes - used else { return false }
            used += byteCount
            return true
        }
    }

    func give(_ byteCount: Int) { used.withLock { $0 -= byteCount } }
}

/// Memory for large requests and replies on their way. One is always let through, however large, or a small cap would
/// refuse it for ever.
final class FrameBudget: Sendable {
    private let capacityBytes: Int
    private let used = Mutex(0)

    init(capacityBytes: Int) { self.capacityBytes = capacityBytes }

    var usedBytes: Int { used.withLock { $0 } }

    func take(_ byteCount: Int) -> Bool {
        used.withLock { used in
            guard used == 0 || byteCount <= capacityBytes - used else { return false }
            used += byteCount
            return true
        }
    }

    func give(_ byteCount: Int) { used.withLock { $0 -= byteCount } }
}

/// How long a client may take before it is cut off.
package struct SessionTimeLimits: Sendable {
    /// From connecting to the whole hello.
    package var helloNanoseconds: UInt64 = 10_000_000_000
    /// From the first byte of a frame to its last.
    package var frameNanoseconds: UInt64 = 30_000_000_000
    /// From the end of the work to the last byte of the reply leaving.
    package var replyNanoseconds: UInt64 = 30_000_000_000

    /// 10 s for the hello, 30 s for a frame in either direction.
    package init() {}
}
