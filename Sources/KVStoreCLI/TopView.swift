import KVStore
import KVStoreIPC

/// What a daemon said at one moment.
struct TopSample: Hashable, Sendable {
    /// On a clock that does not go back.
    var seconds: Double
    var statistics: DaemonStatistics
}

/// One screen of `kvstore top`: a pure function of two samples and the hit ratios before them.
struct TopView {
    /// Nil for the first screen, and after the daemon was started anew: then there are no rates.
    var previous: TopSample?
    var current: TopSample
    /// Hit ratio by block of each interval, oldest first; nil for intervals without requests.
    var history: [Double?]
    var columns = 80
    var rows = 24

    private var now: DaemonStatistics { current.statistics }

    /// The hit ratio by block between two samples; nil when nothing was asked for.
    static func hitRatio(from old: TopSample, to new: TopSample) -> Double? {
        let asked = new.statistics.store.requestedBlocks - old.statistics.store.requestedBlocks
        guard asked > 0 else { return nil }
        func hits(_ store: StoreStatistics) -> Int { store.memory.hitBlocks + store.disk.hitBlocks }
        return Double(max(0, hits(new.statistics.store) - hits(old.statistics.store))) / Double(asked)
    }

    /// Whether `new` comes from the same process as `old`, so that differences mean something.
    static func isSameDaemon(_ old: TopSample, _ new: TopSample) -> Bool {
        old.statistics.daemon.processID == new.statistics.daemon.processID
            && new.statistics.daemon.uptimeSeconds >= old.statistics.daemon.uptimeSeconds && new.seconds > old.seconds
    }

    /// The screen, at most `rows` lines of at most `columns` characters, each ended by a newline.
    var text: String {
        var lines = header
        lines += rateLines
        lines.append(historyLine)
        lines.append("")
        lines += levelLines
        lines += section(tenantTable, rowLimit: max(3, (rows - lines.count - 3) / 2))
        if now.hottest.isEmpty {
            lines += ["", "no prefix is shared yet, or this user may not see them"]
        } else {
            lines += section(hottestTable, rowLimit: max(2, rows - lines.count - 1))
        }
        return lines.prefix(rows).map { line in
            line.count <= columns ? line + "\n" : line.prefix(max(1, columns - 1)) + "…\n"
        }.joined()
    }

    /// A blank line and a table, cut to `rowLimit` lines.
    private func section(_ table: TextTable, rowLimit: Int) -> [String] {
        let lines = table.text.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map(String.init)
        return lines.isEmpty ? [] : [""] + lines.prefix(rowLimit)
    }

    private var header: [String] {
        let daemon = now.daemon
        let process = daemon.processID > 0 ? "process \(daemon.processID)  " : ""
        let disk =
            now.store.diskProblem != nil
            ? "disk NOT WORKING"
            : now.store.isWarming ? "disk loading" : now.store.disk.capacityBytes == 0 ? "no disk" : "disk ok"
        return [
            "kvstore \(daemon.version)  \(process)up \(secondsText(daemon.uptimeSeconds))  "
                + "clients \(grouped(daemon.connections))  \(disk)\(daemon.isDraining ? "  DRAINING" : "")",
            "",
        ]
    }

    /// A counter's growth in a second; nil without a sample before.
    private func rate(_ count: (DaemonStatistics) -> Int) -> Double? {
        guard let previous else { return nil }
        return Double(max(0, count(now) - count(previous.statistics))) / (current.seconds - previous.seconds)
    }

    private func rateText(_ rate: Double?) -> String {
        guard let rate else { return "-" }
        return rate < 10 ? decimal(rate, digits: 1) : grouped(Int(rate.rounded()))
    }

    private var rateLines: [String] {
        var table = TextTable(header: ["per second", "", "", "", "", ""], leftColumns: [2, 4])
        func add(_ cells: [(String, (DaemonStatistics) -> Int)]) {
            table.add(cells.flatMap { ["  " + $0.0, rateText(rate($0.1))] })
        }
        add([
            ("lookups", { $0.store.lookups }), ("stored", { $0.store.committedBlocks }),
            ("requests", { $0.daemon.requests }),
        ])
        add([
            ("memory hits", { $0.store.memory.hitBlocks }), ("spilled", { $0.store.spilledBlocks }),
            ("evicted", { $0.store.memory.evictedBlocks }),
        ])
        add([
            ("disk hits", { $0.store.disk.hitBlocks }), ("promoted", { $0.store.promotedBlocks }),
            ("dropped", { $0.store.droppedBlocks }),
        ])
        return table.text.split(separator: "\n").map(String.init)
    }

