import CLinux
import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore
@testable import KVStoreIPC

/// The daemon as a process, its clients as processes, and what happens when any of them is killed or stopped.
@Suite("A daemon and its clients", .serialized)
struct DaemonClientTests {
    private static func worker(_ daemon: DaemonProcess, seed: UInt64) throws -> WorkerProcess {
        try WorkerProcess(["client", daemon.socketPath, "\(seed >> 16)"])
    }

    private static func hits(_ cache: any BlockCache, _ prefix: Prefix) -> Int { cache.acquire(prefix)?.count ?? 0 }

    /// Descriptors of the daemon beside those of its regions, whose number follows the sizes of blocks in use.
    private static func ownDescriptors(_ daemon: DaemonProcess) throws -> Int {
        try #require(daemon.descriptorCount) - (try daemon.client().statistics().store.regions)
    }

    /// Compares every block that is there. Returns how many there are.
    private static func verifyAll(_ cache: any BlockCache) throws -> Int {
        let prompts = try SharedPrompts(cache)
        var found = 0
        for number in 0..<SharedPrompts.count {
            let prefix = prompts.prefix(number)
            guard let lease = cache.acquire(prefix) else { continue }
            for index in 0..<lease.count {
                let isRight = lease.withBytes(at: index) { Payload.matches($0, key: prefix.keys[index]) }
                #expect(isRight, "prompt \(number), block \(index)")
                found += 1
            }
        }
        return found
    }

    @Test func `share blocks without copying them and an engine switches by one line`() throws {
        let daemon = try DaemonProcess(["--memory", "64MiB", "--disk-capacity", "0"])
        for cache in [
            RemoteBlockStore(socketPath: daemon.socketPath) as any BlockCache,
            try BlockStore(Configuration(memoryCapacityBytes: 64 << 20)),
        ] {
            let prompts = try SharedPrompts(cache)
            let prefix = prompts.prefix(3)
            #expect(Self.hits(cache, prefix) == 0)
            let stored = cache.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
            #expect(stored == prefix.keys.count)
            #expect(cache.store(prefix) { _, _ in } == 0, "what is there is not stored again")
            #expect(cache.match(prefix).tiers == Array(repeating: .memory, count: prefix.keys.count))
            do {
                guard let lease = cache.acquire(prefix) else {
                    Issue.record("no hit")
                    return
                }
                #expect(lease.count == prefix.keys.count && lease.isCurrent)
                #expect(lease.withBytes(at: 2) { Payload.matches($0, key: prefix.keys[2]) })
            }
            #expect(cache.remove(prefix, from: 3) == prefix.keys.count - 3)
            #expect(cache.match(prefix).count == 3)
        }
        // A second process finds what the first one stored.
        let second = RemoteBlockStore(socketPath: daemon.socketPath)
        #expect(try Self.verifyAll(second) >= 3)
        let prompts = try SharedPrompts(second)
        let bytes = try #require(second.get(prompts.prefix(3), at: 1))
        #expect(bytes.withUnsafeBytes { Payload.matches(RawSpan(_unsafeBytes: $0), key: prompts.prefix(3).keys[1]) })
        #expect(second.get(prompts.prefix(3), at: 4) == nil)
        var inline = [UInt8](repeating: 0, count: prompts.spaces[0].blockByteCount)
        inline[7] = 9
        let alone = prompts.spaces[0].prefix(tokens: Array(500..<516))
        #expect(second.put(alone, inline) && second.get(alone, at: 0) == inline)
        #expect(second.pin(alone, seconds: 60) == 1 && second.unpin(alone) == 1)
        #expect(daemon.terminate() == 0, "\(daemon.logText.suffix(1000))")
    }

