import CLinux
import Foundation
import KVStore
import KVStoreIPC
import KVStoreTestSupport
import Testing

/// Clients that mean harm. Whatever they do, the daemon lives, within its memory, and serves the others.
@Suite("A hostile client", .serialized)
struct HostileClientTests {
    /// A connection without the manners of the client library.
    private final class RawClient {
        let descriptor: Int32
        private(set) var descriptors: [Int32] = []

        init(_ path: String) throws {
            descriptor = CLinux_connect(path, 2000)
            try #require(descriptor >= 0, "cannot connect: \(-descriptor)")
        }

        deinit {
            for extra in descriptors { close(extra) }
            close(descriptor)
        }

        /// False when the daemon has hung up, or does not read.
        @discardableResult
        func send(_ bytes: [UInt8], seconds: Int = 5) -> Bool {
            var sent = 0
            let end = nanosecondsNow() + UInt64(seconds) * 1_000_000_000
            while sent < bytes.count {
                let count = bytes.withUnsafeBytes { CLinux_send(descriptor, $0.baseAddress! + sent, $0.count - sent) }
                if count > 0 { sent += count }
                if count == -Int(EAGAIN) {
                    if nanosecondsNow() > end { return false }
                    _ = CLinux_wait(descriptor, 1, 50)
                } else if count < 0 {
                    return false
                }
            }
            return true
        }

        /// Nil when the daemon has hung up or says nothing for five seconds.
        func receive(_ count: Int) -> [UInt8]? {
            var bytes = [UInt8](repeating: 0, count: count)
            var filled = 0
            while filled < count {
                var extra = [Int32](repeating: -1, count: 64)
                var extraCount = 0
                let result = bytes.withUnsafeMutableBytes {
                    CLinux_receive(descriptor, $0.baseAddress! + filled, count - filled, &extra, 64, &extraCount, 0)
                }
                descriptors += extra.prefix(extraCount)
                if result > 0 {
                    filled += result
                } else if result == -Int(EAGAIN) {
                    if CLinux_wait(descriptor, 0, 5000) == 0 { return nil }
                } else {
                    return nil
                }
            }
            return bytes
        }

        func reply() -> Frame? {
            while let bytes = receive(FrameHeader.byteCount), let header = FrameHeader(bytes) {
                guard let body = receive(Int(header.bodyByteCount)) else { return nil }
                if header.kind == .event { continue }
                var frame = Frame(.reply, .ping, requestID: 0, body: body)
                frame.header = header
                return frame
            }
            return nil
        }

        func ask(_ verb: Verb, _ body: [UInt8]) -> Frame? {
            send(Frame(.request, verb, requestID: 1, body: body).bytes) ? reply() : nil
        }

        /// Whether the daemon has ended the connection.
        var isHungUp: Bool { receive(1) == nil && CLinux_wait(descriptor, 0, 0) == 1 }
    }

    /// A client that behaves, and must never notice anything.
    private final class Witness {
        let cache: RemoteBlockStore
        private let prompts: SharedPrompts

        init(_ daemon: DaemonProcess) throws {
            var options = ClientOptions()
            options.timeoutSeconds = 20
            cache = RemoteBlockStore(socketPath: daemon.socketPath, options: options)
            prompts = try SharedPrompts(cache)
            for number in 0..<6 {
                let prefix = prompts.prefix(number)
                cache.store(prefix) { index, span in Payload.fill(&span, key: prefix.keys[index]) }
            }
        }

        func check(_ what: String) {
            for number in 0..<6 {
                let prefix = prompts.prefix(number)
                guard let lease = cache.acquire(prefix) else {
                    Issue.record("\(what): the witness lost its blocks")
                    continue
                }
                #expect(lease.count == prefix.keys.count, "\(what)")
                for index in 0..<lease.count {
                    let isRight = lease.withBytes(at: index) { Payload.matches($0, key: prefix.keys[index]) }
                    #expect(isRight, "\(what): prompt \(number), block \(index)")
                }
            }
        }
    }

    private static func daemon(_ more: [String] = []) throws -> DaemonProcess {
        try DaemonProcess(["--memory", "64MiB", "--disk-capacity", "0"] + more)
    }

    private static let hello = Frame(.request, .hello, requestID: 1, body: HelloRequest(name: "mallory").body).bytes

