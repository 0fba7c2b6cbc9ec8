import Foundation
import KVStore
import KVStoreTestSupport
import Testing

@testable import KVStoreIPC
@testable import KVStoreServer

@Suite(.serialized) struct DaemonTests {
    private let directory = TemporaryDirectory("daemon")

    @Test(arguments: [4096, 65536, 1 << 20])
    func `what one client stores another reads in place`(blockBytes: Int) async throws {
        let harness = try await DaemonHarness(in: directory)
        let (first, second) = (harness.client(), harness.client())
        let identity = NamespaceIdentity.test(blockBytes: blockBytes)
        let prefix = storeBlocks(first, try first.namespace(identity), [1, 2, 3, 4])
        let same = try second.namespace(identity).prefix([1, 2, 3, 4, 5])
        #expect(same.keys.prefix(4) == prefix.keys[...])
        #expect(checkBlocks(second, same) == 4)
        #expect(second.match(same).count == 4)
        if let lease = second.acquire(same, memoryOnly: true) {
            let count = lease.count
            #expect(count == 4 && harness.context.store.statistics.leases == 1)
        } else {
            Issue.record("no lease")
        }
        #expect(await harness.eventually { harness.context.store.statistics.leases == 0 })
        // Stored again: there is nothing to do.
        let isMissing = first.reserve(prefix) != nil
        #expect(!isMissing)
        first.close()
        second.close()
        await harness.stop()
    }

    @Test func `blocks go over the socket for clients without shared memory`() async throws {
        let harness = try await DaemonHarness(in: directory)
        let client = harness.client()
        let space = try client.namespace(.test(blockBytes: 200_000))
        let prefix = space.prefix([1, 2])
        let bytes = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        #expect(client.get(prefix, at: 0) == nil)
        // Without its parent a block could never be found.
        #expect(!client.put(prefix, bytes))
        #expect(client.put(prefix.first(1), bytes))
        #expect(client.put(prefix, bytes.reversed()))
        #expect(client.get(prefix, at: 0) == bytes)
        #expect(client.get(prefix, at: 1) == bytes.reversed())
        #expect(client.put(prefix, bytes))
        #expect(await harness.eventually { harness.context.frames.usedBytes == 0 })
        client.close()
        await harness.stop()
    }

    @Test func `leases on the same blocks again and again end at what is set aside for their notes`() async throws {
        let harness = try await DaemonHarness(in: directory)
        let client = harness.client()
        let prefix = storeBlocks(client, try client.namespace(.test()), [1, 2])
        var connection = try harness.connection()
        let opened = try #require(
            NamespaceReply(
                try connection.call(.openNamespace, NamespaceIdentity.test().canonicalEncoding, deadline: farAway)))
        let request = PrefixRequest(namespaceID: opened.namespaceID, tokenCount: 32, blocks: .keys(prefix.keys))
        let most = harness.context.leaseNotes.capacityBytes / LeaseBox.noteByteCount(blocks: 2)
        var leases: [UInt64] = []
        for _ in 0..<most {
            let reply = AcquireReply(try connection.call(.acquire, request.body, deadline: farAway))
            leases.append(try #require(reply).leaseID)
        }
        do {
            _ = try connection.call(.acquire, request.body, deadline: farAway)
            Issue.record("one more than there is room for")
        } catch {
            #expect(error.status == .limitReached && error.message.contains("release some"))
        }
        #expect(harness.context.store.statistics.leases == most)
        connection.enqueue(.release, NumberList.body(Array(leases.dropLast())))
        #expect(AcquireReply(try connection.call(.acquire, request.body, deadline: farAway))?.places.count == 2)
        #expect(harness.context.leaseNotes.usedBytes == 2 * LeaseBox.noteByteCount(blocks: 2))
        client.close()
        await harness.stop()
    }