    /// What is given back travels with the next call. Waking the thread that sees to the rest took a fifth of each hit.
    @Test func `do not wake their second thread for every hit`() throws {
        let daemon = try DaemonProcess(["--memory", "48MiB", "--disk-capacity", "0"])
        let worker = try WorkerProcess(["hits", daemon.socketPath, "5000"])
        let line = try #require(worker.nextLine(untilNanoseconds: nanosecondsNow() + 120_000_000_000))
        let numbers = line.split(separator: " ").compactMap { Int($0) }
        try #require(line.hasPrefix("hits") && numbers.count == 2, "\(line)")
        print("5000 hits in \(numbers[0] / 1000) ms, and the other thread slept \(numbers[1]) times")
        // It looks after 2 ms whether anything is left to tell; on a slow machine that is more often.
        #expect(numbers[1] <= 100 + 3 * numbers[0] / 2000)
    }

    @Test func `that come last can store as well`() throws {
        let daemon = try DaemonProcess(["--memory", "64MiB", "--disk-capacity", "0"])
        let stores = (0..<10).map { _ in RemoteBlockStore(socketPath: daemon.socketPath) }
        for (number, store) in stores.enumerated() {
            let space = try store.namespace(.test(blockBytes: 256 << 10))
            let prefix = space.prefix(tokens: (0..<UInt32(space.identity.tokensPerBlock)).map { $0 + UInt32(number) })
            #expect(store.store(prefix) { _, span in span.storeBytes(of: 7, as: UInt8.self) } == 1, "client \(number)")
        }
        let statistics = try daemon.client().statistics().daemon
        #expect(statistics.stagingRefusals == 0 && statistics.stagingBytes <= 8 << 20)
    }

