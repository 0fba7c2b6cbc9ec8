import Foundation
import KVStore
import KVStoreTestSupport
import NIOEmbedded
import Testing

@testable import KVStoreIPC
@testable import KVStoreServer

/// A socket without manners.
private final class RawClient: Sendable {
    let socket: Int32

    init(_ path: String) throws {
        socket = try LinuxCalls.makeUnixSocket()
        try #require(LinuxCalls.connect(socket, to: path) == 0)
        _ = fcntl(socket, F_SETFL, 0)
        var limit = timeval(tv_sec: 30, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(socket) }

    @discardableResult
    func send(_ bytes: [UInt8]) -> Bool {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(socket, $0.baseAddress! + sent, $0.count - sent, Int32(MSG_NOSIGNAL))
            }
            if count <= 0 { return false }
            sent += count
        }
        return true
    }

    /// Exactly `count` bytes, or nil.
    func receive(_ count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        return recv(socket, &bytes, count, Int32(MSG_WAITALL)) == count ? bytes : nil
    }

    /// Everything until the daemon closes; nil when it does not.
    func receiveUntilClosed() -> [UInt8]? {
        var all: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = recv(socket, &chunk, chunk.count, 0)
            if count == 0 || (count < 0 && errno == ECONNRESET) { return all }
            if count < 0 { return nil }
            all += chunk[..<count]
        }
    }

    /// The status of the first reply before the connection ended.
    func lastStatus() -> WireStatus? {
        guard let bytes = receiveUntilClosed(), bytes.count >= FrameHeader.byteCount else { return nil }
        return FrameHeader(Array(bytes.prefix(FrameHeader.byteCount)))?.status
    }
}

private func frame(_ verb: Verb, _ body: [UInt8] = []) -> [UInt8] {
    Frame(.request, verb, requestID: 1, body: body).bytes
}

private let hello = frame(.hello, HelloRequest(name: "raw").body)

@Suite(.serialized) struct SessionTests {
    private let directory = TemporaryDirectory("session")

    // MARK: Roles

    private enum Role: CaseIterable { case tenant, operatorWithTenant, operatorAlone, nobody }

    /// What a verb comes to for a role: nil is allowed.
    private func expected(_ verb: Verb, _ role: Role, everything: Bool) -> WireStatus? {
        switch verb {
        case .ping, .health: return nil
        case .drain: return role == .tenant ? .forbidden : nil
        case .statistics, .namespaces, .purge:
            if everything { return role == .tenant ? .forbidden : nil }
            return nil
        case .flush: return nil
        default: return role == .operatorAlone ? .noTenant : nil
        }
    }

    private func body(_ verb: Verb, namespaceID: UInt32, everything: Bool) -> [UInt8] {
        let key = BlockKey(word0: 1, word1: 2, word2: 3, word3: 4)
        let prefix = PrefixRequest(namespaceID: namespaceID, argument: 0, tokenCount: 16, blocks: .keys([key]))
        switch verb {
        case .openNamespace:
            var identity = NamespaceIdentity.test()
            identity.tenant = ""
            return identity.canonicalEncoding
        case .put:
            var put = prefix
            put.argument = 4096
            put.payload = [UInt8](repeating: 7, count: 4096)
            return put.body
        case .commit, .abandon: return NumberList.body(77 as UInt64)
        case .release: return NumberList.body([77 as UInt64])
        case .renew: return NumberList.body([] as [UInt32])
        case .purge:
            var writer = WireWriter()
            writer.append(prefixed: everything ? Array("other".utf8) : [])
            return writer.bytes
        case .statistics: return [everything ? 1 : 0, 0, 0]
        case .namespaces: return [everything ? 1 : 0]
        case .flush, .health, .drain: return []
        case .ping: return [1, 2, 3]
        default: return prefix.body
        }
    }

