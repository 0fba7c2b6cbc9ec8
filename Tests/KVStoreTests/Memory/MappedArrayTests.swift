import Testing

@testable import KVStore

// #expect cannot take a call on a noncopyable value apart, so calls are made first and their results are checked.

@Suite("MappedArray")
struct MappedArrayTests {
    @Test func `It starts empty grows in steps and never beyond its capacity`() throws {
        var array = try MappedArray<UInt64>(capacity: 20_000)
        let atFirst = (count: array.count, committed: array.committedBytes, growth: array.growthBytes(toCount: 1))
        #expect(atFirst == (count: 0, committed: 0, growth: 64 << 10))
        let grewToOne = array.grow(toCount: 1)
        let zero = array[0]
        let afterOne = (committed: array.committedBytes, growth: array.growthBytes(toCount: 8192))
        #expect(grewToOne && zero == 0)
        #expect(afterOne == (committed: 64 << 10, growth: 0))
        let grewToAll = array.grow(toCount: 20_000)
        for index in 0..<20_000 { array[index] = UInt64(index) }
        let last = array[19_999]
        #expect(grewToAll && last == 19_999)
        let grewTooFar = array.grow(toCount: 20_001)
        let grewBack = array.grow(toCount: 5)
        let count = array.count
        #expect(!grewTooFar && grewBack)
        #expect(count == 20_000)
    }

    @Test func `An index outside is a trap and not somebody else's memory`() async {
        await #expect(processExitsWith: .failure) {
            var array = try MappedArray<UInt64>(capacity: 10)
            _ = array.grow(toCount: 2)
            _ = array[2]
        }
    }
}

@Suite("SlotTable")
struct SlotTableTests {
    private static func addRegion(_ table: inout SlotTable, _ index: Int) throws -> Bool {
        guard let plan = table.planRegion(index, otherBytes: 0) else { return false }
        return table.addRegion(try Region(slotByteCount: plan.slotByteCount, slotCount: plan.slotCount), plan: plan)
    }

    @Test func `Regions stay within the budget and the last one may be small`() throws {
        var table = try SlotTable(capacityBytes: 16 << 20, policyName: .leafLRU)
        let index = try table.classIndex(tenant: 1, slotByteCount: 4096)
        var plans: [SlotTable.RegionPlan] = []
        while let plan = table.planRegion(index, otherBytes: 1 << 20) { plans.append(plan) }
        let taken = table.regionBytes
        #expect(plans[0].slotCount == 64)
        #expect(taken <= 15 << 20)
        #expect(taken > (15 << 20) - 3 * 4096)
        #expect(plans.last!.slotCount < 64)
        for plan in plans { table.cancelRegion(plan) }
        let left = table.regionBytes
        #expect(left == 0)
    }

    @Test func `One class per tenant and size`() throws {
        var table = try SlotTable(capacityBytes: 16 << 20, policyName: .leafLRU)
        let first = try table.classIndex(tenant: 1, slotByteCount: 4096)
        let same = try table.classIndex(tenant: 1, slotByteCount: 4096)
        let otherTenant = try table.classIndex(tenant: 2, slotByteCount: 4096)
        let otherSize = try table.classIndex(tenant: 1, slotByteCount: 8192)
        #expect(same == first)
        #expect(Set([first, otherTenant, otherSize]).count == 3)
    }

    @Test func `A slot taken again has a higher generation`() throws {
        var table = try SlotTable(capacityBytes: 16 << 20, policyName: .leafLRU)
        let index = try table.classIndex(tenant: 1, slotByteCount: 1 << 20)
        _ = try Self.addRegion(&table, index)
        let slot = table.takeFree(index, for: 5)!
        let region = table.regions[Int(table[slot].region)]!.region
        let place = Int(table[slot].indexInRegion)
        let before = region.generation(ofSlot: place)
        let closed = table.free(slot)
        let again = table.takeFree(index, for: 6)
        let owner = table[slot].entry
        #expect(closed == nil)
        #expect(again == slot)
        #expect(owner == 6)
        #expect(region.generation(ofSlot: place) == before + 1)
    }

    @Test func `A draining region hands out no slot and closes with its last one`() throws {
        var table = try SlotTable(capacityBytes: 16 << 20, policyName: .leafLRU)
        let index = try table.classIndex(tenant: 1, slotByteCount: 1 << 20)
        for _ in 0..<3 { _ = try Self.addRegion(&table, index) }
        let slots = (0..<3).map { table.takeFree(index, for: EntryID($0))! }
        let fourth = table.takeFree(index, for: 9)
        #expect(fourth == nil)
        // An empty region goes at once.
        _ = table.free(slots[0])
        let emptyOne = table.drainRegion(of: slots[0])
        let afterEmpty = (regions: table.regionCount, free: table.classes[index].freeCount)
        #expect(emptyOne != nil)
        #expect(afterEmpty == (regions: 2, free: 0))
        // A used one goes with its last slot.
        let usedOne = table.drainRegion(of: slots[1])
        let isDraining = table.hasDrainingRegion(index)
        let closed = table.free(slots[1])
        let stillDrains = table.hasDrainingRegion(index)
        let refused = table.takeFree(index, for: 9)
        let end = (slots: table.classes[index].slotCount, bytes: table.regionBytes)
        #expect(usedOne == nil)
        #expect(isDraining && !stillDrains)
        #expect(closed != nil)
        #expect(refused == nil)
        #expect(end == (slots: 1, bytes: Region.byteCount(slotByteCount: 1 << 20, slotCount: 1)))
        // Slot numbers of closed regions are used again.
        let added = try Self.addRegion(&table, index)
        let ids = table.slotIDCount
        #expect(added)
        #expect(ids == 3)
    }
}
