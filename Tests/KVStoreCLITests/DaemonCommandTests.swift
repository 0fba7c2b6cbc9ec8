import ArgumentParser
import Foundation
import KVStore
import KVStoreIPC
import Testing

@testable import KVStoreCLI

@Suite("What is shown of a daemon")
struct DaemonViewTests {
    // MARK: stats

    @Test func `The statistics of a daemon with a disk`() throws {
        try expectGolden("stats", DaemonSample.statistics.table)
    }

    @Test func `The statistics of a daemon in memory that has just started`() throws {
        var statistics = DaemonSample.statistics
        statistics.daemon.connections = 1
        statistics.store = StoreStatistics()
        statistics.store.memory.capacityBytes = 256 << 20
        statistics.tenants = []
        statistics.operations = [:]
        try expectGolden("stats-new", statistics.table)
    }

    @Test func `The statistics of a daemon in trouble`() throws {
        var statistics = DaemonSample.statistics
        statistics.store.diskProblem = "diskFull: no space left on the device"
        statistics.store.diskErrors = 3
        statistics.store.missesCorrupt = 1
        statistics.daemon.protocolErrors = 2
        statistics.daemon.diedClients = 4
        statistics.daemon.isDraining = true
        try expectGolden("stats-trouble", statistics.table)
    }

    @Test func `The names in the JSON stay as they are`() throws {
        let text = try JSONText.encode(DaemonSample.statistics)
        try expectGolden("stats-json", text)
        let copy = try JSONDecoder().decode(DaemonStatistics.self, from: Data(text.utf8))
        #expect(copy == DaemonSample.statistics)
        #expect(try JSONText.line(DaemonSample.statistics).filter { $0 == "\n" }.count == 1)
    }

    @Test func `A tenant sees nothing of the others`() throws {
        let part = DaemonSample.statistics.part(ofTenant: "acme")
        #expect(part.tenants.map(\.name) == ["acme"])
        #expect(part.namespaces.map(\.tenant) == ["acme"])
        #expect(part.store.memory.hitBlocks == 15_000)
        #expect(part.store.memory.capacityBytes == 256 << 20)
        #expect(part.store.unusedBytes == 18 << 20)
        #expect(part.store.disk.capacityBytes == 1 << 30)
        #expect(part.hottest.isEmpty)
        #expect(part.daemon.connections == 0)
        #expect(part.daemon.version == "0.1.0")
        let text = try JSONText.encode(part)
        #expect(!text.contains("quiet"))
        #expect(!text.contains("288500"), "the sum of all tenants' requests")
        #expect(part.table.contains("acme"))
        let nobody = DaemonSample.statistics.part(ofTenant: "nobody")
        #expect(nobody.tenants == [TenantStatistics(name: "nobody")])
        #expect(nobody.store.requestedBlocks == 0)
    }

    @Test func `The namespaces of a daemon`() throws {
        try expectGolden("namespaces", NamespacesCommand.table(DaemonSample.namespaces))
        #expect(NamespacesCommand.table([]) == "no namespaces yet\n")
    }

    // MARK: top

    private static let history: [Double?] = [0, 0.1, 0.25, nil, 0.5, 0.62, 0.8, 0.8125, 1]

    @Test func `The first screen of top has levels and no rates`() throws {
        let view = TopView(
            previous: nil,
            current: TopSample(seconds: 10, statistics: DaemonSample.statistics),
            history: [],
            columns: 100,
            rows: 40
        )
        try expectGolden("top-first", view.text)
    }

    @Test func `Later screens of top have rates and a line of hit ratios`() throws {
        let before = TopSample(seconds: 10, statistics: DaemonSample.statistics)
        let after = TopSample(seconds: 12, statistics: DaemonSample.later)
        #expect(TopView.isSameDaemon(before, after))
        #expect(TopView.hitRatio(from: before, to: after) == 0.8125)
        let view = TopView(previous: before, current: after, history: Self.history, columns: 100, rows: 40)
        try expectGolden("top", view.text)
    }

