import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("Quotas")
struct QuotaTests {
    private static func problems(_ store: BlockStore) -> [String] { store.core.with { $0.checkInvariants() } }

    private static func statistics(_ store: BlockStore, _ tenant: String) throws -> TenantStatistics {
        try #require(store.tenantStatistics().first { $0.name == tenant })
    }

    private static func put(_ store: BlockStore, _ prefix: Prefix) {
        store.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
    }

    private static func leasable(_ store: BlockStore, _ prefix: Prefix) -> Int { store.acquire(prefix)?.count ?? 0 }

    private static func store(_ directory: TemporaryDirectory?, warm: Bool = true) throws -> BlockStore {
        var configuration = Configuration(memoryCapacityBytes: 16 << 20)
        configuration.scrub = .off
        configuration.warmUpFraction = 0
        if let directory {
            var disk = DiskConfiguration(path: directory.path + "/store", capacityBytes: 64 << 20)
            disk.writeBackDelaySeconds = nil
            configuration.disk = disk
        }
        let store = try BlockStore(configuration)
        if warm { #expect(store.waitUntilWarm()) }
        return store
    }

    // MARK: Never above

    /// One operation after the other on three tenants, two of them with quotas, with two sizes of blocks each.
    @Test(arguments: [true, false])
    func `Regions and records of a tenant never pass its quotas`(hasDisk: Bool) throws {
        for seed in TestScale.seeds(default: 6, full: 60) {
            var random = SeededRandom(seed: seed)
            let directory = TemporaryDirectory("quota")
            let store = try Self.store(hasDisk ? directory : nil)
            var memoryQuotas = ["a": 1 << 20, "b": 3 << 20]
            var diskQuotas = ["a": 256 << 10, "b": 1 << 20]
            for tenant in ["a", "b"] {
                store.setQuota(tenant: tenant, memoryBytes: memoryQuotas[tenant], diskBytes: diskQuotas[tenant])
            }
            var spaces: [Namespace] = []
            for tenant in ["a", "b", "c"] {
                for size in [4096, 20_000] {
                    spaces.append(try store.namespace(.test(tenant: tenant, blockBytes: size)))
                }
            }
            for step in 0..<400 {
                let space = spaces.randomElement(using: &random)!
                let head = Int.random(in: 0..<40, using: &random)
                let path = [head] + (0..<Int.random(in: 0...11, using: &random)).map { $0 % 3 }
                let prefix = space.chain(path)
                switch Int.random(in: 0..<20, using: &random) {
                case 0..<13: Self.put(store, prefix)
                case 13..<17: if let lease = store.acquire(prefix) { #expect(lease.count > 0) }
                case 17: store.remove(prefix, from: path.count / 2)
                case 18: if step % 5 == 0 { _ = store.flush() as FlushResult }
                default:
                    let tenant = ["a", "b"].randomElement(using: &random)!
                    // Only raised here: what was lowered takes time.
                    memoryQuotas[tenant]! += 64 << 10
                    diskQuotas[tenant]! += 16 << 10
                    store.setQuota(tenant: tenant, memoryBytes: memoryQuotas[tenant], diskBytes: diskQuotas[tenant])
                }
                for statistics in store.tenantStatistics() where statistics.name != "c" {
                    try #require(statistics.memoryBytes <= memoryQuotas[statistics.name]!, "seed \(seed) step \(step)")
                    try #require(statistics.diskBytes <= diskQuotas[statistics.name]!, "seed \(seed) step \(step)")
                    #expect(statistics.memoryQuotaBytes == memoryQuotas[statistics.name])
                    #expect(statistics.diskQuotaBytes == diskQuotas[statistics.name])
                }
                if step % 20 == 0 { try #require(Self.problems(store) == [], "seed \(seed) step \(step)") }
            }
            // The limit must not be reached by giving nothing at all.
            for tenant in ["a", "b"] {
                let end = try Self.statistics(store, tenant)
                #expect(end.memoryBytes > memoryQuotas[tenant]! / 2)
                if hasDisk { #expect(end.diskBytes > diskQuotas[tenant]! / 4) }
            }
            try Self.expectSums(store)
        }
    }

    /// Tenants' figures sum to the store's.
    private static func expectSums(_ store: BlockStore) throws {
        let tenants = store.tenantStatistics()
        let total = store.statistics
        func sum(_ field: KeyPath<TenantStatistics, Int>) -> Int { tenants.reduce(0) { $0 + $1[keyPath: field] } }
        #expect(sum(\.lookups) == total.lookups)
        #expect(total.lookups > 0)
        #expect(sum(\.requestedBlocks) == total.requestedBlocks)
        #expect(sum(\.requestedTokens) == total.requestedTokens)
        #expect(sum(\.memoryHitBlocks) == total.memory.hitBlocks)
        #expect(sum(\.memoryHitTokens) == total.memory.hitTokens)
        #expect(sum(\.diskHitBlocks) == total.disk.hitBlocks)
        #expect(sum(\.diskHitTokens) == total.disk.hitTokens)
        #expect(sum(\.missesAbsent) == total.missesAbsent)
        #expect(sum(\.missesInProgress) == total.missesInProgress)
        #expect(sum(\.missesWithoutSlot) == total.missesWithoutSlot)
        #expect(sum(\.missesCorrupt) == total.missesCorrupt)
        #expect(sum(\.missesWarming) == total.missesWarming)
        #expect(sum(\.memoryBlocks) == total.memory.blocks)
        #expect(sum(\.diskBlocks) == total.disk.blocks)
        #expect(sum(\.unwrittenBlocks) == total.unwrittenBlocks)
        #expect(sum(\.quotaRefusedBlocks) == total.quotaRefusedBlocks)
        #expect(sum(\.leases) == total.leases)
        #expect(sum(\.memoryBytes) == store.core.with { $0.slots.regionBytes })
        #expect(sum(\.namespaces) == store.namespaceStatistics().count)
        let ofNamespaces = store.namespaceStatistics()
        #expect(ofNamespaces.reduce(0) { $0 + $1.memoryBlocks } == total.memory.blocks)
        #expect(ofNamespaces.reduce(0) { $0 + $1.diskBlocks } == total.disk.blocks)
    }

    @Test func `A tenant at its quota takes nothing from the others`() throws {
        let store = try Self.store(nil)
        let (small, large) = (
            try store.namespace(.test(tenant: "small")), try store.namespace(.test(tenant: "large"))
        )
        store.setQuota(tenant: "small", memoryBytes: 1 << 20, diskBytes: nil)
        for number in 0..<400 { Self.put(store, large.prefix([number])) }
        for number in 0..<4000 { Self.put(store, small.prefix([number])) }
        for number in 0..<400 { #expect(store.match(large.prefix([number])).count == 1) }
        let end = try Self.statistics(store, "small")
        #expect(end.memoryBytes <= 1 << 20)
        #expect(end.memoryBlocks > 200)
        // The last ones are there: it gave up its own coldest.
        for number in 3900..<4000 { #expect(store.match(small.prefix([number])).count == 1) }
        #expect(Self.problems(store) == [])
    }

    @Test func `Blocks of another size find room under a quota that is used up`() throws {
        let store = try Self.store(nil)
        store.setQuota(tenant: "tenant", memoryBytes: 2 << 20, diskBytes: nil)
        let (first, second) = (
            try store.namespace(.test(blockBytes: 4096)), try store.namespace(.test(blockBytes: 16384))
        )
        for number in 0..<1000 { Self.put(store, first.prefix([number])) }
        for number in 0..<200 { Self.put(store, second.prefix([number])) }
        #expect(store.match(second.prefix([199])).count == 1)
        #expect(try Self.statistics(store, "tenant").memoryBytes <= 2 << 20)
        #expect(Self.problems(store) == [])
    }

    @Test func `A memory quota that is lowered is reached once the leases have ended`() throws {
        let store = try Self.store(nil)
        let space = try store.namespace(.test())
        for number in 0..<2000 { Self.put(store, space.prefix([number])) }
        #expect(try Self.statistics(store, "tenant").memoryBytes > 7 << 20)
        store.setQuota(tenant: "tenant", memoryBytes: 2 << 20, diskBytes: nil)
        #expect(try Self.statistics(store, "tenant").memoryBytes <= 2 << 20)
        #expect(Self.problems(store) == [])
        Self.put(store, space.prefix([1999]))
        let held = store.acquire(space.prefix([1999]))!
        store.setQuota(tenant: "tenant", memoryBytes: 0, diskBytes: nil)
        #expect(try Self.statistics(store, "tenant").memoryBytes > 0)
        #expect(held.withBytes(at: 0) { Payload.matches($0, key: space.prefix([1999]).keys[0]) })
        _ = consume held
        #expect(try Self.statistics(store, "tenant").memoryBytes == 0)
        Self.put(store, space.prefix([1]))
        #expect(store.match(space.prefix([1])).count == 0)
        store.setQuota(tenant: "tenant", memoryBytes: nil, diskBytes: nil)
        Self.put(store, space.prefix([1]))
        #expect(store.match(space.prefix([1])).count == 1)
    }

    @Test func `A lowered memory quota is reached by itself once the blocks are on disk`() throws {
        let directory = TemporaryDirectory("quota")
        let store = try Self.store(directory)
        let space = try store.namespace(.test())
        for number in 0..<1500 { Self.put(store, space.prefix([number])) }
        #expect(try Self.statistics(store, "tenant").memoryBytes > 5 << 20)
        store.setQuota(tenant: "tenant", memoryBytes: 1 << 20, diskBytes: nil)
        // A turn of the writer each; a region or so goes with every turn.
        for _ in 0..<500 where try Self.statistics(store, "tenant").memoryBytes > 1 << 20 { store.waitForSpill() }
        #expect(try Self.statistics(store, "tenant").memoryBytes <= 1 << 20)
        #expect(store.statistics.droppedBlocks == 0)
        for number in 0..<1500 { #expect(store.match(space.prefix([number])).count == 1) }
        #expect(Self.problems(store) == [])
    }

    @Test func `A tenant leases what it may and every block counts once`() throws {
        let store = try Self.store(nil)
        let space = try store.namespace(.test(blockBytes: 10_000))
        let (first, second) = (space.prefix([1, 2, 3, 4, 5, 6]), space.prefix([7, 8]))
        Self.put(store, first)
        Self.put(store, second)
        // A block of 10,000 bytes takes three pages.
        store.setQuota(tenant: "tenant", memoryBytes: nil, diskBytes: nil, leasedBytes: 4 * 12_288 + 100)
        let one = store.acquire(first)!
        let again = store.acquire(first)!
        let counts = (one.count, again.count)
        #expect(counts == (4, 4))
        #expect(try Self.statistics(store, "tenant").pinnedBytes == 4 * 12_288)
        #expect(Self.leasable(store, second) == 0)
        #expect(try Self.statistics(store, "tenant").missesWithoutSlot == 3)
        _ = consume one
        #expect(Self.leasable(store, second) == 0)
        _ = consume again
        #expect(try Self.statistics(store, "tenant").pinnedBytes == 0)
        #expect(Self.leasable(store, second) == 2)
        store.setQuota(tenant: "tenant", memoryBytes: nil, diskBytes: nil)
        #expect(Self.leasable(store, first) == 6)
        #expect(Self.problems(store) == [])
    }

    // MARK: Disk

    @Test func `A flush of one tenant leaves the others to the write-back`() throws {
        let directory = TemporaryDirectory("quota")
        let store = try Self.store(directory)
        let (mine, theirs) = (try store.namespace(.test(tenant: "a")), try store.namespace(.test(tenant: "b")))
        Self.put(store, mine.prefix([1, 2, 3]))
        Self.put(store, theirs.prefix([1, 2]))
        let result = store.flush(tenant: "a")
        #expect(result.durableBlocks == 3 && result.refusedBlocks == 0 && result.reason == nil)
        #expect(try Self.statistics(store, "b").unwrittenBlocks == 2)
        #expect(store.flush(tenant: "nobody").durableBlocks == 0)
        #expect((store.flush() as FlushResult).durableBlocks == 5)
        #expect(try Self.statistics(store, "b").unwrittenBlocks == 0)
        #expect(store.flush(tenant: "b").durableBlocks == 2)
    }

    @Test func `A tenant over its disk quota gives up its own coldest and flush says why`() throws {
        let directory = TemporaryDirectory("quota")
        let store = try Self.store(directory)
        let (small, large) = (
            try store.namespace(.test(tenant: "small")), try store.namespace(.test(tenant: "large"))
        )
        store.setQuota(tenant: "small", memoryBytes: nil, diskBytes: 200 << 10)
        for number in 0..<200 {
            Self.put(store, large.prefix([number]))
            Self.put(store, small.prefix([number]))
        }
        let result: FlushResult = store.flush()
        let (ofSmall, ofLarge) = (try Self.statistics(store, "small"), try Self.statistics(store, "large"))
        #expect(ofLarge.diskBlocks == 200)
        #expect(ofLarge.unwrittenBlocks == 0)
        #expect(ofSmall.diskBytes <= 200 << 10)
        #expect(ofSmall.diskBlocks > 30)
        #expect(result.refusedBlocks == 200 - ofSmall.diskBlocks)
        #expect(ofSmall.unwrittenBlocks == result.refusedBlocks)
        #expect(result.reason?.contains("quota") == true)
        #expect(ofSmall.quotaEvictedBlocks > 0)
        #expect(Self.problems(store) == [])
        store.close()

        // The quota holds for what a start brings back, too.
        let again = try Self.store(directory, warm: false)
        again.setQuota(tenant: "small", memoryBytes: nil, diskBytes: 50 << 10)
        #expect(again.waitUntilWarm())
        let loaded = try Self.statistics(again, "small")
        #expect(loaded.diskBytes <= 50 << 10)
        #expect(loaded.diskBlocks > 5)
        #expect(Self.problems(again) == [])
        #expect(again.tenantStatistics().reduce(0) { $0 + $1.diskBlocks } == 200 + loaded.diskBlocks)
    }

    @Test func `A disk quota of nothing keeps a tenant in memory and counts what it refuses`() throws {
        let directory = TemporaryDirectory("quota")
        let store = try Self.store(directory)
        store.setQuota(tenant: "tenant", memoryBytes: nil, diskBytes: 0)
        let space = try store.namespace(.test())
        Self.put(store, space.prefix([1, 2, 3]))
        let result: FlushResult = store.flush()
        #expect(result.refusedBlocks == 3)
        #expect(result.durableBlocks == 0)
        #expect(result.reason?.contains("quota") == true)
        #expect(store.statistics.quotaRefusedBlocks == 3)
        #expect(store.match(space.prefix([1, 2, 3])).tiers == [.memory, .memory, .memory])
        store.setQuota(tenant: "tenant", memoryBytes: nil, diskBytes: nil)
        #expect((store.flush() as FlushResult).refusedBlocks == 0)
        store.setQuota(tenant: "tenant", memoryBytes: nil, diskBytes: 0)
        #expect(try Self.statistics(store, "tenant").diskBytes == 0)
        #expect(try Self.statistics(store, "tenant").unwrittenBlocks == 3)
        #expect(Self.problems(store) == [])
    }
}

extension Namespace {
    /// A prefix of chained keys, one block of 16 equal tokens per number: unlike callers' keys, these differ with what comes
    /// before them.
    func chain(_ path: [Int]) -> Prefix {
        prefix(tokens: path.flatMap { [UInt32](repeating: UInt32($0), count: identity.tokensPerBlock) })
    }
}
