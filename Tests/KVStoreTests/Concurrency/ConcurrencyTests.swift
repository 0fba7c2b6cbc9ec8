import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

/// Counts shrink under the thread sanitizer, which is about twenty times slower.
private let isSanitized = ProcessInfo.processInfo.environment["KVSTORE_TSAN"] == "1"

@Suite("Many threads on one store", .serialized)
struct ConcurrencyTests {
    private static func store(_ directory: TemporaryDirectory, readers: Int = 2) throws -> BlockStore {
        var disk = DiskConfiguration(path: directory.path, capacityBytes: 64 << 20)
        disk.readerThreads = readers
        disk.writeBackDelaySeconds = 0.1
        var configuration = Configuration(memoryCapacityBytes: 16 << 20, disk: disk)
        configuration.verifyMemoryHits = true
        let store = try BlockStore(configuration)
        #expect(store.waitUntilWarm())
        return store
    }

    /// What the threads did together.
    private struct Done {
        var stored = 0
        var verified = 0
        var wrong = 0
    }

    @Test func `Eight threads see only right bytes`() throws {
        let directory = TemporaryDirectory()
        let store = try Self.store(directory)
        let spaces = try [4096, 65_536, 200_704].enumerated().map { number, size in
            var identity = NamespaceIdentity.test(
                tenant: "tenant \(number % 2)",
                model: "model \(number)",
                blockBytes: size
            )
            identity.tokensPerBlock = 1
            return try store.namespace(identity)
        }
        let rounds = isSanitized ? 150 : TestScale.pick(default: 2000, full: 20_000)
        let done = Guarded(Done())
        let seed = TestScale.seed
        let watch = Guarded(false)
        let seen = Guarded<[String]>([])
        let watcher = Thread {
            while !watch.value {
                let problems = store.core.with { $0.checkInvariants() }
                seen.update { $0.append(contentsOf: problems) }
                usleep(20_000)
            }
        }
        watcher.start()
        DispatchQueue.concurrentPerform(iterations: 8) { thread in
            var random = SeededRandom(seed: seed &+ UInt64(thread))
            var mine = Done()
            for _ in 0..<rounds { Self.perform(store, spaces, &random, &mine) }
            let result = mine
            done.update {
                $0.stored += result.stored
                $0.verified += result.verified
                $0.wrong += result.wrong
            }
        }
        watch.update { $0 = true }
        while !watcher.isFinished { usleep(1000) }
        #expect(seen.value.prefix(5) == [], "seed \(seed), while the threads ran")
        print("concurrency: 8 threads x \(rounds): \(done.value)")
        #expect(done.value.wrong == 0, "seed \(seed)")
        #expect(done.value.verified > rounds)
        _ = store.flush()
        // Prefetches and write-back pin slots too, but end on their own.
        var end = store.statistics
        for _ in 0..<5000 where end.pinnedSlots > 0 {
            usleep(1000)
            end = store.statistics
        }
        #expect((end.leases, end.reservations, end.pinnedSlots) == (0, 0, 0), "seed \(seed)")
        #expect(end.corruptBlocks == 0)
        #expect(end.diskProblem == nil)
        #expect(store.core.with { $0.checkInvariants() } == [], "seed \(seed)")
        store.close()
        #expect(allocatedBytes(under: directory.path) <= 64 << 20)
    }