    @Test func `every verb is allowed to whom it should be and to nobody else`() async throws {
        let harness = try await DaemonHarness(in: directory)
        let table = harness.context.tenants
        let uid = geteuid()
        for role in Role.allCases where role != .nobody {
            let isOperator = role != .tenant
            let entries = role == .operatorAlone ? [] : table.entries
            harness.context.reload(
                harness.context.configuration,
                tenants: TenantTable(entries: entries, operatorUserIDs: isOperator ? [uid] : [])
            )
            for verb in Verb.allCases where verb != .hello && verb != .regions {
                for everything in [false, true] {
                    var connection = try harness.connection()
                    var id: UInt32 = 0
                    if role != .operatorAlone, verb.namesPrefix {
                        let space = body(.openNamespace, namespaceID: 0, everything: false)
                        id = try #require(NamespaceReply(try connection.call(.openNamespace, space, deadline: farAway)))
                            .namespaceID
                    }
                    let bytes = body(verb, namespaceID: id, everything: everything)
                    let wanted = expected(verb, role, everything: everything)
                    // An operator without a tenant has no own to purge: there must be a name.
                    if verb == .purge, role == .operatorAlone, !everything { continue }
                    if verb.isOneWay {
                        // Nothing comes back; the connection lives on.
                        connection.enqueue(verb, bytes)
                        _ = try connection.call(.ping, [], deadline: farAway)
                        continue
                    }
                    var status: WireStatus?
                    do throws(ClientError) {
                        _ = try connection.call(verb, bytes, deadline: farAway)
                    } catch {
                        status = error.status
                    }
                    // Not found is an answer to somebody who may ask.
                    if status == .notFound { status = nil }
                    #expect(status == wanted, "\(verb) as \(role), everything: \(everything)")
                }
            }
        }
        // A peer without a tenant that is no operator does not get past hello.
        harness.context.reload(harness.context.configuration, tenants: TenantTable(entries: [], operatorUserIDs: []))
        #expect(throws: ClientError.self) { _ = try harness.connection().hello }
        await harness.stop()
    }

    // MARK: Hostile clients

    @Test func `garbage giant lengths and wrong order end only their own connection`() async throws {
        let harness = try await DaemonHarness(in: directory)
        let client = harness.client()
        let prefix = storeBlocks(client, try client.namespace(.test()), [1, 2, 3])
        var random = SeededRandom(seed: TestScale.seed)
        for _ in 0..<TestScale.pick(default: 100, full: 5000) {
            let raw = try RawClient(harness.path)
            if Bool.random(using: &random) { raw.send(hello) }
            let count = Int.random(in: 16...4000, using: &random)
            raw.send((0..<count).map { _ in UInt8.random(in: 0...255, using: &random) })
            // Half of them wait for the answer, half hang up.
            if Bool.random(using: &random) { shutdown(raw.socket, Int32(SHUT_WR)) }
        }
        var giant = FrameHeader(bodyByteCount: 0, kind: .request, verb: .match, requestID: 1)
        giant.bodyByteCount = .max
        var raw = try RawClient(harness.path)
        raw.send(giant.bytes)
        #expect(raw.lastStatus() == .badFrame)
        raw = try RawClient(harness.path)
        raw.send(hello + hello + giant.bytes)
        #expect(raw.lastStatus() == .ok)
        raw = try RawClient(harness.path)
        raw.send(frame(.ping) + giant.bytes)
        #expect(raw.lastStatus() == .wrongOrder)
        #expect(checkBlocks(client, prefix) == 3)
        client.close()
        #expect(await harness.eventually { harness.context.limit.open == 0 })
        #expect(harness.context.counters.protocolErrors.count >= 3)
        await harness.stop()
    }

    @Test func `many requests in one packet are answered in order`() async throws {
        let harness = try await DaemonHarness(in: directory)
        let raw = try RawClient(harness.path)
        // Answered one after the other without a stack frame for each.
        let count = 20_000
        var bytes = hello
        for number in 0..<count { bytes += Frame(.request, .ping, requestID: UInt32(number), body: []).bytes }
        let sent = bytes
        // Beside the reading: the daemon takes no more than it has answered.
        // A thread, for the pool's may all be busy with other tests, and the daemon does not wait for ever for half a frame.
        let sending = Thread { raw.send(sent) }
        sending.start()
        let greeting = try #require(raw.receive(FrameHeader.byteCount).flatMap(FrameHeader.init))
        _ = raw.receive(Int(greeting.bodyByteCount))
        for number in 0..<count {
            let header = try #require(raw.receive(FrameHeader.byteCount).flatMap(FrameHeader.init))
            guard header.requestID == UInt32(number), header.status == .ok else {
                Issue.record("reply \(number) is \(header)")
                break
            }
        }
        await harness.stop()
    }

