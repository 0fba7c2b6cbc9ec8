import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("Statistics")
struct StatisticsTests {
    @Test func `Every lookup ends in hits and at most one reason`() throws {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        let space = try store.namespace(.test())
        BlockStoreTests.put(store, space.prefix([1, 2]))
        let held = store.reserve(space.prefix([1, 2, 3]))
        _ = BlockStoreTests.get(store, space.prefix([1, 2]))
        _ = BlockStoreTests.get(store, space.prefix([1, 2, 3]))
        _ = BlockStoreTests.get(store, space.prefix([9]))
        let statistics = store.statistics
        #expect(statistics.lookups == 3)
        #expect(statistics.requestedBlocks == 6)
        #expect(statistics.requestedTokens == 6 * 16)
        #expect(statistics.memory.hitBlocks == 4)
        #expect(statistics.memory.hitTokens == 4 * 16)
        #expect(statistics.missesInProgress == 1)
        #expect(statistics.missesAbsent == 1)
        #expect(statistics.hitRatioBlocks == 4.0 / 6)
        #expect(statistics.hitRatioTokens == 4.0 / 6)
        #expect(statistics.reservations == 1)
        #expect(statistics.pinnedSlots == 1)
        #expect(statistics.memory.acquireP99Nanoseconds >= statistics.memory.acquireP50Nanoseconds)
        #expect(statistics.memory.acquireP50Nanoseconds > 0)
        _ = consume held
        #expect(store.statistics.reservations == 0)
    }

    @Test func `A store without anything has ratios and not numbers divided by zero`() throws {
        let statistics = StoreStatistics()
        #expect(statistics.hitRatioBlocks == 0)
        #expect(statistics.hitRatioTokens == 0)
        #expect(statistics.compressionRatio == 1)
        #expect(statistics.writeAmplification == 1)
    }

    @Test func `A snapshot survives JSON`() throws {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        let space = try store.namespace(.test())
        BlockStoreTests.put(store, space.prefix([1, 2]))
        let statistics = store.statistics
        let copy = try JSONDecoder().decode(StoreStatistics.self, from: JSONEncoder().encode(statistics))
        #expect(copy == statistics)
    }
}