    @Test(arguments: [(20, 5), (40, 10), (79, 24), (200, 60)])
    func `A screen never is larger than the terminal`(columns: Int, rows: Int) {
        var statistics = DaemonSample.later
        for number in 0..<100 {
            statistics.tenants.append(TenantStatistics(name: "tenant number \(number)"))
            statistics.hottest.append(statistics.hottest[0])
        }
        let view = TopView(
            previous: TopSample(seconds: 10, statistics: DaemonSample.statistics),
            current: TopSample(seconds: 12, statistics: statistics),
            history: [Double?](repeating: 0.5, count: 512),
            columns: columns,
            rows: rows
        )
        let lines = view.text.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
        #expect(lines.count <= rows)
        for line in lines { #expect(line.count <= columns) }
        if rows == 60 { #expect(view.text.contains("hottest prefix")) }
    }

    @Test func `A daemon that was started anew has no rates against the old one`() {
        let before = TopSample(seconds: 10, statistics: DaemonSample.later)
        var after = TopSample(seconds: 12, statistics: DaemonSample.statistics)
        #expect(!TopView.isSameDaemon(before, after))
        after.statistics.daemon.uptimeSeconds += 100
        #expect(TopView.isSameDaemon(before, after))
        after.statistics.daemon.processID += 1
        #expect(!TopView.isSameDaemon(before, after))
        #expect(TopView.hitRatio(from: before, to: before) == nil)
    }

    @Test func `Bars stand for ratios and dots for intervals without requests`() {
        #expect(TopView.sparkline([0, 0.125, 0.5, nil, 0.99, 1, 2, -1], width: 20) == "▁▂▅·███▁")
        #expect(TopView.sparkline([0, 0, 1, 1], width: 2) == "██")
        #expect(TopView.sparkline([], width: 5) == "")
    }

    // MARK: Small answers

    @Test func `Health is told in words and in the exit code`() {
        let ready = HealthReport(state: .ready, live: true, reasons: [])
        let degraded = HealthReport(state: .degraded, live: true, reasons: ["the disk is full"])
        let warming = HealthReport(state: .notReady, live: true, reasons: [])
        #expect([ready, degraded, warming].map(\.exitCode) == [0, 1, 2])
        #expect(HealthCommand.text(ready) == "ready\n")
        #expect(HealthCommand.text(degraded) == "degraded\n  the disk is full\n")
        #expect(HealthCommand.text(warming) == "not ready\n")
    }

    @Test func `No daemon is not ready with what to do about it`() throws {
        let report = HealthCommand.report { () throws(ClientError) in
            try DaemonClient(socketPath: "/nonexistent/kvstore.sock").health()
        }
        #expect(report.exitCode == 2)
        #expect(!report.live)
        let text = HealthCommand.text(report)
        #expect(text.hasPrefix("no answer\n"))
        #expect(text.contains("kvstore serve"))
        #expect(text.contains("--socket"))
    }

    @Test func `A ping tells the least the median and the most`() {
        #expect(PingCommand.text([0.000_085]) == "1 round trip: least 85.0 µs, median 85.0 µs, most 85.0 µs\n")
        #expect(
            PingCommand.text([0.002, 0.000_04, 0.000_1])
                == "3 round trips: least 40.0 µs, median 100.0 µs, most 2.00 ms\n"
        )
    }

    @Test func `A flush tells what is not on disk and why`() {
        #expect(FlushCommand.text(12_031, 0, nil) == "12,031 blocks are on disk\n")
        #expect(
            FlushCommand.text(5, 2, "the disk is full")
                == "5 blocks are on disk\n2 blocks are only in memory: the disk is full\n"
        )
    }

    @Test func `Names of others cannot move the cursor or take a whole line`() {
        #expect(printable("a\u{1B}[31m\u{9B}b\r\n\u{202E}c", limit: 40) == "a?[31m?b??c")
        #expect(printable("äöü→日本", limit: 40) == "äöü→日本")
        #expect(printable(String(repeating: "x", count: 50), limit: 10) == "xxxxxxxxx…")
        #expect(tenantText("") == "(public)")
    }
}

@Suite("Commands that ask a daemon")
struct DaemonCommandTests {
    @Test(arguments: [
        ["stats"], ["stats", "--json"], ["stats", "--watch", "1"], ["top"], ["ping"], ["namespaces"], ["flush"],
        ["purge", "acme", "--yes"],
    ])
    func `Without a daemon every command ends with code 2`(_ arguments: [String]) throws {
        var command = try KVStoreCommand.parseAsRoot(arguments + ["--socket", "/nonexistent/kvstore.sock"])
        #expect(throws: ExitCode(2)) { try command.run() }
    }

    @Test func `A purge has to be confirmed`() throws {
        #expect(throws: (any Error).self) { try KVStoreCommand.parseAsRoot(["purge", "acme"]) }
        #expect(throws: Never.self) { try KVStoreCommand.parseAsRoot(["purge", "acme", "--yes"]) }
        #expect(throws: Never.self) { try KVStoreCommand.parseAsRoot(["purge", "--yes"]) }
    }

    @Test func `The seconds of watch may be left out`() throws {
        func watch(_ arguments: [String]) throws -> Double? {
            try (KVStoreCommand.parseAsRoot(["stats"] + arguments) as? StatsCommand)?.watch
        }
        #expect(try watch([]) == nil)
        #expect(try watch(["--watch"]) == 2)
        #expect(try watch(["--watch", "0.5"]) == 0.5)
        #expect(try watch(["--watch", "--json"]) == 2)
        #expect(throws: (any Error).self) { try watch(["--watch", "0"]) }
    }

