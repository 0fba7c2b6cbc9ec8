import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("StoreCore")
struct StoreCoreTests {
    private static func store(disk: DiskConfiguration? = nil) throws -> BlockStore {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20, disk: disk))
        if disk != nil { #expect(store.waitUntilWarm()) }
        return store
    }

    private static func problems(_ store: BlockStore) -> [String] { store.core.with { $0.checkInvariants() } }

    /// Reserves as the façade does, at a time of our choosing. A region with free slots must be there already.
    private static func reserve(_ store: BlockStore, _ prefix: Prefix, atSecond now: UInt32) -> [ReservedBlock] {
        store.core.with { core in
            var blocks: [ReservedBlock] = []
            var (position, parent) = (0, EntryID.none)
            _ = core.reserveRun(prefix, position: &position, parent: &parent, blocks: &blocks, nowSeconds: now)
            return blocks
        }
    }

    /// Fills with the bytes of `version` and commits.
    private static func commit(_ store: BlockStore, _ blocks: [ReservedBlock], version: UInt64) -> Int {
        var digests: [UInt64] = []
        for block in blocks {
            var span = block.memory.mutableBytes(4096).mutableBytes
            Payload.fill(&span, key: block.key, version: version)
            digests.append(XXH3.digest(block.memory.bytes(4096)))
        }
        return store.core.with { $0.commit(blocks, digests: digests, nowSeconds: 0) }
    }

    private static func version(_ store: BlockStore, _ prefix: Prefix, of candidates: ClosedRange<UInt64>) -> UInt64? {
        guard let lease = store.acquire(prefix), lease.count == prefix.keys.count else { return nil }
        let key = prefix.keys.last!
        return candidates.first { version in
            lease.withBytes(at: lease.count - 1) { Payload.matches($0, key: key, version: version) }
        }
    }

    // MARK: Reservations

    @Test func `A reservation holds its key for ten seconds and then the first commit wins`() throws {
        let store = try Self.store()
        let space = try store.namespace(.test())
        BlockStoreTests.put(store, space.prefix([1]))
        let wanted = space.prefix([1, 2])
        let slow = Self.reserve(store, wanted, atSecond: 100)
        #expect(slow.map(\.position) == [1])
        #expect(Self.reserve(store, wanted, atSecond: 110).isEmpty)
        #expect(store.statistics.missesInProgress == 0)
        #expect(Self.version(store, wanted, of: 0...9) == nil)
        #expect(store.statistics.missesInProgress == 1)

        let quick = Self.reserve(store, wanted, atSecond: 111)
        #expect(quick.map(\.position) == [1])
        #expect(quick[0].slot != slow[0].slot, "the slow one may still be writing into its slot")
        #expect(Self.problems(store).isEmpty)
        #expect(Self.commit(store, quick, version: 2) == 1)
        #expect(Self.commit(store, slow, version: 1) == 0)
        #expect(Self.version(store, wanted, of: 0...9) == 2)
        #expect(store.statistics.discardedCommits == 1)
        #expect(store.statistics.divergentCommits == 1)
        #expect(store.statistics.pinnedSlots == 0)
        #expect(Self.problems(store).isEmpty)
    }

    @Test func `A late commit of the same bytes is discarded and not divergent`() throws {
        let store = try Self.store()
        let space = try store.namespace(.test())
        BlockStoreTests.put(store, space.prefix([1]))
        let slow = Self.reserve(store, space.prefix([1, 2]), atSecond: 0)
        let quick = Self.reserve(store, space.prefix([1, 2]), atSecond: 60)
        #expect(Self.commit(store, slow, version: 5) == 0, "it lost its key when it expired")
        #expect(Self.commit(store, quick, version: 5) == 1)
        #expect(store.statistics.discardedCommits == 1)
        #expect(store.statistics.divergentCommits == 0)
        #expect(Self.version(store, space.prefix([1, 2]), of: 0...9) == 5)
    }

    @Test func `An expired reservation that is abandoned harms nobody`() throws {
        let store = try Self.store()
        let space = try store.namespace(.test())
        BlockStoreTests.put(store, space.prefix([1]))
        let slow = Self.reserve(store, space.prefix([1, 2, 3]), atSecond: 0)
        let quick = Self.reserve(store, space.prefix([1, 2, 3]), atSecond: 11)
        #expect(slow.count == 2)
        #expect(quick.count == 2)
        store.core.with { $0.abandon(slow) }
        #expect(Self.problems(store).isEmpty)
        #expect(Self.commit(store, quick, version: 3) == 2)
        #expect(Self.version(store, space.prefix([1, 2, 3]), of: 0...9) == 3)
        #expect(store.statistics.pinnedSlots == 0)
    }

    @Test func `A child committed before its parent is invisible until the parent is`() throws {
        let store = try Self.store()
        let space = try store.namespace(.test())
        let parent = store.reserve(space.prefix([1]))!
        let child = store.reserve(space.prefix([1, 2]))!
        let position = child.blockIndex(at: 0)
        let visible = child.commit()
        #expect(position == 1)
        #expect(visible == 1)
        #expect(store.match(space.prefix([1, 2])).count == 0)
        #expect(BlockStoreTests.get(store, space.prefix([1, 2])).count == 0)
        #expect(Self.problems(store).isEmpty)
        let parentVisible = parent.commit()
        #expect(parentVisible == 1)
        #expect(store.match(space.prefix([1, 2])).count == 2)
        #expect(Self.problems(store).isEmpty)
    }

    @Test func `A child goes with the parent that is abandoned`() throws {
        let store = try Self.store()
        let space = try store.namespace(.test())
        do {
            let parent = store.reserve(space.prefix([1]))!
            let (visible, held) = (store.reserve(space.prefix([1, 2]))!.commit(), parent.count)
            #expect(visible == 1)
            #expect(held == 1)
        }
        #expect(store.match(space.prefix([1, 2])).count == 0)
        #expect(store.statistics.memory.blocks == 0)
        #expect(BlockStoreTests.put(store, space.prefix([1, 2])) == 2)
        #expect(Self.problems(store).isEmpty)
    }

    @Test func `A removed block's late commit stays invisible`() throws {
        let store = try Self.store()
        let space = try store.namespace(.test())
        let held = store.reserve(space.prefix([1, 2]))!
        #expect(store.remove(space.prefix([1])) == 2)
        let visible = held.commit()
        #expect(visible == 0)
        #expect(store.match(space.prefix([1])).count == 0)
        #expect(store.statistics.discardedCommits == 2)
        #expect(Self.problems(store).isEmpty)
    }

    // MARK: Recency

    @Test(arguments: [false, true])
    func `The order survives the end of the tick counter`(onDisk: Bool) throws {
        let directory = TemporaryDirectory()
        let disk = DiskConfiguration(path: directory.path, capacityBytes: 64 << 20)
        let store = try Self.store(disk: onDisk ? disk : nil)
        let space = try store.namespace(.test(blockBytes: 65536))
        for chain in 0..<20 { BlockStoreTests.put(store, space.prefix([chain, 100 + chain])) }
        if onDisk { #expect(store.flush().refusedBlocks == 0) }
        store.core.with { $0.tick = .max - 40 }
        for round in 0..<40 {
            for chain in 0..<20 where chain != 7 {
                #expect(BlockStoreTests.get(store, space.prefix([chain])).count == 1)
            }
            if onDisk, round == 20 { #expect(store.flush().refusedBlocks == 0) }
            #expect(Self.problems(store) == [])
        }
        #expect(store.core.with { $0.tick } < UInt32.max / 2 + 10_000)
        // The one chain that was not touched is still the first to go.
        let fresh = (0..<4).flatMap { group in (0..<64).map { 1000 + group * 64 + $0 } }
        for number in fresh where store.match(space.prefix([7])).tiers.first == .memory {
            BlockStoreTests.put(store, space.prefix([number]))
            let others = (0..<20).count { $0 != 7 && store.match(space.prefix([$0])).tiers.first == .memory }
            if store.match(space.prefix([7])).tiers.first == .memory { #expect(others == 19) }
        }
        #expect(store.match(space.prefix([7])).tiers.first != .memory)
        #expect(Self.problems(store) == [])
    }

    // MARK: Memory

    @Test func `Metadata that outgrows its headroom takes a region and keeps the tree whole`() throws {
        let store = try Self.store()
        let large = try store.namespace(.test(model: "large", blockBytes: 1 << 20))
        let small = try store.namespace(.test(model: "small", blockBytes: 4096))
        for number in 0..<40 { BlockStoreTests.put(store, large.prefix([number])) }
        for chain in 0..<60 {
            BlockStoreTests.put(store, small.prefix((0..<100).map { chain * 1000 + $0 }))
            #expect(Self.problems(store) == [])
            #expect(store.statistics.memory.bytes <= 16 << 20)
        }
        for chain in 0..<60 {
            let found = BlockStoreTests.get(store, small.prefix((0..<100).map { chain * 1000 + $0 })).count
            #expect(found >= 0)
        }
        // Half of the cap in blocks of 4 KiB, and not more: the other class keeps its half.
        #expect((1500..<2100).contains(store.statistics.memory.blocks), "memory moved over to the small blocks")
    }

    @Test func `Removing tens of thousands of blocks from disk keeps the memory cap`() throws {
        let directory = TemporaryDirectory()
        let store = try Self.store(disk: DiskConfiguration(path: directory.path, capacityBytes: 512 << 20))
        let space = try store.namespace(.test())
        for chain in 0..<300 {
            BlockStoreTests.put(store, space.prefix([-1] + (0..<100).map { chain * 1000 + $0 }))
            store.waitForSpill()
        }
        #expect(store.statistics.memory.bytes <= 16 << 20)
        #expect(store.statistics.disk.blocks > 15_000)
        let removed = store.remove(space.prefix([-1]))
        #expect(removed > 15_000)
        #expect(store.statistics.memory.bytes <= 16 << 20)
        #expect(Self.problems(store) == [])
        #expect(store.match(space.prefix([-1])).count == 0)
    }

    @Test func `The index stops at its limit and gives up the coldest blocks on disk`() throws {
        let directory = TemporaryDirectory()
        let store = try Self.store(disk: DiskConfiguration(path: directory.path, capacityBytes: 1 << 30))
        let space = try store.namespace(.test())
        let capacity = store.core.with { $0.entries.capacity }
        for chain in 0..<(capacity / 100 + 40) {
            BlockStoreTests.put(store, space.prefix((0..<100).map { chain * 1000 + $0 }))
            store.waitForSpill()
            if chain % 50 == 0 {
                #expect(Self.problems(store) == [])
                #expect(store.statistics.memory.bytes <= 16 << 20)
            }
        }
        #expect(store.statistics.disk.evictedBlocks > 0)
        #expect(store.statistics.memory.bytes <= 16 << 20)
        #expect(Self.problems(store) == [])
        let last = capacity / 100 + 39
        #expect(BlockStoreTests.get(store, space.prefix((0..<100).map { last * 1000 + $0 })).count == 100)
        #expect(store.statistics.refusedBlocks < 2000)
    }

    @Test func `A block in memory that changed is a counted miss`() throws {
        var configuration = Configuration(memoryCapacityBytes: 16 << 20)
        configuration.verifyMemoryHits = true
        let store = try BlockStore(configuration)
        let space = try store.namespace(.test())
        BlockStoreTests.put(store, space.prefix([1, 2, 3]))
        store.core.with { core in
            let slot = core.entries[core.entries.find(space.prefix([1, 2]).keys[1])!].slot
            core.slots.memory(of: slot).mutableBytes(4096)[1000] ^= 1
        }
        #expect(BlockStoreTests.get(store, space.prefix([1, 2, 3])).count == 1)
        #expect(store.statistics.corruptBlocks == 1)
        #expect(store.match(space.prefix([1, 2, 3])).count == 1, "what was built on it went with it")
        #expect(BlockStoreTests.put(store, space.prefix([1, 2, 3])) == 2)
        #expect(BlockStoreTests.get(store, space.prefix([1, 2, 3])).count == 3)
        #expect(store.statistics.pinnedSlots == 0)
        #expect(Self.problems(store) == [])
    }

    @Test func `A slot that is used again has a higher generation`() throws {
        let store = try Self.store()
        let space = try store.namespace(.test(blockBytes: 1 << 20))
        BlockStoreTests.put(store, space.prefix([1]))
        let generation = {
            store.core.with { core in core.slots.regions[0]!.region.generation(ofSlot: 0) }
        }
        let before = generation()
        store.remove(space.prefix([1]))
        #expect(generation() == before)
        BlockStoreTests.put(store, space.prefix([2]))
        #expect(generation() == before + 1)
    }

    @Test func `A removed block stays readable under its lease and its slot is nobody else's`() throws {
        let store = try Self.store()
        let space = try store.namespace(.test(blockBytes: 1 << 20))
        BlockStoreTests.put(store, space.prefix([1]))
        do {
            let lease = store.acquire(space.prefix([1]))!
            store.remove(space.prefix([1]))
            for number in 2..<40 { BlockStoreTests.put(store, space.prefix([number])) }
            let isIntact = lease.withBytes(at: 0) { Payload.matches($0, key: space.prefix([1]).keys[0]) }
            #expect(isIntact)
            #expect(Self.problems(store) == [])
            #expect(store.statistics.pinnedSlots == 1)
        }
        #expect(store.statistics.pinnedSlots == 0)
        #expect(Self.problems(store) == [])
    }
}
