internal import KVStore
internal import Logging
internal import NIOPosix
internal import Synchronization

/// What every connection of the daemon shares. Thread-safe.
final class ServerContext: Sendable {
    let store: BlockStore
    let logger: Logger
    /// Waits for the disk, copies and hashes: whatever would hold an event loop up.
    let workers: NIOThreadPool
    let watch: ClientWatch
    let limit: ConnectionLimit
    let counters = DaemonCounters()
    let staging: StagingBudget
    /// Tells clients of the next daemon that theirs is gone.
    let daemonID: UInt64
    let startedNanoseconds = HostClock.monotonicNanoseconds()

    private struct State: Sendable {
        var configuration: ServerConfiguration
        var tenants: TenantTable
        var isDraining = false
    }

    private let state: Mutex<State>

    init(
        configuration: ServerConfiguration,
        tenants: TenantTable,
        store: BlockStore,
        workers: NIOThreadPool,
        watch: ClientWatch,
        logger: Logger
    ) {
        state = Mutex(State(configuration: configuration, tenants: tenants))
        self.store = store
        self.workers = workers
        self.watch = watch
        self.logger = logger
        limit = ConnectionLimit(configuration.maximumConnections)
        staging = StagingBudget(capacityBytes: configuration.stagingCapacityBytes)
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
        state.withLock { state in
            state.configuration = configuration
            state.tenants = tenants
        }
        limit.limit = configuration.maximumConnections
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
