internal import FoundationEssentials
internal import Glibc
internal import KVStore
internal import KVStoreIPC

extension ServerContext {
    /// Everything, for an operator.
    func statistics(hottest: Int = 0) -> DaemonStatistics {
        DaemonStatistics(
            daemon: info,
            store: store.statistics,
            tenants: store.tenantStatistics(),
            namespaces: store.namespaceStatistics(),
            hottest: store.hottestPrefixes(limit: hottest),
            operations: store.latencies()
        )
    }

    private var info: DaemonInfo {
        var info = DaemonInfo()
        info.version = KVStoreVersion.text
        info.processID = Int(getpid())
        info.uptimeSeconds = Double(monotonicNanoseconds() - startedNanoseconds) / 1e9
        info.connections = limit.open
        info.connectionsTotal = limit.accepted
        info.refusedConnections = limit.refused + counters.refusedPeers.count
        info.requests = counters.requests.count
        info.protocolErrors = counters.protocolErrors.count
        info.acceptErrors = counters.acceptErrors.count
        info.slowClients = counters.slowClients.count
        info.expiredLeases = counters.expiredLeases.count
        info.diedClients = counters.diedClients.count
        info.stagingBytes = staging.usedBytes
        info.stagingRefusals = counters.stagingRefusals.count
        info.pinnedBytes = pins.byteCount
        info.sharedClosedRegionBytes = store.closedSharedByteCount
        info.isDraining = isDraining
        return info
    }

    /// How the daemon is. Degraded is still ready: it serves, from memory.
    func health(withReasons: Bool) -> HealthReport {
        let statistics = store.statistics
        var reasons: [String] = []
        if let problem = statistics.diskProblem { reasons.append("the disk tier is not in use: \(problem)") }
        if statistics.isWarming { reasons.append("the index of the disk tier is still being loaded") }
        var state: HealthReport.State = statistics.diskProblem == nil ? .ready : .degraded
        if isDraining {
            state = .notReady
            reasons.append("the daemon is shutting down")
        }
        return HealthReport(state: state, live: true, reasons: withReasons ? reasons : [])
    }

    /// How the daemon is, in one line for systemd.
    var statusLine: String {
        let statistics = store.statistics
        let problem = statistics.diskProblem.map { "; the disk tier is not in use: \($0)" } ?? ""
        let state = isDraining ? "draining" : statistics.isWarming ? "serving, loading the disk's index" : "serving"
        return "\(state); \(limit.open) connections, \(statistics.memory.blocks) blocks in memory, "
            + "\(statistics.disk.blocks) on disk\(problem)"
    }

    /// What the metrics endpoint serves.
    var metricsContent: MetricsEndpoint.Content {
        MetricsEndpoint.Content(
            metrics: { [self] tenantLabels in PrometheusText.render(statistics(), tenantLabels: tenantLabels) },
            health: { [self] in
                let report = health(withReasons: false)
                return (report.state != .notReady, report.state.rawValue)
            }
        )
    }
}

/// The version that HELLO's daemon tells of itself.
enum KVStoreVersion {
    static let text = "0.4.0"
}

enum JSONBytes {
    /// These types always encode: they hold numbers, strings and lists of them.
    static func encode(_ value: some Encodable) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        guard let data = try? encoder.encode(value) else { return Array("{}".utf8) }
        return Array(data)
    }
}