    private static func perform(
        _ store: BlockStore,
        _ spaces: [Namespace],
        _ random: inout SeededRandom,
        _ done: inout Done
    ) {
        let space = spaces.randomElement(using: &random)!
        let length = Int.random(in: 1...12, using: &random)
        let prefix = space.prefix(
            tokens: (0..<length).map { $0 < 2 ? UInt32.random(in: 0..<6, using: &random) : UInt32($0) }
        )
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<40: done.stored += BlockStoreTests.put(store, prefix)
        case 40..<80:
            let found = BlockStoreTests.get(store, prefix).count
            if found < 0 { done.wrong += 1 } else { done.verified += found }
        case 80..<88: _ = store.match(prefix)
        case 88..<94: store.prefetch(prefix)
        case 94..<97: store.remove(prefix, from: Int.random(in: 0..<length, using: &random))
        case 97..<99: if var held = store.reserve(prefix) { held.withMutableBytes(at: 0) { _ in } }
        default: if Int.random(in: 0..<8, using: &random) == 0 { _ = store.flush() as FlushResult }
        }
    }

    @Test func `Removed keys stay gone for the thread that removed them`() throws {
        let directory = TemporaryDirectory()
        let store = try Self.store(directory)
        var identity = NamespaceIdentity.test(blockBytes: 16_384)
        identity.tokensPerBlock = 1
        let space = try store.namespace(identity)
        let rounds = isSanitized ? 30 : TestScale.pick(default: 300, full: 3000)
        let found = Guarded(0)
        DispatchQueue.concurrentPerform(iterations: 8) { thread in
            // Every thread has keys of its own, so nobody else puts them back.
            for round in 0..<rounds {
                let prefix = space.prefix(tokens: (0..<8).map { UInt32(thread * 1_000_000 + round % 20 * 100 + $0) })
                BlockStoreTests.put(store, prefix)
                if round % 3 == 0 { _ = store.flush() as FlushResult }
                store.prefetch(prefix)
                store.remove(prefix, from: 2)
                let left = store.match(prefix).count
                if left > 2 { found.update { $0 += 1 } }
                usleep(200)
                if store.match(prefix).count > 2 { found.update { $0 += 1 } }
            }
        }
        #expect(found.value == 0)
    }

    // MARK: Async

    /// A store whose 200 chains are only on disk.
    private static func coldStore(_ directory: TemporaryDirectory, chains: Int) throws -> (BlockStore, [Prefix]) {
        do {
            let store = try Self.store(directory)
            let space = try store.namespace(.test())
            for chain in 0..<chains { BlockStoreTests.put(store, space.prefix((0..<4).map { chain * 10 + $0 })) }
            #expect(store.flush().refusedBlocks == 0)
            store.close()
        }
        let store = try Self.store(directory)
        let space = try store.namespace(.test())
        return (store, (0..<chains).map { chain in space.prefix((0..<4).map { chain * 10 + $0 }) })
    }

    private static func verifiedCount(_ store: BlockStore, _ prefix: Prefix) async -> Int {
        guard let lease = await store.acquire(prefix) else { return 0 }
        var good = 0
        for index in 0..<lease.count
        where lease.withBytes(at: index, { Payload.matches($0, key: prefix.keys[index]) }) { good += 1 }
        return good
    }

    @Test func `Waiting for the disk holds no cooperative thread`() async throws {
        let directory = TemporaryDirectory()
        let (store, prefixes) = try Self.coldStore(directory, chains: 200)
        #expect(store.match(prefixes[0]).needsDisk)
        // Both readers are kept busy, so that every acquire must wait; there are far more of them than threads.
        let gate = DispatchSemaphore(value: 0)
        for _ in 0..<2 { store.disk!.readers.submit { gate.wait() } }
        let ticks = Guarded(0)
        let total = await withTaskGroup(of: Int.self) { group in
            for prefix in prefixes { group.addTask { await Self.verifiedCount(store, prefix) } }
            // If the acquires blocked the pool, this would never come to an end.
            let canary = Task {
                for _ in 0..<50 {
                    try? await Task.sleep(nanoseconds: 1_000_000)
                    ticks.update { $0 += 1 }
                }
                gate.signal()
                gate.signal()
            }
            var total = 0
            for await good in group { total += good }
            await canary.value
            return total
        }
        #expect(ticks.value == 50)
        #expect(total == 200 * 4)
        #expect(store.statistics.leases == 0)
        #expect(store.statistics.promotedBlocks == 200 * 4)
    }

    @Test func `Sixty-four tasks acquire and flush at once`() async throws {
        let directory = TemporaryDirectory()
        let (store, prefixes) = try Self.coldStore(directory, chains: 100)
        let rounds = isSanitized ? 4 : 20
        let wrong = await withTaskGroup(of: Int.self) { group in
            for task in 0..<64 {
                group.addTask {
                    var wrong = 0
                    for round in 0..<rounds {
                        let prefix = prefixes[(task * 7 + round) % prefixes.count]
                        if await Self.verifiedCount(store, prefix) != 4 { wrong += 1 }
                        if round % 7 == task % 7 { _ = await store.flush() }
                    }
                    return wrong
                }
            }
            return await group.reduce(0, +)
        }
        #expect(wrong == 0)
        #expect(store.statistics.leases == 0)
        #expect(store.core.with { $0.checkInvariants() } == [])
    }
}