    /// At least 1,000 in the full run. Some are killed while they write a block, some while they hold leases.
    @Test func `that are killed leave nothing behind`() throws {
        let daemon = try DaemonProcess(["--memory", "48MiB", "--disk-capacity", "0", "--lease-ttl", "60s"])
        var random = SeededRandom(seed: TestScale.seed)
        let kills = TestScale.pick(default: 60, full: 1000)
        var (report, slowest, descriptors, anonymous) = (ClientReport(), 0, 0, 0)
        var (verified, stored) = (0, 0)
        for round in 0..<(kills + 2) / 3 {
            let workers = try (0..<3).map { _ in try Self.worker(daemon, seed: random.next()) }
            let end = nanosecondsNow() + UInt64.random(in: 20...150, using: &random) * 1_000_000
            while nanosecondsNow() < end {
                for worker in workers { _ = worker.listen(untilNanoseconds: nanosecondsNow() + 5_000_000) }
            }
            for worker in workers {
                #expect(worker.killAndWait() == SIGKILL, "a client ended by itself")
                report.read(worker.remainingLines())
                (verified, stored) = (verified + report.verified, stored + report.stored)
                report.verified = 0
                report.stored = 0
            }
            let milliseconds = try daemon.wait(seconds: 60) {
                $0.store.leases == 0 && $0.store.reservations == 0 && $0.daemon.stagingBytes == 0
                    && $0.daemon.connections == 1 && $0.daemon.sharedClosedRegionBytes == 0
            }
            slowest = max(slowest, try #require(milliseconds, "round \(round): something was left behind"))
            // The first rounds fill the memory and meet every path once.
            if round == 9 { (descriptors, anonymous) = (try Self.ownDescriptors(daemon), daemon.anonymousBytes) }
            #expect(daemon.sharedBytes <= 48 << 20, "more than the cap")
        }
        let died = try daemon.client().statistics().daemon.diedClients
        print(
            "\(kills) clients killed, \(died) of them with leases or reservations, after \(verified) blocks verified and "
                + "\(stored) stored; everything was given back after at most \(slowest) ms; \(descriptors) descriptors, "
                + "\(anonymous >> 10) KiB of heap, at the end \(try Self.ownDescriptors(daemon)) and "
                + "\(daemon.anonymousBytes >> 10)"
        )
        print("TABLE client-kill \(kills) \(verified) 0 \(report.complaints.count) 0 \(slowest)")
        #expect(died > kills / 2, "most held nothing when they died, so little was tested")
        #expect(report.complaints.isEmpty, "\(report.complaints.prefix(5))")
        #expect(verified > kills && stored > kills)
        // A leak would grow with the kills.
        #expect(try Self.ownDescriptors(daemon) <= descriptors + 2)
        #expect(daemon.anonymousBytes <= anonymous + (8 << 20))
        _ = try Self.verifyAll(RemoteBlockStore(socketPath: daemon.socketPath))
        #expect(try daemon.client().statistics().store.corruptBlocks == 0)
    }

    /// A child that inherited the socket keeps it open: the end of the stream never comes, only the pidfd tells.
    @Test func `that are killed are noticed although a child still has their socket`() throws {
        let daemon = try DaemonProcess(["--memory", "48MiB", "--disk-capacity", "0", "--lease-ttl", "600s"])
        let worker = try WorkerProcess(["heir", daemon.socketPath])
        let line = try #require(worker.nextLine(untilNanoseconds: nanosecondsNow() + 60_000_000_000))
        let numbers = line.split(separator: " ").compactMap { Int32($0) }
        try #require(line.hasPrefix("heir") && numbers.count == 2, "\(line)")
        let heir = numbers[0]
        defer { kill(heir, SIGKILL) }
        #expect(numbers[1] > 0, "the child inherited no socket, so nothing is tested")
        #expect(try daemon.client().statistics().store.leases == 1)
        #expect(worker.killAndWait() == SIGKILL)
        let milliseconds = try daemon.wait(seconds: 60) { $0.store.leases == 0 && $0.store.reservations == 0 }
        print("a dead client whose socket lives on was noticed after \(try #require(milliseconds)) ms")
        #expect(kill(heir, 0) == 0, "the child is gone, and with it the socket")
    }

    @Test func `that are stopped for three lease times read no wrong byte`() throws {
        let daemon = try DaemonProcess(["--memory", "32MiB", "--disk-capacity", "0", "--lease-ttl", "300ms"])
        var random = SeededRandom(seed: TestScale.seed)
        let stopped = try Self.worker(daemon, seed: random.next())
        let busy = try [Self.worker(daemon, seed: random.next()), Self.worker(daemon, seed: random.next())]
        var (mine, others) = (ClientReport(), ClientReport())
        for _ in 0..<TestScale.pick(default: 8, full: 100) {
            stopped.listenAndRead(&mine, milliseconds: Int.random(in: 50...300, using: &random))
            stopped.send(signal: SIGSTOP)
            for worker in busy { worker.listenAndRead(&others, milliseconds: 500) }
            stopped.send(signal: SIGCONT)
        }
        stopped.listenAndRead(&mine, milliseconds: 500)
        #expect(
            mine.complaints.isEmpty && others.complaints.isEmpty, "\((mine.complaints + others.complaints).prefix(5))")
        #expect(mine.verified > 0 && others.verified > 0)
        let expired = try daemon.client().statistics().daemon.expiredLeases
        print("stopped client: \(mine.verified) blocks verified, \(mine.stale) leases found stale, \(expired) expired")
        #expect(expired > 0, "no lease ever expired, so nothing was tested")
        #expect(mine.stale > 0, "no slot was used again meanwhile, so nothing was tested")
    }

    @Test func `survive the daemon being killed and find their blocks again`() throws {
        let daemon = try DaemonProcess([
            "--memory", "32MiB", "--disk-capacity", "512MiB", "--write-back-delay", "200ms",
        ])
        var random = SeededRandom(seed: TestScale.seed)
        let workers = try (0..<2).map { _ in try Self.worker(daemon, seed: random.next()) }
        var reports = [ClientReport(), ClientReport()]
        for round in 0..<TestScale.pick(default: 4, full: 50) {
            for index in workers.indices { workers[index].listenAndRead(&reports[index], milliseconds: 700) }
            daemon.kill9()
            // They read on, in mappings whose owner is dead, and look for the daemon.
            for index in workers.indices { workers[index].listenAndRead(&reports[index], milliseconds: 200) }
            try daemon.start()
            let before = reports.map(\.verified)
            for index in workers.indices {
                for _ in 0..<600 where reports[index].verified == before[index] {
                    workers[index].listenAndRead(&reports[index], milliseconds: 100)
                }
                #expect(reports[index].verified > before[index], "round \(round): client \(index) never found it again")
            }
        }
        for index in workers.indices {
            #expect(workers[index].isAlive, "a client ended by itself")
            #expect(reports[index].complaints.isEmpty, "\(reports[index].complaints.prefix(5))")
        }
        #expect(try daemon.client().flush().refusedBlocks == 0)
        daemon.kill9()
        try daemon.start()
        _ = try daemon.wait(seconds: 60) { !$0.store.isWarming }
        let remote = RemoteBlockStore(socketPath: daemon.socketPath)
        #expect(try Self.verifyAll(remote) > 10, "what was flushed is gone")
    }