    @Test func `a request by tokens names no more blocks than one by keys`() async throws {
        let harness = try await DaemonHarness(in: directory)
        var connection = try harness.connection()
        var identity = NamespaceIdentity.test()
        identity.tokensPerBlock = 2
        let opened = try #require(
            NamespaceReply(try connection.call(.openNamespace, identity.canonicalEncoding, deadline: farAway)))
        func request(blocks: Int) -> PrefixRequest {
            PrefixRequest(
                namespaceID: opened.namespaceID,
                argument: 1,
                tokenCount: UInt32(2 * blocks),
                blocks: .tokens([UInt32](repeating: 5, count: 2 * blocks))
            )
        }
        let (most, tooMany) = (
            request(blocks: WireLimits.keysPerRequest), request(blocks: WireLimits.keysPerRequest + 1)
        )
        #expect(MatchReply(try connection.call(.match, most.body, deadline: farAway))?.tiers.isEmpty == true)
        // Were only the leading blocks taken, a put would store its bytes under another block's key.
        for verb in Verb.allCases where verb.namesPrefix && !verb.isOneWay && verb != .put {
            do {
                _ = try connection.call(verb, tooMany.body, deadline: farAway)
                Issue.record("\(verb) was not refused")
            } catch {
                #expect(error.status == .invalidArgument && error.message.contains("at most"), "\(verb): \(error)")
            }
        }
        connection.enqueue(.prefetch, tooMany.body)
        var put = tooMany
        put.payload = [UInt8](repeating: 1, count: Int(opened.blockByteCount))
        put.argument = UInt32(put.payload.count)
        do {
            _ = try connection.call(.put, put.body, deadline: farAway)
            Issue.record("a put was not refused")
        } catch {
            #expect(error.status == .invalidArgument && error.message.contains("at most"), "\(error)")
        }
        #expect(harness.context.wishes.usedBytes == 0)
        await harness.stop()
    }

    @Test func `blocks survive a drain and a start on the same directory`() async throws {
        let settings = ["diskCapacity": "64MiB"]
        let first = try await DaemonHarness(in: directory, settings)
        let client = first.client()
        let identity = NamespaceIdentity.test(blockBytes: 16384)
        let prefix = storeBlocks(client, try client.namespace(identity), [1, 2, 3])
        await first.stop()
        #expect(client.match(prefix).count == 0)
        client.close()
        let second = try await DaemonHarness(in: directory, settings)
        second.context.store.waitUntilWarm()
        let again = second.client()
        // The salt is the same, so the keys are.
        #expect(try again.namespace(identity).prefix([1, 2, 3]).keys == prefix.keys)
        #expect(checkBlocks(again, try again.namespace(identity).prefix([1, 2, 3])) == 3)
        #expect(again.flush().refusedBlocks == 0)
        #expect(again.remove(try again.namespace(identity).prefix([1, 2, 3]), from: 1) == 2)
        #expect(checkBlocks(again, try again.namespace(identity).prefix([1, 2, 3])) == 1)
        again.close()
        await second.stop()
    }

    @Test func `while it drains there are no new blocks but old ones are served`() async throws {
        let harness = try await DaemonHarness(in: directory)
        let client = harness.client()
        let space = try client.namespace(.test())
        let prefix = storeBlocks(client, space, [1])
        harness.context.isDraining = true
        #expect(checkBlocks(client, prefix) == 1)
        let isReserved = client.reserve(space.prefix([2])) != nil
        #expect(!isReserved)
        let operators = try DaemonClient(socketPath: harness.path, options: DaemonHarness.options())
        #expect(try operators.health().state == .notReady)
        #expect(try operators.statistics().daemon.isDraining)
        client.close()
        await harness.stop()
    }

    @Test func `pins keep blocks for a time and end when they are told to`() async throws {
        let harness = try await DaemonHarness(in: directory)
        let client = harness.client()
        let prefix = storeBlocks(client, try client.namespace(.test()), [1, 2])
        #expect(client.pin(prefix, seconds: 1000) == 2)
        #expect(client.pin(prefix, seconds: 1000) == 2)
        #expect(harness.context.pins.byteCount == 8192 && harness.context.store.statistics.leases == 1)
        #expect(client.unpin(prefix) == 2 && client.unpin(prefix) == 0)
        // A quarter of the memory is what one tenant may pin.
        let large = storeBlocks(client, try client.namespace(.test(blockBytes: 1 << 20)), [3, 4])
        let store = harness.context.store
        #expect(harness.context.pins.pin(large, seconds: 9, tenant: "t", limitBytes: (2 << 20) - 1, in: store) == 0)
        #expect(client.pin(prefix, seconds: 5) == 2)
        harness.context.pins.expire(now: monotonicNanoseconds() + 4_000_000_000)
        #expect(harness.context.pins.byteCount == 8192)
        harness.context.pins.expire(now: monotonicNanoseconds() + 6_000_000_000)
        #expect(harness.context.pins.byteCount == 0 && harness.context.store.statistics.leases == 0)
        client.close()
        await harness.stop()
    }

    @Test func `tenants share nothing and see only themselves`() async throws {
        let (red, blue) = (
            try DaemonHarness.makeToken("r", in: directory), try DaemonHarness.makeToken("b", in: directory)
        )
        let harness = try await DaemonHarness(
            in: directory,
            tenants: """
                tenants:
                  - {name: red, tokenFile: \(directory.path)/r.token, memoryQuota: 16MiB}
                  - {name: blue, tokenFile: \(directory.path)/b.token}
                """
        )
        let (one, other) = (harness.client(token: red), harness.client(token: blue))
        let identity = NamespaceIdentity.test(tenant: "blue")
        let (redSpace, blueSpace) = (try one.namespace(identity), try other.namespace(identity))
        #expect(redSpace.fingerprint != blueSpace.fingerprint)
        #expect(redSpace.identity.tenant == "red" && blueSpace.identity.tenant == "blue")
        let prefix = storeBlocks(one, redSpace, [1, 2])
        #expect(checkBlocks(one, prefix) == 2)
        #expect(checkBlocks(other, blueSpace.prefix([1, 2])) == 0)
        // Keys of another tenant name nothing.
        var thief = try harness.connection(token: blue)
        var sent = identity
        sent.tenant = ""
        let opened = try #require(
            NamespaceReply(try thief.call(.openNamespace, sent.canonicalEncoding, deadline: farAway)))
        let stolen = PrefixRequest(namespaceID: opened.namespaceID, tokenCount: 32, blocks: .keys(prefix.keys))
        #expect(AcquireReply(try thief.call(.acquire, stolen.body, deadline: farAway))?.places == [])
        harness.context.reload(
            harness.context.configuration,
            tenants: withoutOperators(harness.context.tenants)
        )
        let plain = try DaemonClient(socketPath: harness.path, options: DaemonHarness.options(token: blue))
        let statistics = try plain.statistics(hottest: 10)
        let shown = statistics.tenants.map(\.name)
        #expect(shown == ["blue"])
        #expect(statistics.hottest.isEmpty)
        #expect(try plain.namespaces().allSatisfy { $0.tenant == "blue" })
        #expect(try plain.health().reasons.isEmpty)
        #expect(try plain.flush().refusedBlocks == 0, "blocks of red are nothing that blue may hear of")
        #expect(one.pin(prefix, seconds: 100) == 2)
        let unpin = PrefixRequest(namespaceID: opened.namespaceID, tokenCount: 32, blocks: .keys(prefix.keys))
        #expect(NumberList.uint64(try thief.call(.unpin, unpin.body, deadline: farAway)) == 0)
        #expect(one.unpin(prefix) == 2)
        #expect(throws: ClientError.self) { try plain.purge(tenant: "red") }
        #expect(throws: ClientError.self) { try plain.drain() }
        #expect(checkBlocks(one, prefix) == 2)
        let own = try DaemonClient(socketPath: harness.path, options: DaemonHarness.options(token: red))
        #expect(try own.purge(tenant: nil) == 2)
        #expect(checkBlocks(one, prefix) == 0)
        one.close()
        other.close()
        await harness.stop()
    }

    @Test func `a wrong token or a user without a tenant is refused and nothing secret is logged`() async throws {
        let token = try DaemonHarness.makeToken("r", in: directory)
        let harness = try await DaemonHarness(
            in: directory,
            ["logLevel": "debug"],
            tenants: "tenants: [{name: red, tokenFile: \(directory.path)/r.token}]"
        )
        harness.context.reload(harness.context.configuration, tenants: withoutOperators(harness.context.tenants))
        let canary = Array("CANARY-".utf8) + Array(repeating: UInt8(ascii: "x"), count: 40)
        #expect(
            message { try DaemonClient(socketPath: harness.path, options: DaemonHarness.options(token: canary)) }
                .contains("token"))
        #expect(
            message { try DaemonClient(socketPath: harness.path, options: DaemonHarness.options()) }.contains(
                "no tenant"))
        #expect(harness.context.counters.refusedPeers.count == 2)
        let client = harness.client(token: token)
        var identity = NamespaceIdentity.test()
        identity.tokensPerBlock = 1
        let space = try client.namespace(identity)
        let tokens: [UInt32] = [0x0CA7_A121, 0x0CA7_A122]
        let prefix = space.prefix(tokens: tokens)
        client.store(prefix) { number, bytes in Payload.fill(&bytes, key: prefix.keys[number]) }
        #expect(checkBlocks(client, prefix) == 2)
        let operators = try DaemonClient(socketPath: harness.path, options: DaemonHarness.options(token: token))
        let told =
            harness.lines.all.joined(separator: "\n")
            + String(decoding: try operators.statisticsJSON(everything: false, hottest: 0), as: UTF8.self)
        let salt = try #require(harness.context.tenants.entries.first?.salt.bytes)
        for secret in [
            "CANARY", "\(tokens[0])", "\(tokens[1])", hex(prefix.keys[0].bytes), hex(salt),
            String(decoding: token, as: UTF8.self),
        ] {
            #expect(!told.contains(secret))
        }
        #expect(told.contains("refused uid"))
        client.close()
        await harness.stop()
    }

    @Test func `a reload takes new tenants over and a wrong file changes nothing`() async throws {
        let harness = try await DaemonHarness(in: directory)
        let token = try DaemonHarness.makeToken("n", in: directory)
        let file = directory.path + "/kvstore.yaml"
        try "tenants: [{name: x, uids: [}]".write(toFile: file, atomically: true, encoding: .utf8)
        harness.daemon.reload()
        #expect(harness.context.tenants.entries.map(\.name) == ["default"])
        #expect(harness.lines.all.contains { $0.hasPrefix("error: configuration not taken over: ") })
        try "maximumConnections: 3\nmemory: 128MiB\ntenants: [{name: new, tokenFile: \(directory.path)/n.token}]"
            .write(toFile: file, atomically: true, encoding: .utf8)
        harness.daemon.reload()
        #expect(harness.context.tenants.entries.map(\.name) == ["new"] && harness.context.limit.limit == 3)
        let client = harness.client(token: token)
        #expect(try client.namespace(.test()).identity.tenant == "new")
        client.close()
        await harness.stop()
    }

    @Test func `a second daemon on the path is refused and the first one serves on`() async throws {
        let harness = try await DaemonHarness(in: directory)
        await #expect(throws: HostFileError.self) { _ = try await DaemonHarness(in: directory) }
        #expect(try DaemonClient(socketPath: harness.path, options: DaemonHarness.options()).health().state == .ready)
        await harness.stop()
        #expect(!FileManager.default.fileExists(atPath: harness.path))
    }

    private func hex(_ bytes: [UInt8]) -> String { bytes.map { String(format: "%02x", $0) }.joined() }
}

/// The same tenants, where nobody is an operator. (Tests may run as root, which always is one.)
func withoutOperators(_ table: TenantTable) -> TenantTable {
    TenantTable(entries: table.entries, publicEntry: table.publicEntry, operatorUserIDs: [])
}
