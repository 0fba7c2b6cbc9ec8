import Glibc
import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("Memory taken ahead of need")
struct MemoryAheadTests {
    private static func configuration(ahead: Int) -> Configuration {
        var configuration = Configuration(memoryCapacityBytes: 64 << 20)
        configuration.memoryAheadBytes = ahead
        return configuration
    }

    /// What the plans for one class of 64 KiB slots come to, when every one is mapped.
    private static func plannedBytes(_ core: inout StoreCore) throws -> Int {
        var byteCount = 0
        while let plan = core.planRegionAhead() {
            byteCount += plan.byteCount
            try #require(byteCount <= core.configuration.memoryCapacityBytes)
            let region = try Region(slotByteCount: plan.slotByteCount, slotCount: plan.slotCount, isCleared: true)
            let added = core.slots.addRegion(region, plan: plan)
            try #require(added)
        }
        return byteCount
    }

    @Test(arguments: [0, 4 << 20, 32 << 20])
    func `A class that is used gets regions until enough of them hold nothing`(ahead: Int) throws {
        var core = try StoreCore(configuration: Self.configuration(ahead: ahead))
        let unknown = core.planRegionAhead()
        #expect(unknown == nil, "nobody has opened anything")
        core.noteUse(ofClass: try core.slots.classIndex(tenant: 1, slotByteCount: 65536))
        let wanted = core.wantsRegionAhead
        #expect(wanted == (ahead > 0))
        _ = try Self.plannedBytes(&core)
        let unused = core.slots.unusedBytes
        #expect(unused <= ahead)
        #expect(unused > ahead - (2 << 20), "up to one region less")
        core.noteUse(ofClass: 0)
        let wantedStill = core.wantsRegionAhead
        #expect(!wantedStill)
    }

    @Test func `A quarter of the cap, and half of a quota, are only taken when they are needed`() throws {
        var core = try StoreCore(configuration: Self.configuration(ahead: 64 << 20))
        core.noteUse(ofClass: try core.slots.classIndex(tenant: 1, slotByteCount: 65536))
        _ = try Self.plannedBytes(&core)
        let taken = core.memoryBytes
        #expect(taken <= 48 << 20)
        #expect(taken > 46 << 20)

        var other = try StoreCore(configuration: Self.configuration(ahead: 64 << 20))
        other.slots.quotaBytes[1] = 8 << 20
        other.noteUse(ofClass: try other.slots.classIndex(tenant: 1, slotByteCount: 65536))
        let ofQuota = try Self.plannedBytes(&other)
        #expect(ofQuota > 4 << 20)
        #expect(ofQuota < 8 << 20)
    }

    @Test func `A store maps regions when a namespace is opened, keeps its cap, and ends the thread`() throws {
        let store = try BlockStore(Self.configuration(ahead: 8 << 20))
        let space = try store.namespace(.test(blockBytes: 65536))
        while store.core.with({ $0.slots.unusedBytes }) < 6 << 20 { usleep(1000) }
        let paths = (0..<200).map { conversation in [0] + (0..<8).map { 1000 + conversation * 10 + $0 } }
        for path in paths {
            #expect(BlockStoreTests.put(store, space.prefix(path)) >= 8)
            #expect(BlockStoreTests.get(store, space.prefix(path)).count == 9)
            #expect(store.statistics.memory.bytes <= 64 << 20)
        }
        #expect(store.statistics.memory.blocks > 700, "as many as without")
        store.close()
        #expect(store.core.with { $0.checkInvariants() } == [])
    }
}