    @Test func `gets nowhere with frames that are none`() throws {
        let daemon = try Self.daemon()
        let witness = try Witness(daemon)
        var random = SeededRandom(seed: TestScale.seed)
        let prefix = PrefixRequest(namespaceID: 1, tokenCount: 64, blocks: .keys([BlockKey(sha256Of: [1])])).body
        let identity = NamespaceIdentity(model: "m", opaqueBlockByteCount: 4096, tokensPerBlock: 16).canonicalEncoding
        for round in 0..<TestScale.pick(default: 300, full: 5000) {
            let client = try RawClient(daemon.socketPath)
            if round % 3 > 0 { client.send(Self.hello) }
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                let verb = Verb.allCases.randomElement(using: &random)!
                // Draining would be obeyed: this user is an operator.
                guard verb != .drain, verb != .purge else { continue }
                var bytes = Frame(
                    .request,
                    verb,
                    requestID: random.next() > 0 ? 7 : 8,
                    body: verb.namesPrefix ? prefix : verb == .openNamespace ? identity : [UInt8(round & 1)]
                ).bytes
                for _ in 0..<Int.random(in: 0...4, using: &random) {
                    let place = Int.random(in: 0..<bytes.count, using: &random)
                    // Never the verb's own bytes, for the reason above.
                    if place != 6, place != 7 { bytes[place] = UInt8.random(in: 0...255, using: &random) }
                }
                if Int.random(in: 0..<6, using: &random) == 0 {
                    bytes = Array(bytes.prefix(Int.random(in: 0..<bytes.count, using: &random)))
                }
                if !client.send(bytes) { break }
            }
            if round % 50 == 0 { witness.check("random frames") }
        }
        #expect(daemon.isRunning)
        witness.check("random frames")
    }

    @Test func `is cut off after impossible lengths and wrong versions`() throws {
        let daemon = try Self.daemon()
        let witness = try Witness(daemon)
        let before = daemon.residentBytes
        let lengths: [UInt32] = [.max, 1 << 31, (4 << 20) + 1]
        for length in lengths {
            for verb in [Verb.acquire, .put, .statistics] {
                let client = try RawClient(daemon.socketPath)
                client.send(Self.hello)
                #expect(client.reply()?.header.status == .ok)
                var header = FrameHeader(bodyByteCount: 0, kind: .request, verb: verb, requestID: 3)
                header.bodyByteCount = length
                client.send(header.bytes)
                #expect(client.reply()?.header.status == .badFrame, "\(verb) \(length)")
                #expect(client.isHungUp)
            }
        }
        let client = try RawClient(daemon.socketPath)
        client.send(Self.hello)
        _ = client.reply()
        let refused = client.ask(.acquire, PrefixRequest(namespaceID: 9, tokenCount: 1, blocks: .tokens([1])).body)
        #expect(refused?.header.status == .unknownNamespace)
        let absurd = NamespaceIdentity(model: "m", opaqueBlockByteCount: 1 << 29, tokensPerBlock: 16)
        #expect(client.ask(.openNamespace, absurd.canonicalEncoding)?.header.status == .invalidArgument)
        #expect(client.ask(.commit, NumberList.body(12345 as UInt64))?.header.status == .notFound)
        #expect(daemon.residentBytes < before + (24 << 20))
        witness.check("lengths")
    }

    @Test func `cannot change what it was given to read`() throws {
        let daemon = try Self.daemon()
        let witness = try Witness(daemon)
        let client = try RawClient(daemon.socketPath)
        client.send(Self.hello)
        _ = client.reply()
        // The same namespace as the witness's prompts of 64 KiB.
        var identity = NamespaceIdentity(model: "prompts-1", opaqueBlockByteCount: 64 << 10, tokensPerBlock: 16)
        identity.additional["purpose"] = "tests"
        let opened = try #require(
            client.ask(.openNamespace, identity.canonicalEncoding).flatMap { NamespaceReply($0.body) })
        let hasher = PrefixHasher(fingerprint: opened.fingerprint, tokensPerBlock: 16)
        let request = PrefixRequest(
            namespaceID: opened.namespaceID,
            tokenCount: 48,
            blocks: .keys(hasher.keys(tokens: Array(0..<48)))
        )
        let reply = try #require(client.ask(.acquire, request.body).flatMap { AcquireReply($0.body) })
        #expect(reply.places.count == 3)
        // The staging region, which a client writes, comes with the first reservation.
        let missing = PrefixRequest(
            namespaceID: opened.namespaceID,
            tokenCount: 16,
            blocks: .keys(hasher.keys(tokens: Array(9000..<9016)))
        )
        let slots = client.descriptors
        let reserved = try #require(client.ask(.reserve, missing.body).flatMap { ReserveReply($0.body) })
        let staging = try #require(client.descriptors.last)
        #expect(slots.count > 0 && client.descriptors.count == slots.count + 1)
        for descriptor in client.descriptors {
            let size = Int(lseek(descriptor, 0, SEEK_END))
            #expect(ftruncate(descriptor, 0) != 0 && ftruncate(descriptor, off_t(size * 2)) != 0)
            #expect(fcntl(descriptor, 1033, 0) != 0, "seals could be added")
            #expect(posix_fallocate(descriptor, off_t(size), 4096) != 0, "it could be made longer")
            #expect(Int(lseek(descriptor, 0, SEEK_END)) == size)
        }
        // Into the staging region a client may punch a hole (MADV_REMOVE): the daemon reads zeros there, and no fault.
        let stagingSize = Int(lseek(staging, 0, SEEK_END))
        let writable = mmap(nil, stagingSize, PROT_READ | PROT_WRITE, MAP_SHARED, staging, 0)
        #expect(writable != MAP_FAILED && madvise(writable, stagingSize, 9) == 0)
        #expect(client.ask(.commit, NumberList.body(reserved.reservationID))?.header.status == .ok)
        let descriptor = try #require(slots.first)
        let size = Int(lseek(descriptor, 0, SEEK_END))
        #expect(pwrite(descriptor, "x", 1, 0) < 0)
        #expect(mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0) == MAP_FAILED)
        let readable = mmap(nil, 4096, PROT_READ, MAP_SHARED, descriptor, 0)
        // MADV_REMOVE: punches a hole.
        #expect(madvise(readable, 4096, 9) != 0)
        #expect(readable != MAP_FAILED && mprotect(readable, 4096, PROT_READ | PROT_WRITE) != 0)
        let again = open("/proc/self/fd/\(descriptor)", O_RDWR)
        if again >= 0 {
            #expect(pwrite(again, "x", 1, 0) < 0)
            #expect(mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0) == MAP_FAILED)
            close(again)
        }
        let truncated = open("/proc/self/fd/\(descriptor)", O_RDWR | O_TRUNC)
        if truncated >= 0 { close(truncated) }
        #expect(Int(lseek(descriptor, 0, SEEK_END)) == size)
        witness.check("descriptors")
    }

    @Test func `cannot keep others out with connections or by being slow`() throws {
        let daemon = try Self.daemon(["--maximum-connections", "200"])
        let witness = try Witness(daemon)
        witness.check("before")
        let before = try #require(daemon.descriptorCount)
        do {
            var crowd: [RawClient] = []
            for _ in 0..<1024 { if let client = try? RawClient(daemon.socketPath) { crowd.append(client) } }
            witness.check("with 1,024 connections")
            let count = try #require(daemon.descriptorCount)
            #expect(count <= 200 * 3 + before, "\(count)")
        }
        _ = try daemon.wait(seconds: 30) { $0.daemon.connections <= 2 }
        // One that writes a byte at a time, and one that never reads what it asks for.
        let (slowWriter, slowReader) = (try RawClient(daemon.socketPath), try RawClient(daemon.socketPath))
        slowReader.send(Self.hello)
        _ = slowReader.reply()
        let question = Frame(.request, .ping, requestID: 2, body: [UInt8](repeating: 5, count: 60_000)).bytes
        let resident = daemon.residentBytes
        var taken = 0
        for byte in Self.hello {
            slowWriter.send([byte])
            if slowReader.send(question, seconds: 0) { taken += 1 }
            witness.check("slow clients")
        }
        #expect(taken < 40, "the daemon reads on although nobody takes its answers")
        #expect(daemon.residentBytes < resident + (8 << 20))
        #expect(slowWriter.reply()?.header.status == .ok)
    }

    @Test func `gains nothing by sending descriptors`() throws {
        let daemon = try Self.daemon()
        let witness = try Witness(daemon)
        let client = try RawClient(daemon.socketPath)
        let before = try #require(daemon.descriptorCount)
        var null = [open("/dev/null", O_RDONLY), open("/dev/null", O_RDONLY)]
        defer { for descriptor in null { close(descriptor) } }
        let ping = Frame(.request, .ping, requestID: 2, body: [1]).bytes
        client.send(Self.hello)
        _ = client.reply()
        for _ in 0..<200 {
            let sent = ping.withUnsafeBytes {
                CLinux_send_descriptors(client.descriptor, $0.baseAddress, $0.count, &null, 2)
            }
            #expect(sent == ping.count && client.reply()?.body == [1])
        }
        #expect(try #require(daemon.descriptorCount) <= before + 2)
        witness.check("descriptors")
    }

    @Test func `does not make a daemon without descriptors spin`() throws {
        let daemon = try Self.daemon()
        daemon.kill9()
        try daemon.start(descriptorLimit: 64)
        #expect(daemon.descriptorLimit == 64)
        let witness = try Witness(daemon)
        witness.check("with descriptors")
        // Fewer than wait to be accepted at most. Who has said hello is not cut off for saying nothing more.
        let crowd = try (0..<120).map { _ in try RawClient(daemon.socketPath) }
        for client in crowd { client.send(Self.hello) }
        let failures = { daemon.logText.components(separatedBy: "cannot accept a connection").count - 1 }
        let end = nanosecondsNow() + 30_000_000_000
        while failures() == 0, nanosecondsNow() < end { usleep(10_000) }
        #expect(failures() > 0, "descriptors never ran out, so nothing is tested")
        let (failed, before, start) = (failures(), daemon.processorTicks, nanosecondsNow())
        usleep(3_000_000)
        let seconds = Double(nanosecondsNow() - start) / 1e9
        // One try a second, and each is in the log. A loop over failing accepts makes thousands, of which the log has
        // ten a second, and takes most of a core: 100 ticks a second.
        let tries = failures() - failed
        #expect(Double(tries) <= 1.5 * seconds + 1, "\(tries) tries in \(seconds) s")
        #expect(Double(daemon.processorTicks - before) < 20 * seconds, "the daemon spins")
        witness.check("without descriptors")
        withExtendedLifetime(crowd) {}
        #expect(daemon.isRunning)
    }

    /// Leases on all it may have, places to write into, and regions of which it never says that they are unmapped.
    @Test func `that hoards stays within what is set aside for it`() throws {
        let files = TemporaryDirectory("f")
        var options: [ClientOptions] = []
        for tenant in ["hog", "good"] {
            let token = Array((tenant + String(repeating: "-", count: 40)).utf8)
            try Data(token).write(to: URL(fileURLWithPath: "\(files.path)/\(tenant)"))
            chmod("\(files.path)/\(tenant)", 0o600)
            options.append(ClientOptions())
            options[options.count - 1].token = token
            options[options.count - 1].timeoutSeconds = 20
        }
        let memory = 64 << 20
        let daemon = try DaemonProcess(
            ["--memory", "64MiB", "--disk-capacity", "0"],
            configuration: """
                tenants:
                  - {name: hog, tokenFile: \(files.path)/hog, memoryQuota: 16MiB}
                  - {name: good, tokenFile: \(files.path)/good}
                """
        )
        let hog = RemoteBlockStore(socketPath: daemon.socketPath, options: options[0])
        let prompts = try SharedPrompts(hog)
        let client = try RawClient(daemon.socketPath)
        let hello = HelloRequest(name: "hog", token: options[0].token)
        client.send(Frame(.request, .hello, requestID: 1, body: hello.body).bytes)
        _ = client.reply()
        var ids: [UInt32] = []
        for space in prompts.spaces {
            let opened = client.ask(.openNamespace, space.identity.canonicalEncoding)
            ids.append(try #require(opened.flatMap { NamespaceReply($0.body) }).namespaceID)
        }
        var (leases, closedAtMost, refused): ([UInt64], Int, Int) = ([], 0, 0)
        for round in 0..<120 {
            // All of the quota goes to blocks of 64 KiB, then some of it to those of 256 KiB, then to those of 16 KiB:
            // regions of the size before are emptied and closed.
            let number = (round < 50 ? 1 : round < 90 ? 2 : 0) + 3 * round
            let prefix = prompts.prefix(number)
            hog.store(prefix) { index, span in Payload.fill(&span, key: prefix.keys[index]) }
            let request = PrefixRequest(
                namespaceID: ids[number % ids.count],
                tokenCount: UInt32(prefix.tokenCount),
                blocks: .keys(prefix.keys)
            )
            let reply = client.ask(.acquire, request.body)
            if let lease = reply.flatMap({ AcquireReply($0.body) }), lease.leaseID > 0 { leases.append(lease.leaseID) }
            if reply?.header.status == .limitReached { refused += 1 }
            _ = client.ask(.reserve, request.body)
            if leases.count > 30 {
                client.send(Frame(.request, .release, requestID: 1, body: NumberList.body(leases)).bytes)
                leases = []
            }
            let statistics = try daemon.client().statistics()
            let closed = statistics.daemon.sharedClosedRegionBytes
            closedAtMost = max(closedAtMost, closed)
            #expect(statistics.store.memory.bytes + statistics.daemon.stagingBytes <= memory, "round \(round)")
            #expect(daemon.sharedBytes <= memory, "round \(round)")
        }
        print("a hoarder kept at most \(closedAtMost >> 10) KiB of closed regions; \(refused) leases refused")
        #expect(closedAtMost > 0, "no region was closed while it was mapped, so that is not tested")
        #expect(daemon.anonymousBytes < 64 << 20)
        let good = RemoteBlockStore(socketPath: daemon.socketPath, options: options[1])
        let own = try SharedPrompts(good)
        for number in 0..<20 {
            let prefix = own.prefix(number)
            // As many blocks at a time as it gets places to prepare.
            while good.store(prefix, fill: { index, span in Payload.fill(&span, key: prefix.keys[index]) }) > 0 {}
            #expect(good.match(prefix).count == prefix.keys.count, "another tenant cannot store any more")
        }
        #expect(try daemon.client().statistics().tenants.allSatisfy { $0.name != "hog" || $0.memoryBytes <= 16 << 20 })
    }
}
