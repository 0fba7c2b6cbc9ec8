import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

/// What a start does with the rows of the index: counted, not timed.
@Suite("Loading the index")
struct IndexLoaderTests {
    private static func configuration(_ path: String) -> Configuration {
        var disk = DiskConfiguration(path: path, capacityBytes: 64 << 20)
        disk.writeBackDelaySeconds = nil
        return Configuration(memoryCapacityBytes: 16 << 20, disk: disk)
    }

    /// Chains of blocks on disk, used once more in another order before the close.
    private static func fill(_ configuration: Configuration, chains: Int, blocksPerChain: Int, seed: UInt64) throws {
        let store = try BlockStore(configuration)
        #expect(store.waitUntilWarm())
        let space = try store.namespace(.test(blockBytes: 256))
        var random = SeededRandom(seed: seed)
        for chain in (0..<chains).shuffled(using: &random) {
            let prefix = space.prefix(Self.tokens(chain, blocksPerChain))
            store.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
        }
        #expect(store.flush().refusedBlocks == 0)
        for chain in (0..<chains / 2).shuffled(using: &random) {
            _ = store.acquire(space.prefix(Self.tokens(chain, blocksPerChain)))
        }
        store.close()
    }

    private static func tokens(_ chain: Int, _ count: Int) -> [Int] {
        [1] + (1..<count).map { 1000 + chain * 100 + $0 }
    }

    /// The disk tier's order.
    private static func coldestFirst(_ store: BlockStore) -> [BlockKey] {
        store.core.with { core in
            var keys: [BlockKey] = []
            // Asks for a victim and takes none.
            _ = core.disk.policy.victim { id in
                keys.append(core.entries[id].key)
                return false
            }
            return keys
        }
    }

    @Test func `Every row is read once in a start`() throws {
        let scratch = DiskScratch()
        let configuration = Self.configuration(scratch.store)
        try Self.fill(configuration, chains: 30, blocksPerChain: 8, seed: 1)
        let store = try BlockStore(configuration)
        #expect(store.waitUntilWarm())
        #expect(store.disk?.currentLog?.rowScanCount == 1)
        let blocks = store.statistics.disk.blocks
        #expect(blocks == 1 + 30 * 7)
    }

    @Test func `Blocks come back in the order of their rows with no parent colder than its child`() throws {
        for seed in TestScale.seeds(default: 3, full: 30) {
            let scratch = DiskScratch()
            let configuration = Self.configuration(scratch.store)
            try Self.fill(configuration, chains: 60, blocksPerChain: 20, seed: seed)
            let log = try scratch.open()
            let rows = try log.takeRows()
            log.close()
            let order = ChainOrder(rows)
            let store = try BlockStore(configuration)
            #expect(store.waitUntilWarm())
            let problems = store.core.with { $0.checkInvariants() }
            #expect(problems.isEmpty, "seed \(seed)")
            let expected = order.reached.reversed().map { rows[$0].key }
            #expect(expected.count == 1 + 60 * 19, "seed \(seed)")
            #expect(Self.coldestFirst(store) == expected, "seed \(seed)")
        }
    }

    @Test func `Rows that the open read are given out once and not after a change`() throws {
        let scratch = DiskScratch()
        do {
            let log = try scratch.open()
            try log.write(1...20)
            log.close()
        }
        let log = try scratch.open(SegmentLogOptions(keepsRows: true))
        #expect(try log.takeRows().count == 20)
        #expect(log.rowScanCount == 1)
        #expect(try log.takeRows().count == 20)
        #expect(log.rowScanCount == 2)
        log.close()

        let changes: [(SegmentLog) throws -> Void] = [
            { try $0.remove([DiskSample.identity(20)]) },
            { try $0.forget([DiskSample.identity(19)]) },
            { try $0.purge(tenant: 2) },
            { try $0.dropSegment(99) },
        ]
        for (number, change) in changes.enumerated() {
            let log = try scratch.open(SegmentLogOptions(keepsRows: true))
            try change(log)
            let rows = try log.takeRows()
            #expect(rows.count == 20 - min(number + 1, 2))
            log.close()
        }
        let plain = try scratch.open()
        _ = try plain.takeRows()
        #expect(plain.rowScanCount == 2, "without the option nothing is kept")
    }

    @Test func `Of more rows than the table holds the hottest come back`() throws {
        let scratch = DiskScratch()
        var large = Self.configuration(scratch.store)
        large.memoryCapacityBytes = 1 << 30
        large.disk!.capacityBytes = 1 << 30
        try Self.fill(large, chains: 3000, blocksPerChain: 20, seed: 9)
        let log = try scratch.open()
        let rows = try log.takeRows()
        log.close()
        let order = ChainOrder(rows)
        var small = large
        small.memoryCapacityBytes = 16 << 20
        let store = try BlockStore(small)
        #expect(store.waitUntilWarm())
        let (count, capacity, problems) = store.core.with { core in
            (core.entries.count, core.entries.capacity, core.checkInvariants())
        }
        #expect(problems.isEmpty)
        #expect(rows.count > capacity && count == capacity)
        let expected = order.reached.prefix(count).reversed().map { rows[$0].key }
        #expect(Self.coldestFirst(store) == expected)
    }

    /// A removal named a block alone, and the process was killed before what builds on it had been written down.
    @Test func `Descendants of a removed block do not come back with it when it is stored again`() throws {
        let scratch = DiskScratch()
        let configuration = Self.configuration(scratch.store)
        try Self.fill(configuration, chains: 2, blocksPerChain: 6, seed: 7)
        let log = try scratch.open()
        let rows = Dictionary(uniqueKeysWithValues: try log.takeRows().map { ($0.key, $0) })
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        let space = try store.namespace(.test(blockBytes: 256))
        let (cut, whole) = (space.prefix(Self.tokens(0, 6)), space.prefix(Self.tokens(1, 6)))
        let removed = try #require(rows[cut.keys[2]])
        let record = try #require(try log.read(segment: removed.segment, ordinal: removed.ordinal) { Array($0) })
        try log.remove([removed.identity])
        let writer = try log.beginSegment()
        _ = try record.withUnsafeBytes { try writer.append(removed, record: $0) }
        _ = try writer.seal()
        log.close()
        for _ in 0..<2 {
            let again = try BlockStore(configuration)
            #expect(again.waitUntilWarm())
            let space = try again.namespace(.test(blockBytes: 256))
            #expect(again.match(space.prefix(Self.tokens(0, 6))).count == 3)
            #expect(again.match(space.prefix(Self.tokens(1, 6))).count == 6)
            #expect(again.core.with { $0.checkInvariants() } == [])
            again.close()
        }
        // For good: a repair from the segments' footers must not find them either.
        let end = try scratch.open()
        let removals = try end.removals()
        for key in cut.keys[3...] { #expect(removals.covers(rows[key]!.identity, at: rows[key]!.position)) }
        for key in whole.keys[1...] { #expect(!removals.covers(rows[key]!.identity, at: rows[key]!.position)) }
        end.close()
    }
}