    @Test(arguments: [
        ["top", "--interval", "0"], ["ping", "--count", "0"], ["stats", "--timeout", "-1"],
        ["stats", "--hottest", "-1"],
        ["pin", "--identity", "x"], ["pin", "--identity", "x", "--key", "12"], ["pin", "--tokens", "x"],
        ["pin", "--identity", "x", "--tokens", "y", "--key", String(repeating: "0", count: 64)],
        ["pin", "--identity", "x", "--tokens", "y", "--seconds", "0"],
        ["remove", "--identity", "x", "--tokens", "y", "--from", "-1"],
    ])
    func `Wrong options are refused before anything is asked`(_ arguments: [String]) {
        #expect(throws: (any Error).self) { try KVStoreCommand.parseAsRoot(arguments) }
    }

    // MARK: Which blocks

    @Test func `Token ids may be written in any common way`() throws {
        func parse(_ text: String) throws -> [UInt32] { try PrefixOptions.tokenIDs(Array(text.utf8), name: "file") }
        #expect(try parse("1 2\n3,4\t5\r\n") == [1, 2, 3, 4, 5])
        #expect(try parse("[0, 4294967295]") == [0, .max])
        #expect(try parse("") == [])
        for wrong in ["-1", "4294967296", "1.5", "secret words"] {
            let error = #expect(throws: StartError.self) { try parse("7 " + wrong) }
            // What is in the file may be somebody's prompt.
            #expect(error?.description.contains("secret") == false)
            #expect(error?.description.contains("number 2") == true)
        }
    }

    @Test func `A key is 64 hex digits`() throws {
        let hex = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF"
        let key = try PrefixOptions.blockKey(hex)
        #expect(key.bytes == Array([UInt8](0...15).map { $0 * 17 }) + Array([UInt8](0...15).map { $0 * 17 }))
        for wrong in ["", "00", hex + "0", String(hex.dropLast()) + "g", String(repeating: "ä", count: 64)] {
            #expect(throws: ValidationError.self) { try PrefixOptions.blockKey(wrong) }
        }
    }

    @Test func `An identity in JSON is the identity in code`() throws {
        let json = """
            {"model": "Llama-3-8B", "revision": "8cde5ca8", "elementType": "fp16", "layers": 32, "keyHeads": 8,
             "keyHeadDimension": 128, "tokensPerBlock": 16, "tensorParallelRank": 1, "tensorParallelSize": 2,
             "adapter": "lora", "additional": {"weights": "sha256:51f2", "kvScale": 3, "rope": true}}
            """
        var expected = NamespaceIdentity(
            model: "Llama-3-8B",
            revision: "8cde5ca8",
            elementType: .fp16,
            layers: 32,
            keyHeads: 8,
            keyHeadDimension: 128,
            tokensPerBlock: 16,
            tensorParallelRank: 1,
            tensorParallelSize: 2,
            adapter: "lora"
        )
        expected.additional = ["weights": "sha256:51f2", "kvScale": .integer(3), "rope": .boolean(true)]
        #expect(try IdentityFile.parse(Array(json.utf8), name: "f").fingerprint == expected.fingerprint)
        let opaque = #"{"model": "m", "opaqueBlockByteCount": 65536, "tokensPerBlock": 256}"#
        #expect(
            try IdentityFile.parse(Array(opaque.utf8), name: "f").fingerprint
                == NamespaceIdentity(model: "m", opaqueBlockByteCount: 65536, tokensPerBlock: 256).fingerprint
        )
    }

    @Test(arguments: [
        (#"{"model": "m"}"#, "tokensPerBlock"), (#"{"model": "m", "tokensPerBlock": 16, "layer": 2}"#, "'layer'"),
        (#"{"model": "m", "tokensPerBlock": "16"}"#, "tokensPerBlock"), ("[", "JSON"),
        (#"{"model": "m", "tokensPerBlock": 16, "salt": "s"}"#, "the daemon knows it"),
        (#"{"model": "m", "tokensPerBlock": 16, "elementType": "bf17"}"#, "bf16"),
        (#"{"model": "m", "tokensPerBlock": 16, "storage": "lossy"}"#, "lossless"),
    ])
    func `A wrong identity is refused with what is wrong`(_ json: String, _ hint: String) {
        let error = #expect(throws: StartError.self) { try IdentityFile.parse(Array(json.utf8), name: "id.json") }
        #expect(error?.description.contains(hint) == true, "\(error?.description ?? "")")
        #expect(error?.description.contains("id.json") == true)
    }
}
