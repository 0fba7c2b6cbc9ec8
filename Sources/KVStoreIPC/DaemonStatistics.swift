internal import FoundationEssentials
internal import Glibc
public import KVStore

// What a daemon tells about itself. The JSON of `kvstore stats --json`, `health --json` and `namespaces --json` is the
// coding of these types: keys are the names below.

/// Everything a daemon tells of itself at one moment. Counts are since it was started.
public struct DaemonStatistics: Sendable, Codable, Hashable {
    /// The process and its connections.
    public var daemon: DaemonInfo
    /// The store: sums over all tenants for an operator, the caller's own part for a tenant.
    public var store: StoreStatistics
    /// The tenants that the caller may see.
    public var tenants: [TenantStatistics]
    /// Their namespaces.
    public var namespaces: [NamespaceStatistics]
    /// The prefixes that the most lookups share, if they were asked for.
    public var hottest: [HotPrefix]
    /// How long operations took, by name: `acquire.memory`, `acquire.disk`, `reserve`, `commit`, `promote`, as measured
    /// inside the daemon.
    public var operations: [String: LatencySummary]

    /// All parts.
    public init(
        daemon: DaemonInfo,
        store: StoreStatistics,
        tenants: [TenantStatistics],
        namespaces: [NamespaceStatistics],
        hottest: [HotPrefix],
        operations: [String: LatencySummary]
    ) {
        self.daemon = daemon
        self.store = store
        self.tenants = tenants
        self.namespaces = namespaces
        self.hottest = hottest
        self.operations = operations
    }
}

extension DaemonStatistics {
    /// What one tenant may see: its own figures, and of the daemon whether it works. Of the store's figures those are
    /// filled that are known by tenant, capacities are its quotas where it has some; all others stay zero.
    package func part(ofTenant name: String) -> DaemonStatistics {
        var info = DaemonInfo()
        info.version = daemon.version
        info.uptimeSeconds = daemon.uptimeSeconds
        info.isDraining = daemon.isDraining
        let tenant = tenants.first { $0.name == name } ?? TenantStatistics(name: name)
        return DaemonStatistics(
            daemon: info,
            store: Self.store(of: tenant, in: store),
            tenants: [tenant],
            namespaces: namespaces.filter { $0.tenant == name },
            hottest: [],
            operations: [:]
        )
    }

    private static func store(of tenant: TenantStatistics, in whole: StoreStatistics) -> StoreStatistics {
        var store = StoreStatistics()
        store.lookups = tenant.lookups
        store.requestedBlocks = tenant.requestedBlocks
        store.requestedTokens = tenant.requestedTokens
        store.memory.hitBlocks = tenant.memoryHitBlocks
        store.memory.hitTokens = tenant.memoryHitTokens
        store.memory.blocks = tenant.memoryBlocks
        store.memory.bytes = tenant.memoryBytes
        store.unusedBytes = tenant.unusedBytes
        store.memory.capacityBytes = tenant.memoryQuotaBytes ?? whole.memory.capacityBytes
        store.disk.hitBlocks = tenant.diskHitBlocks
        store.disk.hitTokens = tenant.diskHitTokens
        store.disk.blocks = tenant.diskBlocks
        store.disk.bytes = tenant.diskBytes
        store.disk.capacityBytes = min(whole.disk.capacityBytes, tenant.diskQuotaBytes ?? .max)
        store.missesAbsent = tenant.missesAbsent
        store.missesInProgress = tenant.missesInProgress
        store.missesWithoutSlot = tenant.missesWithoutSlot
        store.missesCorrupt = tenant.missesCorrupt
        store.missesWarming = tenant.missesWarming
        store.unwrittenBlocks = tenant.unwrittenBlocks
        store.quotaRefusedBlocks = tenant.quotaRefusedBlocks
        store.leases = tenant.leases
        store.isWarming = whole.isWarming
        return store
    }
}

