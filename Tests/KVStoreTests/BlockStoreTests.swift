import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("BlockStore, in memory and on disk")
struct BlockStoreTests {
    /// Stores every missing block of a prefix with its own bytes.
    @discardableResult
    static func put(_ store: BlockStore, _ prefix: Prefix) -> Int {
        store.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
    }

    /// Leading blocks that are served with the right bytes, and by which tier; -1 for a wrong byte.
    static func get(_ store: BlockStore, _ prefix: Prefix) -> (count: Int, disk: Int) {
        guard let lease = store.acquire(prefix) else { return (0, 0) }
        var disk = 0
        for index in 0..<lease.count {
            if lease.tier(at: index) == .disk { disk += 1 }
            if !lease.withBytes(at: index, { Payload.matches($0, key: prefix.keys[index]) }) { return (-1, 0) }
        }
        return (lease.count, disk)
    }

    @Test func `A stored prefix is found, a longer one up to where it was stored`() throws {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        let space = try store.namespace(.test())
        #expect(Self.put(store, space.prefix([1, 2, 3])) == 3)
        #expect(Self.get(store, space.prefix([1, 2, 3])).count == 3)
        #expect(Self.get(store, space.prefix([1, 2, 3, 4, 5])).count == 3)
        #expect(Self.get(store, space.prefix([1, 2])).count == 2)
        #expect(Self.get(store, space.prefix([7])).count == 0)
        #expect(store.match(space.prefix([1, 2, 9])).count == 2)
        #expect(store.statistics.memory.hitBlocks == 8)
        #expect(store.statistics.leases == 0)
    }

    @Test func `The cap holds and heads outlive tails`() throws {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        let space = try store.namespace(.test(blockBytes: 65536))
        for conversation in 0..<100 {
            Self.put(store, space.prefix([0] + (0..<8).map { 1000 + conversation * 10 + $0 }))
            #expect(store.statistics.memory.bytes <= 16 << 20)
        }
        #expect(store.match(space.prefix([0])).count == 1)
        #expect(store.statistics.memory.evictedBlocks > 0)
        #expect(Self.get(store, space.prefix([0] + (0..<8).map { 1000 + 99 * 10 + $0 })).count == 9)
    }

    @Test func `What memory gives up is found on disk, also after a restart`() throws {
        let directory = TemporaryDirectory()
        var configuration = Configuration(
            memoryCapacityBytes: 16 << 20,
            disk: DiskConfiguration(path: directory.path, capacityBytes: 256 << 20)
        )
        configuration.verifyMemoryHits = true
        // Every hit after the restart is to come from disk.
        configuration.warmUpFraction = 0
        let paths = (0..<64).map { conversation in [0] + (0..<8).map { 1000 + conversation * 10 + $0 } }
        do {
            let store = try BlockStore(configuration)
            #expect(store.waitUntilWarm())
            let space = try store.namespace(.test(blockBytes: 65536))
            // Fewer slots than asked is a normal answer, and a full spill buffer may drop a leaf: ask until it is stored.
            for _ in 0..<20 where !paths.allSatisfy({ store.match(space.prefix($0)).count == 9 }) {
                for path in paths {
                    Self.put(store, space.prefix(path))
                    store.waitForSpill()
                }
                // From here on every block has a disk copy, which memory can give up at any pace.
                #expect(store.flush().refusedBlocks == 0)
            }
            for path in paths { #expect(Self.get(store, space.prefix(path)).count == 9) }
            #expect(store.statistics.disk.hitBlocks > 0)
            #expect(store.statistics.promotedBlocks > 0)
            let flushed = store.flush()
            #expect(flushed.refusedBlocks == 0)
            #expect(flushed.durableBlocks == 64 * 8 + 1)
            store.close()
        }
        let store = try BlockStore(configuration)
        #expect(store.waitUntilWarm())
        let space = try store.namespace(.test(blockBytes: 65536))
        for path in paths { #expect(Self.get(store, space.prefix(path)).count == 9) }
        #expect(store.statistics.corruptBlocks == 0)
        #expect(store.statistics.disk.hitBlocks > 64 * 7)
    }

    @Test func `Removed blocks stay gone, with everything built on them`() throws {
        let directory = TemporaryDirectory()
        let configuration = Configuration(
            memoryCapacityBytes: 16 << 20,
            disk: DiskConfiguration(path: directory.path, capacityBytes: 64 << 20)
        )
        do {
            let store = try BlockStore(configuration)
            #expect(store.waitUntilWarm())
            let space = try store.namespace(.test())
            Self.put(store, space.prefix([1, 2, 3, 4]))
            Self.put(store, space.prefix([1, 2, 30]))
            #expect(store.flush().refusedBlocks == 0)
            #expect(store.remove(space.prefix([1, 2]), from: 1) == 4)
            #expect(Self.get(store, space.prefix([1, 2, 3])).count == 1)
        }
        let store = try BlockStore(configuration)
        #expect(store.waitUntilWarm())
        let space = try store.namespace(.test())
        #expect(Self.get(store, space.prefix([1, 2, 3])).count == 1)
        #expect(Self.get(store, space.prefix([1, 2, 30])).count == 1)
    }

    @Test func `An abandoned reservation leaves nothing behind`() throws {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        let space = try store.namespace(.test())
        do {
            let reservation = store.reserve(space.prefix([1, 2]))
            let count = reservation?.count ?? 0
            #expect(count == 2)
            #expect(store.match(space.prefix([1])).count == 0)
        }
        #expect(store.match(space.prefix([1])).count == 0)
        #expect(store.statistics.reservations == 0)
        #expect(store.statistics.pinnedSlots == 0)
        #expect(store.statistics.abandonedBlocks == 2)
    }
}
