import Foundation
import KVStore
import KVStoreIPC
import Testing

/// The page about the bodies of JSON: each type that is coded, its fields as they are coded, and what the comments in the
/// sources say about them.
enum JSONDocument {
    /// One value of each type, with everything in it that may be absent.
    private static var samples: [any Codable] {
        var store = StoreStatistics()
        store.diskProblem = "full"
        var scrub = store.memory.scrub
        scrub.secondsSincePass = 1
        var tenant = TenantStatistics(name: "alice")
        (tenant.memoryQuotaBytes, tenant.diskQuotaBytes) = (1, 1)
        let prefix = HotPrefix(
            tenant: "alice", namespace: "m", keyHash: "00", blocks: 1, uses: 1, lastUsedSeconds: 1)
        let namespace = NamespaceStatistics(
            tenant: "alice", model: "m", fingerprintPrefix: "00", blockBytes: 1, tokensPerBlock: 1)
        let whole = DaemonStatistics(
            daemon: DaemonInfo(), store: store, tenants: [tenant], namespaces: [namespace], hottest: [prefix],
            operations: [:]
        )
        return [
            whole, DaemonInfo(), store, store.memory, scrub, store.warmUp, AgeSummary(),
            AgeBucket(upToSeconds: 1, count: 1), tenant, namespace, prefix, LatencySummary(),
            LatencyBucket(upToNanoseconds: 1, count: 1), HealthReport(state: .ready, live: true, reasons: []),
        ]
    }

    static func page() throws -> String {
        let comments = try comments()
        var text = """
            # Statistics on the wire

            What is in the bodies of JSON: STATISTICS answers with DaemonStatistics, NAMESPACES with a list of
            NamespaceStatistics, HEALTH with a HealthReport. `kvstore stats --json` and its relatives print the same.

            The JSON is without spaces, its names by the alphabet. An optional field is left out where the list says nil. Later
            daemons may have more fields. Counts are since the daemon's start.


            """
        for sample in samples {
            let name = "\(type(of: sample))"
            text += "## \(name)\n\n| field | | |\n|---|---|---|\n"
            let children = Mirror(reflecting: sample).children.map { ($0.label ?? "?", "\(type(of: $0.value))") }
            #expect(try coded(sample) == Set(children.map(\.0)), "\(name) is coded otherwise")
            for (field, type) in children {
                let comment = try #require(comments["\(name).\(field)"], "\(name).\(field) has no comment")
                text += "| `\(field)` | \(try shown(type)) | \(comment) |\n"
            }
            text += "\n"
        }
        text.removeLast()
        return text
    }

    /// The names that are in the JSON.
    private static func coded(_ value: some Encodable) throws -> Set<String> {
        let object = try JSONSerialization.jsonObject(with: JSONEncoder().encode(value))
        return Set(try #require(object as? [String: Any]).keys)
    }

    private static func shown(_ type: String) throws -> String {
        if let match = type.wholeMatch(of: /Optional<(.+)>/) { return "optional " + (try shown(String(match.1))) }
        if let match = type.wholeMatch(of: /Array<(.+)>/) { return "list of " + (try shown(String(match.1))) }
        if let match = type.wholeMatch(of: /Dictionary<String, (.+)>/) {
            return "object, by name, of " + (try shown(String(match.1)))
        }
        let plain = ["Int": "integer", "Double": "number", "String": "text", "Bool": "true or false"]
        if let name = plain[type] { return name }
        if type == "State" { return "text: `ready`, `degraded` or `notReady`" }
        try #require(samples.contains { "\(Swift.type(of: $0))" == type }, "\(type) is not documented")
        return type
    }

    /// The comments of all stored properties, by `Type.property`. A comment that begins with … goes on with the one before.
    private static func comments() throws -> [String: String] {
        let files = [
            "Sources/KVStore/Statistics/StoreStatistics.swift", "Sources/KVStore/Statistics/TenantStatistics.swift",
            "Sources/KVStore/Statistics/Latency.swift", "Sources/KVStoreIPC/DaemonStatistics.swift",
        ]
        var comments: [String: String] = [:]
        for file in files {
            var (type, comment, whole) = ("", "", "")
            for line in try DocumentedText(file).text.split(separator: "\n", omittingEmptySubsequences: false) {
                if let match = line.wholeMatch(of: /public struct (\w+).*/) {
                    (type, comment) = (String(match.1), "")
                } else if let match = line.wholeMatch(of: /\s{4}\/\/\/ (.*)/) {
                    comment += (comment.isEmpty ? "" : " ") + match.1
                } else if let match = line.wholeMatch(of: /\s{4}public var (\w+)(:| =).*/) {
                    if comment.hasPrefix("…") {
                        comment =
                            String(whole.prefix { $0 != "." }).replacing(/\sbecause .*/) { _ in "" }
                            + comment.dropFirst()
                    } else {
                        whole = comment
                    }
                    comments["\(type).\(match.1)"] = comment
                    comment = ""
                } else {
                    comment = ""
                }
            }
        }
        return comments
    }
}
