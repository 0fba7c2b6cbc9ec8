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

    private static func file(_ path: String) -> URL {
        URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: path)
    }

    /// To write the list anew, run the tests with KVSTORE_REWRITE_GOLDEN=1.
    @Test func `The documented list is the list`() throws {
        var text = """
            # Metrics

            Every metric of `GET /metrics`. All counts are since the daemon's start. Metrics that name tenants are served
            only where `tenantLabels` is on, and never on TCP.

            | metric | type | labels | meaning |
            |---|---|---|---|

            """
        for metric in Metric.all {
            let labels = metric.labels.isEmpty ? "" : "`" + metric.labels.joined(separator: "`, `") + "`"
            text += "| `\(metric.name)` | \(metric.kind.rawValue) | \(labels) | \(metric.help) |\n"
        }
        let url = Self.file("Sources/KVStoreServer/KVStoreServer.docc/Metrics.md")
        if ProcessInfo.processInfo.environment["KVSTORE_REWRITE_GOLDEN"] == "1" {
            try text.write(to: url, atomically: true, encoding: .utf8)
        }
        #expect(try String(contentsOf: url, encoding: .utf8) == text)
    }

    @Test func `The dashboard asks for metrics that there are`() throws {
        let data = try Data(contentsOf: Self.file("examples/grafana/kvstore.json"))
        let dashboard = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
        let panels = try #require(dashboard["panels"] as? [[String: Any]])
        var used: Set<String> = []
        for panel in panels where panel["type"] as? String != "row" {
            let targets = try #require(panel["targets"] as? [[String: Any]], "\(panel["title"] ?? "?")")
            #expect(!targets.isEmpty)
            for target in targets {
                let expression = try #require(target["expr"] as? String)
                for match in expression.matches(of: /kvstore_[a-z0-9_]+/) {
                    let name = String(match.0)
                    let metric = Metric.all.first { metric in
                        metric.kind == .histogram
                            ? ["_bucket", "_sum", "_count"].contains { metric.name + $0 == name } : metric.name == name
                    }
                    #expect(metric != nil, "\(name) in '\(panel["title"] ?? "?")' is no metric")
                    if let metric { used.insert(metric.name) }
                    guard metric?.kind != .gauge else { continue }
                    #expect(expression.contains("rate(") || expression.contains("increase("), "\(expression)")
                }
            }
        }
        #expect(used.count > 25)
    }
}
