import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("The warm-up after a start")
struct WarmUpTests {
    static let blockBytes = 65536

    static func configuration(_ directory: TemporaryDirectory, fraction: Double) -> Configuration {
        var disk = DiskConfiguration(path: directory.path + "/store", capacityBytes: 128 << 20)
        disk.writeBackDelaySeconds = nil
        var configuration = Configuration(memoryCapacityBytes: 16 << 20, disk: disk)
        configuration.warmUpFraction = fraction
        configuration.verifyMemoryHits = true
        configuration.scrub = .off
        return configuration
    }

    static func open(_ directory: TemporaryDirectory, fraction: Double = 0.5) throws -> BlockStore {
        let store = try BlockStore(configuration(directory, fraction: fraction))
        #expect(store.waitUntilWarm())
        return store
    }

    static func space(_ store: BlockStore) throws -> Namespace { try store.namespace(.test(blockBytes: blockBytes)) }

    /// Stores chains of 4 below a common head; waits for the disk after each, so that none is dropped.
    static func fill(_ store: BlockStore, chains: Int) throws {
        let space = try space(store)
        for chain in 0..<chains {
            BlockStoreTests.put(store, space.prefix(path(chain)))
            store.waitForSpill()
            if chain % 8 == 7 { #expect(store.flush().refusedBlocks == 0) }
        }
    }

    static func path(_ chain: Int) -> [Int] { [-1] + (0..<4).map { chain * 10 + $0 } }

    static func expectSound(_ store: BlockStore) {
        #expect(store.core.with { $0.checkInvariants() } == [])
        #expect(ScrubTests.wait { store.statistics.pinnedSlots == 0 })
    }

    static func waitForEnd(_ store: BlockStore) {
        #expect(ScrubTests.wait { !store.statistics.warmUp.isRunning })
    }

    @Test func `reads the most used heads up to half of memory and they hit there`() throws {
        let directory = TemporaryDirectory()
        do {
            let store = try Self.open(directory, fraction: 0)
            try Self.fill(store, chains: 64)
            // Old chains that are used again after they were written: only a clean close can know of that.
            let space = try Self.space(store)
            for _ in 0..<5 {
                for chain in 0..<6 { #expect(BlockStoreTests.get(store, space.prefix(Self.path(chain))).count == 5) }
            }
            store.close()
        }
        let store = try Self.open(directory)
        Self.waitForEnd(store)
        let statistics = store.statistics
        #expect(statistics.warmUp.blocks > 64)
        #expect(statistics.warmUp.blocks <= statistics.warmUp.plannedBlocks)
        #expect(statistics.warmUp.bytes == statistics.warmUp.blocks * Self.blockBytes)
        #expect(statistics.warmUp.bytes <= 8 << 20)
        #expect(statistics.memory.blocks == statistics.warmUp.blocks)
        #expect(statistics.memory.evictedBlocks == 0)
        #expect(statistics.lookups == 0)
        let space = try Self.space(store)
        for chain in 0..<6 {
            #expect(BlockStoreTests.get(store, space.prefix(Self.path(chain))) == (5, 0), "chain \(chain)")
        }
        // Whole prefixes: nothing in memory below something that is not.
        for chain in 0..<64 {
            let tiers = store.match(space.prefix(Self.path(chain))).tiers
            #expect(tiers.count == 5)
            let inMemory = tiers.prefix { $0 == .memory }.count
            #expect(tiers.dropFirst(inMemory).allSatisfy { $0 == .disk })
        }
        #expect(store.statistics.corruptBlocks == 0)
        Self.expectSound(store)
    }

    @Test func `leaves the best chains hottest`() throws {
        let directory = TemporaryDirectory()
        do {
            let store = try Self.open(directory, fraction: 0)
            try Self.fill(store, chains: 64)
            let space = try Self.space(store)
            for _ in 0..<5 { #expect(BlockStoreTests.get(store, space.prefix(Self.path(3))).count == 5) }
            store.close()
        }
        let store = try Self.open(directory)
        Self.waitForEnd(store)
        let space = try Self.space(store)
        // New blocks until memory has given up most of what was read.
        for chain in 100..<140 {
            BlockStoreTests.put(store, space.prefix(Self.path(chain)))
            store.waitForSpill()
        }
        #expect(store.statistics.memory.evictedBlocks > 64)
        #expect(store.match(space.prefix(Self.path(3))).tiers == [.memory, .memory, .memory, .memory, .memory])
        Self.expectSound(store)
    }

    @Test func `reads nothing when it is off`() throws {
        let directory = TemporaryDirectory()
        do {
            let store = try Self.open(directory, fraction: 0)
            try Self.fill(store, chains: 4)
        }
        let store = try Self.open(directory, fraction: 0)
        #expect(store.statistics.warmUp == WarmUpStatistics())
        #expect(store.statistics.memory.blocks == 0)
        #expect(store.statistics.disk.blocks == 17)
    }

    @Test func `never evicts what is there and stops at its share whoever filled it`() throws {
        let directory = TemporaryDirectory()
        do {
            let store = try Self.open(directory, fraction: 0)
            try Self.fill(store, chains: 64)
        }
        let store = try Self.open(directory, fraction: 0)
        let space = try Self.space(store)
        // Real traffic first: other blocks, more than a quarter of memory and less than half.
        let own = (0..<5).map { chain in space.prefix((0..<16).map { 10_000 + chain * 16 + $0 }) }
        for prefix in own { #expect(BlockStoreTests.put(store, prefix) == 16) }
        let keys = (0..<64).flatMap { space.prefix(Self.path($0)).keys }
        var next = 0
        var read = 0
        while true {
            let (grant, position) = store.core.with { [next] core -> (WarmUpGrant, Int) in
                var position = next
                return (core.claimForWarmUp(keys, next: &position, fraction: 0.5), position)
            }
            next = position
            guard case .claims(var claims, let blocks, let flight) = grant else {
                if case .needsRegion(let plan) = grant, store.core.addRegion(plan) { continue }
                break
            }
            // While it reads, a lookup of the disk makes it wait.
            let isBusy = store.core.with { [next] core in
                var position = next
                if case .busy = core.claimForWarmUp(keys, next: &position, fraction: 0.5) { return true }
                return false
            }
            #expect(isBusy)
            for index in claims.indices {
                claims[index].outcome = claims[index].read(
                    from: store.disk!.currentLog!,
                    fingerprint: space.fingerprint,
                    into: blocks[index].memory,
                    byteCount: Self.blockBytes
                )
            }
            read += store.core.with { [claims] in $0.finishWarmUp(claims, blocks).count }
            flight.land()
            Self.expectSound(store)
        }
        #expect(read > 0)
        #expect(80 + read <= 128)
        #expect(80 + read > 100)
        #expect(store.statistics.memory.evictedBlocks == 0)
        for prefix in own { #expect(store.match(prefix).tiers.allSatisfy { $0 == .memory }) }
    }

    @Test func `goes on past damage and ends with the store`() throws {
        let directory = TemporaryDirectory()
        do {
            let store = try Self.open(directory, fraction: 0)
            try Self.fill(store, chains: 16)
        }
        let other = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        try ScrubTests.flipOnDisk(directory, try Self.space(other).prefix(Self.path(5)).keys[2])
        do {
            let store = try Self.open(directory)
            Self.waitForEnd(store)
            let space = try Self.space(store)
            #expect(store.statistics.corruptBlocks == 1)
            #expect(store.match(space.prefix(Self.path(5))).count == 2)
            for chain in 0..<16 where chain != 5 {
                #expect(BlockStoreTests.get(store, space.prefix(Self.path(chain))) == (5, 0))
            }
            Self.expectSound(store)
        }
        for _ in 0..<10 {
            let store = try Self.open(directory)
            store.close()
            #expect(store.statistics.pinnedSlots == 0)
            #expect(!store.statistics.warmUp.isRunning)
        }
    }

    @Test func `gives lookups that come meanwhile the right bytes`() async throws {
        let directory = TemporaryDirectory()
        do {
            let store = try Self.open(directory, fraction: 0)
            try Self.fill(store, chains: 48)
        }
        for round in 0..<4 {
            let store = try BlockStore(Self.configuration(directory, fraction: 0.5))
            let space = try Self.space(store)
            await withTaskGroup { group in
                for worker in 0..<2 {
                    group.addTask {
                        var random = SeededRandom(seed: UInt64(round * 10 + worker))
                        for _ in 0..<100 {
                            let prefix = space.prefix(Self.path(Int.random(in: 0..<48, using: &random)))
                            #expect(BlockStoreTests.get(store, prefix).count >= 0)
                            if Int.random(in: 0..<8, using: &random) == 0 { BlockStoreTests.put(store, prefix) }
                        }
                    }
                }
            }
            Self.waitForEnd(store)
            #expect(store.statistics.corruptBlocks == 0)
            Self.expectSound(store)
        }
    }

    /// Every other request goes on with one of 25 chats, which were stored long ago; the others come once. The disk tier
    /// has room for the chats and as much again.
    private static func replay(_ store: BlockStore, _ requests: Range<Int>) throws -> Double {
        let space = try store.namespace(.test(blockBytes: 16384))
        var (hits, blocks) = (0, 0)
        for request in requests {
            let chat = request / 2 % 25
            let path = request % 2 == 0 ? (0..<10).map { chat * 10 + $0 } : (0..<6).map { 1000 + request * 10 + $0 }
            let prefix = space.prefix([-1, -2] + path)
            hits += BlockStoreTests.get(store, prefix).count
            blocks += prefix.keys.count
            BlockStoreTests.put(store, prefix)
            store.waitForSpill()
        }
        return Double(hits) / Double(blocks)
    }

    private enum Restart { case none, clean, killed }

    @Test(arguments: [0, 0.5]) func `A clean restart keeps the hit ratio within two points`(fraction: Double) throws {
        func ratio(_ restart: Restart) throws -> Double {
            let directory = TemporaryDirectory()
            var configuration = Self.configuration(directory, fraction: fraction)
            configuration.memoryBlockLimit = 60
            configuration.disk?.blockLimit = 500
            // A kill after a flush: every block is on disk, and nothing was written at a close.
            configuration.disk?.flushOnClose = restart == .clean
            var store = try BlockStore(configuration)
            #expect(store.waitUntilWarm())
            _ = try Self.replay(store, 0..<400)
            #expect(store.statistics.disk.evictedBlocks > 0, "the disk tier must have had to choose")
            if restart != .none {
                if restart == .killed { #expect(store.flush().refusedBlocks == 0) }
                store.close()
                store = try BlockStore(configuration)
                #expect(store.waitUntilWarm())
                Self.waitForEnd(store)
                #expect(fraction == 0 || store.statistics.warmUp.blocks > 20)
            }
            let ratio = try Self.replay(store, 400..<460)
            Self.expectSound(store)
            return ratio
        }
        let (through, clean, killed) = (try ratio(.none), try ratio(.clean), try ratio(.killed))
        print("hit ratio by blocks: \(through), after a clean restart \(clean), a kill \(killed), warm-up \(fraction)")
        #expect(through > 0.6 && through < 0.95)
        #expect(abs(through - clean) <= 0.02)
        #expect(killed < through - 0.05, "the order of use must matter, or this says nothing")
    }
}
