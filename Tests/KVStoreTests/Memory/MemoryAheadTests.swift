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
            let region = try Region(slotByteCount: plan.slotByteCount, slotCount: plan.slotCount)
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

    @Test func `Pages that were cleared need no fault when they are written`() throws {
        let cleared = try Region(slotByteCount: 65536, slotCount: 64)
        try #require(cleared.clearPages(0..<cleared.byteCount), "kernels before 5.14 cannot")
        let other = try Region(slotByteCount: 65536, slotCount: 64)
        let (few, many) = (faultsOfWriting(cleared), faultsOfWriting(other))
        #expect(few * 10 < many || many < 100, "\(few) and \(many) for 1024 pages, or huge ones")
    }

    @Test func `Clearing ends when the store does, in the middle of a pause as well`() throws {
        let region = try Region(slotByteCount: 65536, slotCount: 64)
        let demand = RegionDemand()
        let other = DiskThread(name: "end") {
            usleep(20_000)
            demand.end()
        }
        #expect(demand.waitForEnd(untilNanoseconds: monotonicNanoseconds() + 60_000_000_000))
        other.join()
        var pace = ClearingPace()
        MemoryAhead.clear(WeakRegion(region), &pace, demand)
        let (many, all) = (faultsOfWriting(region), faultsOfWriting(try Region(slotByteCount: 65536, slotCount: 64)))
        #expect(many * 2 > all, "none was cleared")
    }

    @Test func `Clearing ends when the store has closed the region`() throws {
        var region: Region? = try Region(slotByteCount: 65536, slotCount: 64)
        let mapped = WeakRegion(region)
        region = nil
        #expect(mapped.region == nil)
        var pace = ClearingPace()
        MemoryAhead.clear(mapped, &pace, RegionDemand())
    }

    /// Minor page faults of this thread while it writes all slots.
    private func faultsOfWriting(_ region: Region) -> Int {
        func faults() -> Int {
            var usage = rusage()
            let ofThisThread: __rusage_who_t = 1  // RUSAGE_THREAD, which Glibc's module leaves out
            unsafe getrusage(ofThisThread, &usage)
            return usage.ru_minflt
        }
        let before = faults()
        for slot in 0..<region.slotCount { unsafe memset(region.address(ofSlot: slot), 1, region.slotByteCount) }
        return faults() - before
    }

    @Test func `Whoever had to wait pauses, until eight pieces in a row did not have to`() {
        var pace = ClearingPace()
        func pauses(_ count: Int, waiting: UInt64) -> [UInt64] {
            (0..<count).map { _ in
                pace.note(elapsedNanoseconds: 200_000 + waiting, computedNanoseconds: 200_000)
                return pace.pauseNanoseconds / 1_000_000
            }
        }
        #expect(pauses(2, waiting: 60_000) == [0, 0])
        #expect(pauses(2, waiting: 3_000_000) == [128, 128])
        #expect(pauses(7, waiting: 60_000) == [128, 128, 128, 128, 128, 128, 128])
        #expect(pauses(1, waiting: 3_000_000) == [128])
        #expect(pauses(9, waiting: 60_000) == [128, 128, 128, 128, 128, 128, 128, 0, 0])
    }

    @Test func `Whoever notes a use during clearing has it wait for calm again`() {
        let demand = RegionDemand()
        demand.note()
        #expect(!demand.isCalm)
        #expect(demand.wait())
        #expect(demand.isCalm)
        demand.note()
        #expect(!demand.isCalm)
        demand.end()
        #expect(!demand.wait())
    }

    @Test func `A store maps regions when a namespace is opened, keeps its cap, and ends the thread`() throws {
        let store = try BlockStore(Self.configuration(ahead: 8 << 20))
        let space = try store.namespace(.test(blockBytes: 65536))
        while store.statistics.unusedBytes < 6 << 20 { usleep(1000) }
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
