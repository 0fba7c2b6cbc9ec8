import Foundation
import KVStoreIPC
import KVStoreTestSupport
import Testing

@testable import KVStore

/// The daemon as a process, its clients as processes, and what happens when any of them is killed or stopped.
@Suite("A daemon and its clients", .serialized)
struct DaemonClientTests {
    private static func worker(_ daemon: DaemonProcess, seed: UInt64) throws -> WorkerProcess {
        try WorkerProcess(["client", daemon.socketPath, "\(seed >> 16)"])
    }

    private static func hits(_ cache: any BlockCache, _ prefix: Prefix) -> Int { cache.acquire(prefix)?.count ?? 0 }

    /// Descriptors of the daemon beside those of its regions, whose number follows the sizes of blocks in use.
    private static func ownDescriptors(_ daemon: DaemonProcess) throws -> Int {
        daemon.descriptorCount - (try daemon.client().statistics().store.regions)
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

    /// At least 1,000 in the full run. Some are killed while they write a block, some while they hold leases.
    @Test func `that are killed leave nothing behind`() throws {
        let daemon = try DaemonProcess(["--memory", "48MiB", "--disk-capacity", "0", "--lease-ttl", "60s"])
        var random = SeededRandom(seed: TestScale.seed)
        let kills = TestScale.pick(default: 60, full: 1000)
        var (report, slowest, descriptors, resident) = (ClientReport(), 0, 0, 0)
        var (verified, stored) = (0, 0)
        for round in 0..<kills / 3 {
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
            if round == 5 { (descriptors, resident) = (try Self.ownDescriptors(daemon), daemon.residentBytes) }
        }
        print(
            "\(kills) clients killed after \(verified) blocks verified and \(stored) stored; everything was given back "
                + "after at most \(slowest) ms; \(descriptors) descriptors, \(resident >> 20) MiB, at the end "
                + "\(try Self.ownDescriptors(daemon)) and \(daemon.residentBytes >> 20)"
        )
        #expect(report.complaints.isEmpty, "\(report.complaints.prefix(5))")
        #expect(verified > kills && stored > kills)
        // A leak would grow with the kills.
        #expect(try Self.ownDescriptors(daemon) <= descriptors + 2)
        #expect(daemon.residentBytes <= max(resident, 48 << 20) + (16 << 20))
        _ = try Self.verifyAll(RemoteBlockStore(socketPath: daemon.socketPath))
        #expect(try daemon.client().statistics().store.corruptBlocks == 0)
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
        options.timeoutSeconds = 0.2
        let cache = RemoteBlockStore(socketPath: daemon.socketPath, options: options)
        let prefix = try SharedPrompts(cache).prefix(1)
        cache.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
        guard let lease = cache.acquire(prefix) else {
            Issue.record("no hit")
            return
        }
        daemon.stop()
        // A call waits for its deadline at most once: after that the client knows, and asks again only now and then.
        for _ in 0..<50 { #expect(Self.hits(cache, prefix) == 0) }
        #expect(cache.store(prefix) { _, _ in } == 0 && cache.match(prefix).count == 0)
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
        let daemon = try DaemonProcess(["--memory", "32MiB", "--disk-capacity", "64MiB", "--log-level", "trace"])
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
        let client = try daemon.client()
        _ = try client.flush()
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
            ("messages", messages),
        ] {
            #expect(!text.isEmpty, "\(name)")
            for secret in secrets { #expect(!text.contains(secret), "\(secret.prefix(12)) is in \(name)") }
        }
        #expect(statistics.contains("canary-model"), "the statistics are of something else")
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