    @Test func `connections beyond the limit are closed and counted`() async throws {
        let harness = try await DaemonHarness(in: directory, ["maximumConnections": "3"])
        let held = try (0..<3).map { _ in try RawClient(harness.path) }
        for client in held { client.send(hello) }
        #expect(await harness.eventually { harness.context.limit.open == 3 })
        let fourth = try RawClient(harness.path)
        #expect(fourth.receiveUntilClosed() == [])
        #expect(harness.context.limit.refused == 1 && harness.context.limit.open == 3)
        withExtendedLifetime(held) {}
        await harness.stop()
    }

    @Test func `who does not say hello or does not finish a frame or does not read is cut off`() async throws {
        var limits = SessionTimeLimits()
        limits.helloNanoseconds = 200_000_000
        limits.frameNanoseconds = 200_000_000
        limits.replyNanoseconds = 200_000_000
        let harness = try await DaemonHarness(in: directory, ["leaseTTL": "100ms"], timeLimits: limits)
        let silent = try RawClient(harness.path)
        #expect(silent.receiveUntilClosed() == [])
        let halting = try RawClient(harness.path)
        halting.send(hello + frame(.ping).dropLast(1))
        #expect(halting.lastStatus() == .ok)
        let deaf = try RawClient(harness.path)
        deaf.send(hello)
        let ping = frame(.ping, [UInt8](repeating: 1, count: 60_000))
        // Ends when the daemon has closed: nothing else makes room.
        while deaf.send(ping) {}
        #expect(await harness.eventually { harness.context.limit.open == 0 })
        #expect(harness.context.counters.slowClients.count == 3)
        await harness.stop()
    }

    @Test func `descriptors that a client sends are closed`() async throws {
        let harness = try await DaemonHarness(in: directory)
        let raw = try RawClient(harness.path)
        var ends: [Int32] = [-1, -1]
        #expect(pipe(&ends) == 0)
        #expect(LinuxCalls.send(hello, descriptors: [ends[1]], over: raw.socket) == hello.count)
        close(ends[1])
        var byte: UInt8 = 0
        // The end of the pipe shows as soon as nobody holds its writing end any more.
        #expect(read(ends[0], &byte, 1) == 0)
        close(ends[0])
        await harness.stop()
    }

    // MARK: Leases

    private func openSpace(_ connection: inout ClientConnection, _ identity: NamespaceIdentity) throws -> UInt32 {
        var sent = identity
        sent.tenant = ""
        let body = try connection.call(.openNamespace, sent.canonicalEncoding, deadline: farAway)
        return try #require(NamespaceReply(body)).namespaceID
    }

    @Test func `a silent client loses its leases and reservations`() async throws {
        let harness = try await DaemonHarness(in: directory, ["leaseTTL": "100ms"])
        let client = harness.client()
        let prefix = storeBlocks(client, try client.namespace(.test()), [1, 2, 3])
        var silent = try harness.connection()
        let id = try openSpace(&silent, .test())
        let request = PrefixRequest(namespaceID: id, tokenCount: 48, blocks: .keys(prefix.keys))
        let reply = try #require(AcquireReply(try silent.call(.acquire, request.body, deadline: farAway)))
        #expect(reply.places.count == 3)
        let missing = client.match(prefix).count
        #expect(missing == 3)
        let other = try client.namespace(.test()).prefix([9])
        let reserve = PrefixRequest(namespaceID: id, tokenCount: 16, blocks: .keys(other.keys))
        let reserved = try #require(ReserveReply(try silent.call(.reserve, reserve.body, deadline: farAway)))
        #expect(reserved.places.count == 1)
        #expect(await harness.eventually { harness.context.store.statistics.leases == 0 })
        #expect(await harness.eventually { harness.context.store.statistics.reservations == 0 })
        #expect(harness.context.counters.expiredLeases.count == 1)
        // It may still be writing where it was told to: that place is given to nobody else, since the connection ends.
        var code: ClientError.Code?
        do throws(ClientError) {
            _ = try silent.call(.commit, NumberList.body(reserved.reservationID), deadline: farAway)
        } catch {
            code = error.code
        }
        #expect(code == .connectionLost)
        client.close()
        await harness.stop()
    }

