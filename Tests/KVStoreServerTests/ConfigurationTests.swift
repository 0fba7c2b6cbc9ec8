import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStoreServer

private func file(_ text: String, in directory: TemporaryDirectory) throws -> String {
    let path = directory.path + "/kvstore.yaml"
    try text.write(toFile: path, atomically: true, encoding: .utf8)
    return path
}

private func problems(_ body: () throws -> LoadedConfiguration) -> [String] {
    do {
        _ = try body()
        return []
    } catch let error as ConfigurationError {
        return error.problems
    } catch {
        return ["\(error)"]
    }
}

/// A value other than the default for every setting.
private let otherValues = [
    "socket": "/tmp/other.sock", "socketMode": "0600", "socketGroup": "root", "stateDirectory": "/tmp/state",
    "memory": "1536MiB", "diskPath": "/tmp/disk", "diskCapacity": "64GiB", "writeBackDelay": "750ms", "codec": "nib4h",
    "verifyMemoryHits": "true", "stagingPerConnection": "1MiB", "leaseTTL": "2s", "maximumConnections": "7",
    "publicTenant": "true", "operatorGroup": "root", "metricsListen": "127.0.0.1:9464", "drainTimeout": "1m",
    "logLevel": "debug", "warmUp": "false", "memoryAhead": "64MiB",
]

@Suite struct ConfigurationTests {
    @Test func `every setting can come from the file the environment and a flag and the later one wins`() throws {
        let directory = TemporaryDirectory()
        #expect(Set(otherValues.keys) == Set(Setting.all.map(\.key)))
        for setting in Setting.all {
            let other = try #require(otherValues[setting.key])
            // The disk path alone would be refused.
            let extra = setting.key == "diskPath" ? "diskCapacity: 1GiB\n" : ""
            let path = try file("\(extra)\(setting.key): \(other)\n", in: directory)
            let fromFile = try LoadedConfiguration(filePath: path)
            #expect(setting.text(fromFile.configuration) == other)
            #expect(fromFile.origins[setting.key] == .file(path: path, line: extra.isEmpty ? 1 : 2))
            #expect(setting.text(ServerConfiguration()) != other)

            let plain = setting.defaultText
            let fromVariable = try LoadedConfiguration(environment: [setting.environmentName: plain], filePath: path)
            #expect(setting.text(fromVariable.configuration) == plain)
            #expect(fromVariable.origins[setting.key] == .environment(name: setting.environmentName))

            let fromFlag = try LoadedConfiguration(
                flags: [setting.key: other],
                environment: [setting.environmentName: plain],
                filePath: path
            )
            #expect(setting.text(fromFlag.configuration) == other)
            #expect(fromFlag.origins[setting.key] == .flag(name: setting.flag))
        }
    }

    @Test func `names of flags and variables follow from the key`() {
        #expect(Setting.named("diskCapacity")?.flag == "--disk-capacity")
        #expect(Setting.named("diskCapacity")?.environmentName == "KVSTORE_DISK_CAPACITY")
        #expect(Setting.named("leaseTTL")?.flag == "--lease-ttl")
        #expect(Setting.named("verifyMemoryHits")?.environmentName == "KVSTORE_VERIFY_MEMORY_HITS")
    }

    @Test func `what print-config prints reads back as the same configuration`() throws {
        let directory = TemporaryDirectory()
        var text = otherValues.map { "\($0.key): \($0.value)" }.joined(separator: "\n")
        text += """

            tenants:
              - name: research
                uids: [1001, root]
                memoryQuota: 256MiB
              - name: serving
                tokenFile: /etc/kvstore/serving.token
                diskQuota: 1GiB
            """
        let first = try LoadedConfiguration(filePath: try file(text, in: directory))
        let second = try LoadedConfiguration(filePath: try file(first.yamlText, in: directory))
        #expect(first.configuration == second.configuration)
        #expect(first.configuration.tenants.map(\.userIDs) == [[1001, 0], []])
        #expect(first.yamlText.contains("kvstore.yaml:"))
    }

