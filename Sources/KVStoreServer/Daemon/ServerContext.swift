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
    /// Flushes, purges and pins, which may take seconds and must not keep lookups from their workers.
    let slowWorkers: NIOThreadPool
    /// Figures for people: to be had although somebody flushes all the time.
    let figureWorkers: NIOThreadPool
    let processes: ClientProcesses
    let limit: ConnectionLimit
    let counters = DaemonCounters()
    /// Memory in which connections prepare blocks: an eighth of the cap.
    let staging: SharedBudget
    /// Memory for large requests and replies on their way.
    let frames: SharedBudget
    /// Memory for the keys of prefetches that wait.
    let wishes: SharedBudget
    /// Memory for what is noted of leases: a client may lease the same blocks again and again.
    let leaseNotes: SharedBudget
    let pins: PinTable
    let timeLimits: SessionTimeLimits
    /// Tells clients of the next daemon that theirs is gone.
    let daemonID: UInt64
    let startedNanoseconds = monotonicNanoseconds()

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
        figureWorkers: NIOThreadPool,
        watch: ClientWatch,
        logger: Logger,
        timeLimits: SessionTimeLimits
    ) {
        state = Mutex(State(configuration: configuration, tenants: tenants))
        self.store = store
        self.workers = workers
        self.slowWorkers = slowWorkers
        self.figureWorkers = figureWorkers
        self.logger = logger
        self.timeLimits = timeLimits
        processes = ClientProcesses(watch: watch, store: store)
        limit = ConnectionLimit(configuration.maximumConnections)
        staging = SharedBudget(capacityBytes: configuration.stagingCapacityBytes)
        frames = SharedBudget(capacityBytes: configuration.frameCapacityBytes, admitsOneAlways: true)
        wishes = SharedBudget(capacityBytes: configuration.wishCapacityBytes, admitsOneAlways: true)
        leaseNotes = SharedBudget(capacityBytes: configuration.leaseNoteCapacityBytes, admitsOneAlways: true)
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

    func noteAcceptError(_ error: any Error) {
        counters.acceptErrors.increment()
        logger.warning("cannot accept a connection: \(error)")
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

    /// Tells everything that is shared what each tenant may have of it; tenants that are gone lose their limits.
    ///
    /// With several tenants, one gets at most half of the memory for preparing and for requests. Of its own memory it
    /// leases half at most, so that there is always something to evict for what it stores.
    func setQuotas(from old: [TenantConfiguration] = [], to new: [TenantConfiguration]) {
        let (tenants, hasPublic) = state.withLock { ($0.tenants.entries.map(\.name), $0.tenants.publicEntry != nil) }
        let names = Set(tenants + (hasPublic ? [TenantConfiguration.publicName] : []))
        let divisor = names.count > 1 ? 2 : 1
        for budget in [staging, frames, wishes, leaseNotes] { budget.setShare(bytes: budget.capacityBytes / divisor) }
        for name in names {
            let quotas = new.first { $0.name == name }
            store.setQuota(
                tenant: name,
                memoryBytes: quotas?.memoryQuotaBytes,
                diskBytes: quotas?.diskQuotaBytes,
                leasedBytes: memoryBytes(ofTenant: name) / 2
            )
        }
        for tenant in old where !names.contains(tenant.name) {
            store.setQuota(tenant: tenant.name, memoryBytes: nil, diskBytes: nil)
        }
    }

    /// The most memory that the tenant's blocks can have.
    func memoryBytes(ofTenant name: String) -> Int {
        let capacity = store.configuration.memoryCapacityBytes
        return min(capacity, configuration.tenants.first { $0.name == name }?.memoryQuotaBytes ?? capacity)
    }

    enum Work { case lookups, slow, figures }

    func pool(for work: Work) -> NIOThreadPool {
        switch work {
        case .lookups: workers
        case .slow: slowWorkers
        case .figures: figureWorkers
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
            let isNew = state.withLock { state -> Bool? in
                let known = state.namespaces[identity.tenant] ?? []
                guard !known.contains(fingerprint) else { return false }
                guard known.count < WireLimits.namespaces else { return nil }
                state.namespaces[identity.tenant, default: []].insert(fingerprint)
                return true
            }
            guard let isNew else {
                let text =
                    "a tenant opens at most \(WireLimits.namespaces) namespaces; restart the daemon to forget old ones"
                return .failure(NamespaceProblem(status: .limitReached, text: text))
            }
            do throws(KVStoreError) {
                return .success(try store.namespace(identity))
            } catch {
                // What the store refuses takes nobody's place.
                if isNew { _ = state.withLock { $0.namespaces[identity.tenant]?.remove(fingerprint) } }
                throw error
            }
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