    private var historyLine: String {
        let ratio = previous.flatMap { Self.hitRatio(from: $0, to: current) }
        let label = "hit ratio \(ratio.map { decimal($0, digits: 3) } ?? "-")"
        if history.isEmpty { return label }
        return label + " " + Self.sparkline(history, width: max(8, columns - label.count - 2))
    }

    /// The last `width` values from 0 to 1 as bars; a dot where there is none.
    static func sparkline(_ values: [Double?], width: Int) -> String {
        let bars = Array("▁▂▃▄▅▆▇█")
        return String(
            values.suffix(width).map { value -> Character in
                guard let value else { return "·" }
                return bars[min(bars.count - 1, max(0, Int(value * Double(bars.count))))]
            }
        )
    }

    private var levelLines: [String] {
        func level(_ name: String, _ tier: TierStatistics) -> String {
            let share = tier.capacityBytes == 0 ? 0 : Double(tier.bytes) / Double(tier.capacityBytes)
            let filled = min(20, max(0, Int((share * 20).rounded())))
            let bar = String(repeating: "█", count: filled) + String(repeating: "░", count: 20 - filled)
            return "\(name)  \(bar)  \(ByteSize(tier.bytes)) of \(ByteSize(tier.capacityBytes)), "
                + "\(grouped(tier.blocks)) blocks"
        }
        var lines = [level("memory", now.store.memory)]
        if now.store.disk.capacityBytes > 0 {
            lines.append(level("disk  ", now.store.disk))
            lines.append(
                "waiting to be written \(ByteSize(now.store.queuedBytes)), only in memory "
                    + "\(grouped(now.store.unwrittenBlocks)) blocks"
            )
        }
        let times = ["acquire.memory", "acquire.disk", "commit"].compactMap { name -> String? in
            guard let operation = now.operations[name], operation.count > 0 else { return nil }
            return "\(name) \(durationText(microseconds: Double(operation.p50Nanoseconds) / 1000)) / "
                + durationText(microseconds: Double(operation.p99Nanoseconds) / 1000)
        }
        if !times.isEmpty { lines.append("p50 / p99  " + times.joined(separator: ", ")) }
        return lines
    }

    private var tenantTable: TextTable {
        var table = TextTable(header: ["tenant", "lookups/s", "hit ratio", "in memory", "on disk", "leases"])
        for tenant in now.tenants {
            let before = previous?.statistics.tenants.first { $0.name == tenant.name }
            let asked = tenant.requestedBlocks - (before?.requestedBlocks ?? 0)
            let hits = tenant.memoryHitBlocks + tenant.diskHitBlocks
            let hitsBefore = (before?.memoryHitBlocks ?? 0) + (before?.diskHitBlocks ?? 0)
            let seconds = previous.map { current.seconds - $0.seconds }
            table.add(
                tenantText(tenant.name),
                rateText(seconds.map { Double(max(0, tenant.lookups - (before?.lookups ?? 0))) / $0 }),
                asked > 0 ? decimal(Double(max(0, hits - hitsBefore)) / Double(asked), digits: 3) : "-",
                String(describing: ByteSize(tenant.memoryBytes)),
                String(describing: ByteSize(tenant.diskBytes)),
                grouped(tenant.leases)
            )
        }
        return table
    }

    private var hottestTable: TextTable {
        var table = TextTable(
            header: ["hottest prefix", "tenant", "model", "blocks", "uses", "last used"],
            leftColumns: [1, 2]
        )
        for prefix in now.hottest {
            table.add(
                printable(prefix.keyHash, limit: 8),
                tenantText(prefix.tenant),
                printable(prefix.namespace, limit: 28),
                grouped(prefix.blocks),
                prefix.uses >= 255 ? "255+" : "\(prefix.uses)",
                prefix.lastUsedSeconds.map { secondsText(Double($0)) + " ago" } ?? "before the start"
            )
        }
        return table
    }
}