    @Test(arguments: [
        ("memory: 4G", "kvstore.yaml:1: memory: the unit 'G' of '4G' is ambiguous; write GiB"),
        ("memory: 1GiB\nmemry: 1GiB", "kvstore.yaml:2: there is no setting 'memry'; did you mean 'memory'?"),
        ("memory: 1MiB", "memory is 1MiB; write at least 32MiB (memory: "),
        ("socket: run/k.sock", "kvstore.yaml:1: socket: 'run/k.sock' is not an absolute path"),
        ("socketMode: 0666", "lets every user of the machine in"),
        ("metricsListen: 0.0.0.0:9464", "could be read from elsewhere; write 127.0.0.1:9464"),
        ("codec: zip", "there is no 'zip'; write one of: automatic, raw, lz4"),
        ("writeBackDelay: soon", "'soon' is not a span of time"),
        ("maximumConnections: 0", "maximumConnections is 0; write 1 to 100000"),
        ("diskPath: /tmp/d", "diskPath is /tmp/d but diskCapacity is 0"),
        ("verifyMemoryHits: perhaps", "neither true nor false"),
        ("[1, 2]", "kvstore.yaml:1: the file must be a list of 'key: value' lines"),
        ("memory: [", "kvstore.yaml:"),
        ("memory: 1GiB\nmemory: 2GiB", "the key 'memory' is there twice"),
        ("memory: {a: 1}", "memory takes one value"),
        ("tenants:\n  - name: a/b\n    uids: [1]", "kvstore.yaml:2: tenants: 'a/b' is not a tenant's name"),
        ("tenants:\n  - name: a", "nobody can be the tenant 'a'; give it uids or a tokenFile"),
        ("tenants:\n  - uids: [1]", "a tenant needs a name"),
        ("tenants:\n  - name: a\n    uids: [no-such-user-here]", "there is no user 'no-such-user-here'"),
        ("tenants:\n  - name: a\n    uid: [1]", "there is no field 'uid'; did you mean 'uids'?"),
        ("tenants:\n  - name: a\n    uids: [1]\n  - name: a\n    uids: [2]", "two tenants are called 'a'"),
        (
            "tenants:\n  - name: a\n    uids: [1]\n  - name: b\n    uids: [1]",
            "uid 1 is given to the tenants 'a' and 'b'"
        ),
        (
            "memory: 1GiB\ntenants:\n  - name: a\n    uids: [1]\n    memoryQuota: 1GiB",
            "the tenants' memoryQuota add up to 1GiB, more than the 864MiB there is"
        ),
        (
            "diskCapacity: 1GiB\ntenants:\n  - name: a\n    uids: [1]\n    diskQuota: 600MiB\n  - name: b\n    uids: [2]\n    diskQuota: 600MiB",
            "the tenants' diskQuota add up to 1200MiB, more than the 1GiB there is"
        ),
        ("publicTenant: true\ntenants:\n  - name: public\n    uids: [1]", "a tenant is called 'public'"),
    ])
    func `a wrong file is refused with the place and what to write`(text: String, expected: String) throws {
        let directory = TemporaryDirectory()
        let path = try file(text, in: directory)
        let found = problems { try LoadedConfiguration(filePath: path) }
        #expect(found.contains { $0.contains(expected) }, "\(found)")
    }

    @Test func `errors name the variable or the flag and all of them are told at once`() {
        let found = problems {
            try LoadedConfiguration(
                flags: ["memory": "much"], environment: ["KVSTORE_LEASE_TTL": "x", "KVSTORE_CODEC": "y"])
        }
        #expect(found.count == 3)
        #expect(found.contains { $0.hasPrefix("flag --memory: memory: 'much' is not a size") })
        #expect(found.contains { $0.hasPrefix("environment variable KVSTORE_LEASE_TTL: leaseTTL: ") })
    }

    @Test func `a missing file is an error and an empty one sets nothing`() throws {
        let directory = TemporaryDirectory()
        let missing = directory.path + "/none.yaml"
        #expect(problems { try LoadedConfiguration(filePath: missing) }.first?.contains(missing) == true)
        let loaded = try LoadedConfiguration(environment: ["KVSTORE_CONFIG": try file("# nothing\n", in: directory)])
        #expect(loaded.configuration == ServerConfiguration())
    }

