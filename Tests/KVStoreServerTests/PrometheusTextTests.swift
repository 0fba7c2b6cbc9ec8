import Foundation
import KVStore
import KVStoreIPC
import Testing

@testable import KVStoreServer

@Suite("Prometheus text")
struct PrometheusTextTests {
    /// A made-up daemon with two tenants, one of them with a name that has to be escaped.
    private static func statistics() throws -> DaemonStatistics {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        defer { store.close() }
        var identity = NamespaceIdentity(model: "m", opaqueBlockByteCount: 4096, tokensPerBlock: 16)
        for name in ["acme", "quoted \" \\ and\nbroken"] {
            identity.tenant = name
            let prefix = try store.namespace(identity).prefix(callerKeys: [[1], [2]])
            store.store(prefix) { _, _ in }
            #expect(store.match(prefix).count == 2)
            _ = store.acquire(prefix)
        }
        store.setQuota(tenant: "acme", memoryBytes: 8 << 20, diskBytes: nil)
        var daemon = DaemonInfo()
        daemon.version = "1.2.3"
        daemon.uptimeSeconds = 12.5
        daemon.requests = 42
        return DaemonStatistics(
            daemon: daemon,
            store: store.statistics,
            tenants: store.tenantStatistics(),
            namespaces: store.namespaceStatistics(),
            hottest: [],
            operations: store.latencies()
        )
    }