    @Test func `a lease lives as long as its client, however short its time is`() async throws {
        let harness = try await DaemonHarness(in: directory, ["leaseTTL": "1500ms"])
        let client = harness.client()
        let prefix = storeBlocks(client, try client.namespace(.test()), [1, 2, 3])
        try await Task.sleep(for: .seconds(2))
        client.close()
        let fresh = harness.client()
        _ = try fresh.namespace(.test())
        guard let lease = fresh.acquire(prefix, memoryOnly: true) else {
            Issue.record("a stored prefix was not found")
            return
        }
        try await Task.sleep(for: .seconds(3))
        let isCurrent = lease.isCurrent
        #expect(isCurrent && harness.context.store.statistics.leases == 1)
        #expect(harness.context.counters.expiredLeases.count == 0)
        fresh.close()
        await harness.stop()
    }

    @Test func `what a client gives back is told with its next call, and without one soon after`() async throws {
        let harness = try await DaemonHarness(in: directory)
        let client = harness.client()
        let prefix = storeBlocks(client, try client.namespace(.test()), [1, 2, 3])
        for _ in 0..<3 {
            _ = client.acquire(prefix, memoryOnly: true)
            // The frame with the request has the release before it.
            let found = client.match(prefix).count
            #expect(found == 3)
            #expect(harness.context.store.statistics.leases == 0)
        }
        _ = client.acquire(prefix, memoryOnly: true)
        #expect(await harness.eventually { harness.context.store.statistics.leases == 0 })
        client.close()
        await harness.stop()
    }

    @Test func `the end of a connection gives everything back`() async throws {
        let harness = try await DaemonHarness(in: directory)
        let client = harness.client()
        let prefix = storeBlocks(client, try client.namespace(.test()), [1, 2, 3])
        client.close()
        #expect(await harness.eventually { harness.context.staging.usedBytes == 0 })
        for round in 0..<5 {
            var connection = try harness.connection()
            let id = try openSpace(&connection, .test())
            let request = PrefixRequest(namespaceID: id, tokenCount: 48, blocks: .keys(prefix.keys))
            for _ in 0..<3 { _ = try connection.call(.acquire, request.body, deadline: farAway) }
            let fresh = BlockKey(word0: UInt64(round), word1: 5, word2: 6, word3: 7)
            let reserve = PrefixRequest(namespaceID: id, tokenCount: 16, blocks: .keys([fresh]))
            _ = try connection.call(.reserve, reserve.body, deadline: farAway)
            #expect(harness.context.store.statistics.leases == 3)
            #expect(harness.context.staging.usedBytes > 0)
        }
        #expect(await harness.eventually { harness.context.limit.open == 0 })
        #expect(await harness.eventually { harness.context.store.statistics.leases == 0 })
        #expect(await harness.eventually { harness.context.store.statistics.reservations == 0 })
        #expect(await harness.eventually { harness.context.staging.usedBytes == 0 })
        await harness.stop()
    }

    @Test func `staging stays within its budget whoever asks`() async throws {
        let harness = try await DaemonHarness(in: directory, ["stagingPerConnection": "8MiB"])
        let capacity = harness.context.staging.capacityBytes
        #expect(capacity == 8 << 20)
        var connections: [RemoteBlockStore] = []
        var stored = 0
        for number in 0..<9 {
            let client = harness.client()
            connections.append(client)
            let prefix = storeBlocks(client, try client.namespace(.test(blockBytes: 65536)), [number])
            stored += checkBlocks(client, prefix)
            #expect(harness.context.staging.usedBytes <= capacity)
        }
        // Later ones get smaller regions, not none.
        #expect(stored == 9)
        for client in connections { client.close() }
        await harness.stop()
    }
}