    @Test func `a misspelt variable is a warning and variables of others are not`() throws {
        let loaded = try LoadedConfiguration(environment: ["KVSTORE_MEMRY": "1GiB", "KVSTORE_SEED": "1", "HOME": "/"])
        #expect(
            loaded.warnings == ["environment variable KVSTORE_MEMRY is not a setting; did you mean KVSTORE_MEMORY?"])
    }

    @Test func `a reload takes over what can change and names what cannot`() {
        var new = ServerConfiguration()
        new.leaseTTLMilliseconds = 1000
        new.memoryCapacityBytes = 2 << 30
        new.tenants = [TenantConfiguration(name: "a", userIDs: [1])]
        let changes = LoadedConfiguration.changes(from: ServerConfiguration(), to: new)
        #expect(changes == ConfigurationChanges(applied: ["leaseTTL", "tenants"], needRestart: ["memory"]))
        let merged = LoadedConfiguration.merged(ServerConfiguration(), with: new)
        #expect(merged.leaseTTLMilliseconds == 1000 && merged.tenants == new.tenants)
        #expect(merged.memoryCapacityBytes == ServerConfiguration().memoryCapacityBytes)
    }

    @Test func `staging and frames and the store together stay within the memory cap`() {
        let configuration = ServerConfiguration()
        let store = configuration.storeConfiguration()
        let aside =
            configuration.stagingCapacityBytes + configuration.frameCapacityBytes + configuration.wishCapacityBytes
            + configuration.leaseNoteCapacityBytes
        #expect(store.memoryCapacityBytes + aside == configuration.memoryCapacityBytes)
    }

    @Test func `sizes and spans print as text that reads back exactly`() throws {
        var random = SeededRandom(seed: TestScale.seed)
        for _ in 0..<2000 {
            let bytes = Int.random(in: 0...1 << Int.random(in: 0...50), using: &random)
            #expect(try ByteText.parse(ByteText.exact(bytes)) == bytes)
            let milliseconds = Int.random(in: 0...1 << Int.random(in: 0...36), using: &random)
            #expect(try DurationText.parseMilliseconds(DurationText.exact(milliseconds)) == milliseconds)
        }
        #expect(ByteText.exact(4 << 30) == "4GiB")
        #expect(DurationText.exact(5000) == "5s")
        for wrong in ["", "s", "-1s", "1.2345ms", "1e300h"] {
            #expect(throws: SettingProblem.self) { try DurationText.parseMilliseconds(wrong) }
        }
    }

    /// To write the table anew, run the tests with KVSTORE_REWRITE_GOLDEN=1.
    @Test func `the documented table of settings is the table`() throws {
        var text = """
            # Settings

            Every setting of `kvstore serve`. A flag wins over a variable, a variable over the YAML file of `--config` (or
            `KVSTORE_CONFIG`), where the setting has the name in the first column. Sizes are written `4GiB`, times `500ms`
            or `10s`. `kvstore serve --print-config` shows what holds. SIGHUP takes over what says so in the last column;
            what else changed waits for the next start, and a file with a mistake changes nothing.

            | setting | flag | variable | default | meaning | SIGHUP |
            |---|---|---|---|---|---|

            """
        for setting in Setting.all {
            text += "| `\(setting.key)` | `\(setting.flag) \(setting.valueName)` | `\(setting.environmentName)` "
            text += "| `\(setting.defaultText)` | \(setting.help) | \(setting.canReload ? "yes" : "") |\n"
        }
        text += """

            Where systemd passes the listening socket, `socket`, `socketMode` and `socketGroup` say nothing: its socket unit
            does. What SIGHUP takes over of quotas, `maximumConnections`, `drainTimeout` and `logLevel` holds at once. The rest
            is for connections that are made from then on: those that are open keep their tenant, their role and their
            `leaseTTL`, also when their user or token is no longer in the file. To put somebody out, restart the daemon.

            `tenants` is a list, in the file only, and taken over by SIGHUP:

            | key of a tenant | meaning |
            |---|---|
            | `name` | 1 to 64 letters, digits, `.`, `_` or `-`. |
            | `uids` | Clients of these user ids are this tenant. |
            | `tokenFile` | So are clients that send what this file holds. |
            | `memoryQuota` | Most memory of its blocks; without one it shares what others leave. |
            | `diskQuota` | The same for their records on disk. |

            The store has what `memory` leaves beside the eighth and the 32nd that are said above; memory quotas add up to no
            more than that. With several tenants, one uses at most half of the memory in which blocks are prepared and
            requests are read; a user other than the daemon's own at most half of `maximumConnections`. Leases hold at most half
            of what a tenant may have in memory, pins a quarter.

            """
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let url = root.appending(path: "Sources/KVStoreServer/KVStoreServer.docc/Settings.md")
        if ProcessInfo.processInfo.environment["KVSTORE_REWRITE_GOLDEN"] == "1" {
            try text.write(to: url, atomically: true, encoding: .utf8)
        }
        #expect(try String(contentsOf: url, encoding: .utf8) == text)
    }
}