    /// The name and value of every series, after checking each line's form.
    private static func parse(_ text: String) throws -> [(name: String, labels: String, value: Double)] {
        var series: [(name: String, labels: String, value: Double)] = []
        var (described, typed): (String?, String?) = (nil, nil)
        var (seen, seenMetrics): (Set<String>, Set<String>) = ([], [])
        for line in text.split(separator: "\n", omittingEmptySubsequences: false).dropLast() {
            if let match = line.wholeMatch(of: /# HELP (kvstore_[a-z0-9_]+) (.+)/) {
                described = String(match.1)
                #expect(seenMetrics.insert(String(match.1)).inserted, "\(match.1) twice")
            } else if let match = line.wholeMatch(of: /# TYPE (kvstore_[a-z0-9_]+) (counter|gauge|histogram)/) {
                #expect(String(match.1) == described)
                typed = String(match.1)
            } else {
                let form = /(kvstore_[a-z0-9_]+)(\{([a-z]+="([^"\\\n]|\\["\\n])*"(,|\}))+)? (-?[0-9.e+-]+)/
                let match = try #require(line.wholeMatch(of: form), "\(line)")
                let name = String(match.1)
                #expect(name.hasPrefix(try #require(typed)), "\(name) has no type")
                let labels = match.2.map(String.init) ?? ""
                #expect(seen.insert(name + labels).inserted, "\(name)\(labels) twice")
                series.append((name, labels, try #require(Double(match.6))))
            }
        }
        return series
    }

    @Test func `Every series has a type and a form that Prometheus reads`() throws {
        let text = PrometheusText.render(try Self.statistics(), tenantLabels: true)
        let series = try Self.parse(text)
        #expect(series.count > 150)
        #expect(text.contains("kvstore_build_info{version=\"1.2.3\"} 1\n"))
        #expect(text.contains("kvstore_requests_total 42\n"))
        #expect(text.contains("kvstore_uptime_seconds 12.5\n"))
        #expect(text.contains("kvstore_hit_blocks_total{tier=\"memory\"} 4\n"))
        #expect(text.contains("kvstore_tenant_hit_blocks_total{tenant=\"acme\",tier=\"memory\"} 2\n"))
        #expect(text.contains("tenant=\"quoted \\\" \\\\ and\\nbroken\""))
        #expect(text.contains("kvstore_tenant_quota_bytes{tenant=\"acme\",tier=\"memory\"} 8388608\n"))
        #expect(!text.contains("kvstore_tenant_quota_bytes{tenant=\"acme\",tier=\"disk\"}"))
    }

    @Test func `No tenant is named unless asked for`() throws {
        let statistics = try Self.statistics()
        let text = PrometheusText.render(statistics, tenantLabels: false)
        #expect(try !Self.parse(text).isEmpty)
        #expect(!text.contains("tenant"))
        #expect(!text.contains("acme"))
        for metric in Metric.all where !metric.namesTenants { #expect(text.contains("# TYPE \(metric.name) ")) }
    }

    @Test func `Buckets of a histogram rise up to the count`() throws {
        let series = try Self.parse(PrometheusText.render(try Self.statistics(), tenantLabels: false))
        let memory = series.filter { $0.labels.contains("operation=\"acquire.memory\"") }
        let buckets = memory.filter { $0.name == "kvstore_operation_seconds_bucket" }
        #expect(buckets.count == LatencySummary.bucketBounds.count + 1)
        #expect(buckets.map(\.value) == buckets.map(\.value).sorted())
        #expect(buckets.first!.labels.contains("le=\"0.000001\""))
        #expect(buckets.dropLast().last!.labels.contains("le=\"10\""))
        #expect(buckets.last!.labels.contains("le=\"+Inf\""))
        #expect(buckets.last!.value == 2)
        #expect(memory.first { $0.name == "kvstore_operation_seconds_count" }?.value == 2)
        #expect(memory.first { $0.name == "kvstore_operation_seconds_sum" }!.value > 0)
    }

    @Test func `A series has the labels that the list says`() throws {
        for metric in Metric.all {
            for sample in metric.samples(try Self.statistics()) {
                #expect(sample.labels.map(\.name) == metric.labels, "\(metric.name)")
            }
        }
    }

    @Test func `Counters end in total and nothing else does`() {
        for metric in Metric.all {
            #expect(metric.name.hasSuffix("_total") == (metric.kind == .counter), "\(metric.name)")
        }
        #expect(Set(Metric.all.map(\.name)).count == Metric.all.count)
    }

    // MARK: What is written about the metrics elsewhere

    /// To write the list anew, run the tests with KVSTORE_REWRITE_GOLDEN=1.
    @Test func `The documented list is the list`() throws {
        var text = """
            # Metrics

            Every metric of `GET /metrics`. All counts are since the daemon's start. Metrics with the label `tenant` are
            served where `metricsListen` is a Unix socket, whose group says who may read them, and never on TCP, where every
            user of the machine can connect.

            | metric | type | labels | meaning |
            |---|---|---|---|

            """
        for metric in Metric.all {
            let labels = metric.labels.isEmpty ? "" : "`" + metric.labels.joined(separator: "`, `") + "`"
            text += "| `\(metric.name)` | \(metric.kind.rawValue) | \(labels) | \(metric.help) |\n"
        }
        try DocumentedText("Sources/KVStoreServer/KVStoreServer.docc/Metrics.md").expect(text)
    }

    // MARK: The dashboard

    private struct Query {
        var panel: String
        var expression: String
        var legend: String
    }

    private static func dashboard() throws -> [Query] {
        let data = Data(try DocumentedText("examples/grafana/kvstore.json").text.utf8)
        let dashboard = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
        let panels = try #require(dashboard["panels"] as? [[String: Any]])
        #expect(Set(panels.compactMap { $0["id"] as? Int }).count == panels.count, "two panels have one id")
        return try panels.filter { $0["type"] as? String != "row" }.flatMap { panel -> [Query] in
            let title = try #require(panel["title"] as? String)
            let targets = try #require(panel["targets"] as? [[String: Any]], "\(title)")
            #expect(!targets.isEmpty, "\(title)")
            #expect(Set(targets.compactMap { $0["refId"] as? String }).count == targets.count, "\(title)")
            return try targets.map {
                Query(
                    panel: title,
                    expression: try #require($0["expr"] as? String),
                    legend: try #require($0["legendFormat"] as? String)
                )
            }
        }
    }

    /// The metric that a series of this name belongs to.
    private static func metric(ofSeries name: String) -> Metric? {
        Metric.all.first { metric in
            metric.kind == .histogram
                ? ["_bucket", "_sum", "_count"].contains { metric.name + $0 == name } : metric.name == name
        }
    }

    @Test func `The dashboard asks for metrics that there are`() throws {
        var used: Set<String> = []
        for query in try Self.dashboard() {
            for match in query.expression.matches(of: /kvstore_[a-z0-9_]+/) {
                let metric = Self.metric(ofSeries: String(match.0))
                #expect(metric != nil, "\(match.0) in '\(query.panel)' is no metric")
                if let metric { used.insert(metric.name) }
                guard metric?.kind != .gauge else { continue }
                let isRate = query.expression.contains("rate(") || query.expression.contains("increase(")
                #expect(isRate, "\(query.expression)")
            }
        }
        #expect(used.count > 30)
    }

    @Test func `The dashboard asks for labels and values that there are`() throws {
        let text = PrometheusText.render(try Self.statistics(), tenantLabels: true)
        for query in try Self.dashboard() {
            let grouping = query.expression.matches(of: /\sby \(([a-z, ]+)\)/)
                .flatMap { $0.1.split(separator: ",").map { $0.filter { $0 != " " } } }
            var available: Set<String> = []
            for selector in query.expression.matches(of: /(kvstore_[a-z0-9_]+)(\{[^}]*\})?/) {
                let metric = try #require(Self.metric(ofSeries: String(selector.1)))
                // Prometheus adds the instance.
                let labels = Set(metric.labels + ["instance"] + (selector.1.hasSuffix("_bucket") ? ["le"] : []))
                available.formUnion(labels)
                for matcher in (selector.2 ?? "").matches(of: /([a-z_]+)(=~|!=|!~|=)"([^"]*)"/) {
                    #expect(labels.contains(String(matcher.1)), "\(matcher.1) in '\(query.panel)'")
                    guard matcher.1 != "instance" else { continue }
                    let isThere = text.contains(try Regex("\(selector.1)\\{[^}]*\(matcher.1)=\"\(matcher.3)\""))
                    #expect(isThere, "\(matcher.0) in '\(query.panel)'")
                }
            }
            #expect(Set(grouping).isSubset(of: available), "'\(query.panel)' groups by \(grouping)")
            let isSum = query.expression.contains("sum(") || !grouping.isEmpty
            let shown = Set(query.legend.matches(of: /\{\{([a-z]+)\}\}/).map { String($0.1) })
            let left = isSum ? Set(grouping).subtracting(["le"]) : available.subtracting(["le"])
            #expect(shown.isSubset(of: left), "the legend '\(query.legend)' of '\(query.panel)'")
        }
    }