    @Test func `miss and do not hang while the daemon is stopped or gone`() throws {
        let daemon = try DaemonProcess(["--memory", "32MiB", "--disk-capacity", "0"])
        var options = ClientOptions()
        options.timeoutSeconds = 1
        let cache = RemoteBlockStore(socketPath: daemon.socketPath, options: options)
        let prefix = try SharedPrompts(cache).prefix(1)
        cache.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
        guard let lease = cache.acquire(prefix) else {
            Issue.record("no hit")
            return
        }
        daemon.stop()
        // A call waits for its deadline at most once: after that the client knows, and asks again only now and then.
        let start = nanosecondsNow()
        for _ in 0..<50 { #expect(Self.hits(cache, prefix) == 0) }
        #expect(cache.store(prefix) { _, _ in } == 0 && cache.match(prefix).count == 0)
        // Far from 52 deadlines of a second each, and far from what a busy machine adds.
        let seconds = Double(nanosecondsNow() - start) / 1e9
        #expect(seconds < 15, "every call waited for the deadline")
        print("52 calls to a stopped daemon with a deadline of 1 s took \(Int(seconds * 1000)) ms in all")
        kill(daemon.identifier, SIGCONT)
        var isBack = false
        for _ in 0..<500 where !isBack {
            isBack = cache.match(prefix).count == prefix.keys.count
            usleep(20_000)
        }
        #expect(isBack, "the client does not come back")
        daemon.kill9()
        #expect(Self.hits(cache, prefix) == 0)
        // The memory stays: it was verified when it was taken, and nobody writes to it any more.
        for index in 0..<lease.count {
            #expect(lease.withBytes(at: index) { Payload.matches($0, key: prefix.keys[index]) })
        }
        #expect(throws: KVStoreError.self) { try cache.namespace(.test()) }
    }

    /// What an attentive reader of logs, statistics and messages may never find.
    @Test func `keep prompts keys and payload out of everything that people read`() throws {
        let metricsPath = TemporaryDirectory("m")
        chmod(metricsPath.path, 0o700)
        let daemon = try DaemonProcess([
            "--memory", "32MiB", "--disk-capacity", "64MiB", "--log-level", "trace", "--metrics-listen",
            "\(metricsPath.path)/m.sock",
        ])
        let cache = RemoteBlockStore(socketPath: daemon.socketPath)
        let space = try cache.namespace(
            NamespaceIdentity(model: "canary-model", opaqueBlockByteCount: 4096, tokensPerBlock: 16)
        )
        let tokens = (0..<64).map { UInt32(777_000_001 + $0) }
        let prefix = space.prefix(tokens: tokens)
        let canary = Array("SECRET-PAYLOAD-CANARY".utf8)
        cache.store(prefix) { _, span in
            for (offset, byte) in canary.enumerated() {
                span.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
            }
        }
        _ = cache.acquire(prefix)
        cache.remove(prefix, from: 2)
        var messages = ""
        do { _ = try cache.namespace(NamespaceIdentity(model: "", opaqueBlockByteCount: 1, tokensPerBlock: 1)) } catch {
            messages += "\(error)"
        }
        // The client library sends keys. Token ids themselves, whole and cut short:
        messages += try Self.sendTokens(tokens, namespace: space.identity, to: daemon)
        let client = try daemon.client()
        _ = try client.flush()
        let metrics = try Self.read("GET /metrics HTTP/1.0\r\n\r\n", from: metricsPath.path + "/m.sock")
        #expect(metrics.contains("kvstore_"), "no metrics came: \(metrics.prefix(200))")
        let encoder = JSONEncoder()
        let statistics = String(decoding: try encoder.encode(client.statistics(hottest: 20)), as: UTF8.self)
        let namespaces = String(decoding: try encoder.encode(client.namespaces()), as: UTF8.self)
        let health = String(decoding: try encoder.encode(client.health()), as: UTF8.self)
        #expect(daemon.terminate() == 0)
        let salt = try FileManager.default.subpathsOfDirectory(atPath: daemon.directory.path + "/state")
            .filter { $0.contains("salt") }
            .compactMap { FileManager.default.contents(atPath: daemon.directory.path + "/state/" + $0) }
        func hex(_ bytes: some Sequence<UInt8>) -> String { bytes.map { String(format: "%02x", $0) }.joined() }
        var secrets = ["SECRET-PAYLOAD", "777000001", "777000017", hex(space.fingerprint.bytes)]
        secrets += prefix.keys.map { hex($0.bytes) } + salt.filter { $0.count >= 16 }.map { hex($0) }
        for (name, text) in [
            ("log", daemon.logText), ("statistics", statistics), ("namespaces", namespaces), ("health", health),
            ("messages", messages), ("metrics", metrics),
        ] {
            #expect(!text.isEmpty, "\(name)")
            for secret in secrets { #expect(!text.contains(secret), "\(secret.prefix(12)) is in \(name)") }
        }
        #expect(statistics.contains("canary-model"), "the statistics are of something else")
        #expect(messages.contains("body is not laid out"), "nothing was cut short")
    }

    /// Every verb that may name a prompt by its tokens. Returns what the daemon said about those it did not understand.
    private static func sendTokens(
        _ tokens: [UInt32],
        namespace: NamespaceIdentity,
        to daemon: DaemonProcess
    ) throws -> String {
        var (said, options) = ("", ClientOptions())
        options.timeoutSeconds = 20
        for verb in Verb.allCases where verb.namesPrefix && !verb.isOneWay {
            for isCut in [false, true] {
                let deadline = nanosecondsNow() + 60_000_000_000
                var connection = try ClientConnection.open(
                    path: daemon.socketPath, options: options, deadline: deadline)
                let opened = try connection.call(.openNamespace, namespace.canonicalEncoding, deadline: deadline)
                let request = PrefixRequest(
                    namespaceID: try #require(NamespaceReply(opened)).namespaceID,
                    tokenCount: UInt32(tokens.count),
                    blocks: .tokens(tokens)
                )
                let body = isCut ? Array(request.body.dropLast(3)) : request.body
                do throws(ClientError) {
                    _ = try connection.call(verb, body, deadline: deadline)
                } catch {
                    said += error.description + "\n"
                }
            }
        }
        return said
    }

    /// Sends text to a socket and reads until it is closed.
    private static func read(_ text: String, from path: String) throws -> String {
        let socket = CLinux_connect(path, 5000)
        try #require(socket >= 0)
        defer { close(socket) }
        let question = Array(text.utf8)
        try #require(question.withUnsafeBytes { CLinux_send(socket, $0.baseAddress!, $0.count) } == question.count)
        var answer: [UInt8] = []
        while CLinux_wait(socket, 0, 20_000) > 0 {
            var chunk = [UInt8](repeating: 0, count: 64 << 10)
            let count = Glibc.read(socket, &chunk, chunk.count)
            if count <= 0 { break }
            answer += chunk[..<count]
        }
        return String(decoding: answer, as: UTF8.self)
    }
}

extension WorkerProcess {
    /// Listens for a time and takes in whole lines.
    func listenAndRead(_ report: inout ClientReport, milliseconds: Int) {
        let end = nanosecondsNow() + UInt64(milliseconds) * 1_000_000
        var lines: [String] = []
        while let line = nextLine(untilNanoseconds: end) { lines.append(line) }
        report.read(lines)
    }
}