/// A daemon's process and its connections.
public struct DaemonInfo: Sendable, Codable, Hashable {
    /// The version of the program.
    public var version = ""
    /// The process id.
    public var processID = 0
    /// Since the start.
    public var uptimeSeconds = 0.0
    /// Clients connected now.
    public var connections = 0
    /// Connections since the start, refused ones included.
    public var connectionsTotal = 0
    /// Connections that were turned away: over a limit, unknown user, wrong token.
    public var refusedConnections = 0
    /// Requests received, refused ones included.
    public var requests = 0
    /// Frames that were no proper request; each ended its connection.
    public var protocolErrors = 0
    /// Connections that the kernel could not hand over, as when descriptors run out.
    public var acceptErrors = 0
    /// Connections cut off because the client took too long over a hello, a frame or a reply.
    public var slowClients = 0
    /// Leases that ended because their client was silent for too long.
    public var expiredLeases = 0
    /// Connections that ended with leases or reservations open, as when a client is killed.
    public var diedClients = 0
    /// Memory of the connections' staging regions.
    public var stagingBytes = 0
    /// Reservations that got nothing because the memory for staging regions was used up.
    public var stagingRefusals = 0
    /// Blocks that clients pinned, in bytes of their slots.
    public var pinnedBytes = 0
    /// Memory of regions that the store has closed and clients still map.
    public var sharedClosedRegionBytes = 0
    /// Whether the daemon is about to end and takes no new blocks.
    public var isDraining = false

    /// Nothing yet.
    public init() {}
}

/// Whether a daemon can serve.
public struct HealthReport: Sendable, Codable, Hashable {
    /// How a daemon is.
    public enum State: String, Sendable, Codable {
        /// Everything works.
        case ready
        /// It serves, but with less than was asked for: without its disk, say.
        case degraded
        /// It does not serve (yet).
        case notReady
    }
    /// How the daemon is.
    public var state: State
    /// Whether it answers at all.
    public var live: Bool
    /// Why it is not ready, a sentence each; empty for callers who are no operators.
    public var reasons: [String]

    /// A report.
    public init(state: State, live: Bool, reasons: [String]) {
        self.state = state
        self.live = live
        self.reasons = reasons
    }

    /// For scripts: 0 ready, 1 degraded, 2 not ready.
    public var exitCode: Int32 {
        switch state {
        case .ready: 0
        case .degraded: 1
        case .notReady: 2
        }
    }
}

/// Where the daemon's socket is unless somebody says otherwise.
public enum DaemonSocket {
    /// `$KVSTORE_SOCKET`, else `$XDG_RUNTIME_DIR/kvstore/kvstore.sock`, else `/run/kvstore/kvstore.sock`. Variables that
    /// are empty count as not set.
    public static var standardPath: String {
        // getenv returns a C string owned by the environment; it is copied at once.
        standardPath { name in unsafe getenv(name).map { unsafe String(cString: $0) } }
    }

    /// As `standardPath`, for any environment.
    package static func standardPath(_ environment: (String) -> String?) -> String {
        if let path = environment("KVSTORE_SOCKET"), !path.isEmpty { return path }
        if let directory = environment("XDG_RUNTIME_DIR"), !directory.isEmpty {
            return directory + (directory.hasSuffix("/") ? "" : "/") + "kvstore/kvstore.sock"
        }
        return "/run/kvstore/kvstore.sock"
    }
}

extension DaemonClient {
    /// Everything the caller may see: of all tenants for an operator, else of its own tenant.
    ///
    /// - Parameter hottest: how many of the most used prefixes to tell; they are for operators.
    public func statistics(hottest: Int = 0) throws(ClientError) -> DaemonStatistics {
        try Self.decode(
            DaemonStatistics.self,
            try asOperatorOrTenant { everything throws(ClientError) in
                try statisticsJSON(everything: everything, hottest: everything ? hottest : 0)
            })
    }

    /// The namespaces that the caller may see.
    public func namespaces() throws(ClientError) -> [NamespaceStatistics] {
        try Self.decode(
            [NamespaceStatistics].self,
            try asOperatorOrTenant { everything throws(ClientError) in
                try namespacesJSON(everything: everything)
            })
    }

    /// Whether the daemon can serve; with reasons for an operator.
    public func health() throws(ClientError) -> HealthReport { try Self.decode(HealthReport.self, try healthJSON()) }

    /// Asks for everything, and for the caller's own part if that is all it may see.
    private func asOperatorOrTenant(
        _ ask: (_ everything: Bool) throws(ClientError) -> [UInt8]
    ) throws(ClientError) -> [UInt8] {
        do throws(ClientError) {
            return try ask(true)
        } catch {
            guard error.code == .permissionDenied else { throw error }
            return try ask(false)
        }
    }

    private static func decode<Value: Decodable>(_ type: Value.Type, _ json: [UInt8]) throws(ClientError) -> Value {
        do {
            return try JSONDecoder().decode(type, from: Data(json))
        } catch {
            throw notUnderstood
        }
    }
}