    // MARK: Nothing is forgotten

    /// Said otherwise in the list (percentiles follow from the buckets), or of no use over time.
    private static let notExported: Set<String> = [
        "processID", "acquireP50Nanoseconds", "acquireP99Nanoseconds", "p50Nanoseconds", "p99Nanoseconds",
        "p999Nanoseconds", "p50Seconds", "p99Seconds", "secondsSincePass",
    ]

    @Test func `Every figure that the daemon has is in the list`() throws {
        let statistics = try Self.statistics()
        let before = PrometheusText.render(statistics, tenantLabels: true)
        let json = try JSONSerialization.jsonObject(with: JSONEncoder().encode(statistics))
        var count = 0
        for path in Self.numbers(in: json, below: []) where !["namespaces", "hottest"].contains(path[0]) {
            guard !Self.notExported.contains(path[path.count - 1]) else { continue }
            // What is no number is true or false.
            let changed = [987_654_321 as Any, true, false].compactMap { value in
                try? Self.decode(Self.changed(json, path[...], to: value))
            }
            let isSeen = changed.contains { PrometheusText.render($0, tenantLabels: true) != before }
            #expect(isSeen, "\(path.joined(separator: ".")) is in no metric")
            count += 1
        }
        #expect(count > 100)
    }

    private static func decode(_ json: Any) throws -> DaemonStatistics {
        try JSONDecoder().decode(DaemonStatistics.self, from: JSONSerialization.data(withJSONObject: json))
    }

    private static func numbers(in json: Any, below path: [String]) -> [[String]] {
        switch json {
        case let object as [String: Any]: object.flatMap { numbers(in: $0.value, below: path + [$0.key]) }
        case let list as [Any]: list.indices.flatMap { numbers(in: list[$0], below: path + ["\($0)"]) }
        default: json is String ? [] : [path]
        }
    }

    private static func changed(_ json: Any, _ path: ArraySlice<String>, to value: Any) -> Any {
        guard let first = path.first else { return value }
        if var object = json as? [String: Any] {
            object[first] = changed(object[first]!, path.dropFirst(), to: value)
            return object
        }
        var list = json as! [Any]
        list[Int(first)!] = changed(list[Int(first)!], path.dropFirst(), to: value)
        return list
    }
}