@Suite struct SharedBudgetTests {
    @Test func `no tenant gets more than its share and nobody more than all`() {
        let budget = SharedBudget(capacityBytes: 100)
        #expect(budget.take(100, for: "a"))
        budget.setShare(bytes: 50)
        #expect(!budget.take(1, for: "b") && budget.freeBytes(for: "b") == 0)
        budget.give(60, for: "a")
        #expect(budget.freeBytes(for: "b") == 50 && budget.freeBytes(for: "a") == 10)
        #expect(budget.take(50, for: "b") && !budget.take(1, for: "b"))
        #expect(budget.take(10, for: "a") && !budget.take(1, for: "a"))
        budget.give(50, for: "b")
        budget.give(50, for: "a")
        #expect(budget.usedBytes == 0)
        #expect(!budget.take(101, for: "a"))
    }

    @Test func `where one is always let through the next one waits`() {
        let budget = SharedBudget(capacityBytes: 100, admitsOneAlways: true)
        budget.setShare(bytes: 50)
        #expect(budget.take(1000, for: "a") && !budget.take(1, for: "b"))
        budget.give(1000, for: "a")
        #expect(budget.take(51, for: "b") && !budget.take(60, for: "a"))
    }
}

@Suite struct ConnectionLimitTests {
    @Test func `a user gets half of the connections and the daemon's own as many as there are`() throws {
        let limit = ConnectionLimit(4)
        func peer(_ user: UInt32) -> PeerCredentials {
            PeerCredentials(processID: 1, userID: user, groupID: 1, groupIDs: [])
        }
        let channels = (0..<6).map { _ in EmbeddedChannel() }
        let stranger = geteuid() &+ 77
        #expect(limit.admit(peer(stranger), channels[0]) && limit.admit(peer(stranger), channels[1]))
        #expect(!limit.admit(peer(stranger), channels[2]))
        #expect(limit.admit(peer(stranger + 1), channels[2]))
        for channel in channels[3...4] { #expect(limit.admit(peer(geteuid()), channel)) }
        #expect(limit.refused == 1)
        _ = try channels[0].finish()
        #expect(limit.admit(peer(stranger), channels[5]))
    }
}

@Suite struct StagingSpaceTests {
    @Test func `places never overlap and all come back`() throws {
        var random = SeededRandom(seed: TestScale.seed)
        for _ in 0..<TestScale.pick(default: 50, full: 2000) {
            let byteCount = Int.random(in: 1...64, using: &random) * 4096
            var space = StagingSpace(byteCount: byteCount)
            var held: [(offsets: [Int], size: Int)] = []
            for _ in 0..<200 {
                let size = Int.random(in: 1...5 * 4096, using: &random)
                let place = StagingSpace.placeByteCount(size)
                if Bool.random(using: &random) || held.isEmpty {
                    let free = space.freeCount(blockByteCount: size)
                    let count = Int.random(in: 1...4, using: &random)
                    let offsets = space.take(count, blockByteCount: size)
                    #expect((offsets != nil) == (count <= free))
                    if let offsets { held.append((offsets, size)) }
                } else {
                    let index = Int.random(in: held.indices, using: &random)
                    let gone = held.remove(at: index)
                    space.give(gone.offsets, blockByteCount: gone.size)
                }
                _ = place
                var used = Set<Int>()
                var pages = 0
                for (offsets, size) in held {
                    for offset in offsets {
                        #expect(offset % 4096 == 0 && offset + size <= byteCount)
                        let count = StagingSpace.placeByteCount(size) / 4096
                        pages += count
                        used.formUnion((0..<count).map { offset / 4096 + $0 })
                    }
                }
                #expect(used.count == pages && space.usedByteCount == pages * 4096)
            }
            for (offsets, size) in held { space.give(offsets, blockByteCount: size) }
            #expect(space.freeCount(blockByteCount: 4096) == byteCount / 4096)
        }
    }
}
