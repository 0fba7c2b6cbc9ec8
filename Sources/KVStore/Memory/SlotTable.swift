/// Index of a slot over all regions, dense from 0.
package typealias SlotID = UInt32

/// What the memory tier knows about one slot.
struct Slot: BitwiseCopyable {
    /// The entry whose bytes the slot holds; `none` when free, or when the block was removed under a lease.
    var entry: EntryID
    /// Region number and place in it.
    var region: UInt32
    var indexInRegion: UInt32
    /// Leases plus background readers. A pinned slot is never given to another block.
    var pins: UInt32
    /// XXH3 of the committed bytes.
    var digest: UInt64
    /// Next free slot of the class, while free.
    var nextFree: SlotID
    var isFree: Bool
    /// Repeated from the region, so that a hit touches only this struct.
    var isDraining = false
    var classIndex: UInt32
    /// Address of the slot's memory, valid while the region is mapped.
    var addressBits: UInt
}

/// Slots of one tenant and one size. A region never holds slots of two classes.
struct SlotClass {
    let tenant: UInt64
    let slotByteCount: Int
    var freeHead: SlotID = .none
    var freeCount = 0
    var slotCount = 0
    var regionBytes = 0
    /// Bytes of regions that are being mapped.
    var plannedBytes = 0
    /// Bytes of regions that are closed here and still mapped by other processes.
    var closedSharedBytes = 0
    /// Open leases whose first block is in a slot of this class.
    var leaseCount = 0
    /// Slots with a pin: of leases, of reservations, and for as long as they are read or written in the background.
    var pinnedCount = 0
    /// Slots of blocks in `resident`, `reserved` or `loading`: what the memory tier counts.
    var occupiedCount = 0
    let policy: any EvictionPolicy

    /// Bytes of slots that hold nothing.
    var freeBytes: Int { freeCount * slotByteCount }
}

/// All regions and slots, and the byte cap over them.
///
/// Regions are created outside the lock, in three steps: `planRegion` takes the bytes from the budget, the caller maps
/// the region, `addRegion` brings it in (or `cancelRegion` gives the bytes back).
struct SlotTable: ~Copyable {
    private var slots: MappedArray<Slot>
    private(set) var regions: [RegionState?] = []
    private(set) var classes: [SlotClass] = []
    private var freeIDs: [SlotID] = []
    /// Bytes of regions, mapped or planned.
    private(set) var regionBytes = 0
    let capacityBytes: Int
    let policyName: EvictionPolicyName
    /// What the regions of a tenant may take together; those without an entry have only the cap.
    var quotaBytes: [UInt64: Int] = [:]
    /// What lookups of a tenant may pin together.
    var leaseLimitBytes: [UInt64: Int] = [:]
    private var nextRegionID: UInt32 = 1
    /// Other processes that map a region, by its id. Its bytes stay in `regionBytes` until the last of them let go of it,
    /// even if it is closed here.
    private var sharers: [UInt32: Int] = [:]
    private var closedShared: [UInt32: (byteCount: Int, classIndex: Int)] = [:]

    struct RegionState {
        /// Never used again, unlike the region's number.
        let id: UInt32
        let region: Region
        let classIndex: Int
        let slotIDs: [SlotID]
        var usedSlots = 0
        /// Emptied to give its memory to another class: no slot of it is handed out again.
        var isDraining = false
    }

    /// A region that may be mapped: its bytes are taken from the budget.
    struct RegionPlan: Sendable {
        let classIndex: Int
        let slotByteCount: Int
        let slotCount: Int
        var byteCount: Int { Region.byteCount(slotByteCount: slotByteCount, slotCount: slotCount) }
    }

    init(capacityBytes: Int, policyName: EvictionPolicyName) throws(KVStoreError) {
        self.capacityBytes = capacityBytes
        self.policyName = policyName
        slots = try MappedArray(capacity: max(64, capacityBytes / pageByteCount))
    }

    subscript(id: SlotID) -> Slot {
        @inline(__always) get { slots[Int(id)] }
        @inline(__always) _modify { yield &slots[Int(id)] }
    }

    var metadataBytes: Int {
        slots.committedBytes + classes.reduce(0) { $0 + $1.policy.metadataBytes }
    }

    func policy(of id: SlotID) -> any EvictionPolicy { classes[classIndex(of: id)].policy }

    func classIndex(of id: SlotID) -> Int { Int(slots[Int(id)].classIndex) }

    /// The class of a tenant's slots of one size, made when first asked for.
    mutating func classIndex(tenant: UInt64, slotByteCount: Int) throws(KVStoreError) -> Int {
        if let index = classes.firstIndex(where: { $0.tenant == tenant && $0.slotByteCount == slotByteCount }) {
            return index
        }
        let policy = try policyName.make(capacity: slots.capacity)
        classes.append(SlotClass(tenant: tenant, slotByteCount: slotByteCount, policy: policy))
        return classes.count - 1
    }

    /// `clamp(cap / 64, one slot, 64 MiB)`: large regions keep descriptors and mappings few, small ones let a small cap
    /// serve several classes. With a quota no more than a 16th of that, likewise.
    func slotsPerRegion(_ classIndex: Int) -> Int {
        let quota = quotaBytes.isEmpty ? nil : quotaBytes[classes[classIndex].tenant]
        let byteCount = min(capacityBytes / 64, 64 << 20, (quota ?? .max) / 16)
        return max(1, byteCount / classes[classIndex].slotByteCount)
    }

    /// Bytes of a tenant's regions: mapped, planned, or closed and still mapped by other processes.
    func regionBytes(ofTenant tenant: UInt64) -> Int {
        var byteCount = 0
        for slotClass in classes where slotClass.tenant == tenant {
            byteCount += slotClass.regionBytes + slotClass.plannedBytes + slotClass.closedSharedBytes
        }
        return byteCount
    }

    /// Of those, bytes of regions that are being emptied.
    func drainingBytes(ofTenant tenant: UInt64) -> Int {
        var byteCount = 0
        for case let region? in regions where region.isDraining && classes[region.classIndex].tenant == tenant {
            byteCount += region.region.byteCount
        }
        return byteCount
    }

    /// What the quota of the class's tenant leaves for further regions; negative when it was lowered.
    func quotaRoom(_ classIndex: Int) -> Int {
        guard !quotaBytes.isEmpty, let quota = quotaBytes[classes[classIndex].tenant] else { return .max }
        return quota - regionBytes(ofTenant: classes[classIndex].tenant)
    }

    /// What a lookup of the tenant may still pin.
    func leaseRoom(ofTenant tenant: UInt64) -> Int {
        guard !leaseLimitBytes.isEmpty, let limit = leaseLimitBytes[tenant] else { return .max }
        return limit - pinnedBytes(ofTenant: tenant)
    }

    func pinnedBytes(ofTenant tenant: UInt64) -> Int {
        classes.reduce(0) { $0 + ($1.tenant == tenant ? $1.pinnedCount * $1.slotByteCount : 0) }
    }

    @inline(__always)
    mutating func pin(_ id: SlotID) {
        slots[Int(id)].pins += 1
        if slots[Int(id)].pins == 1 { classes[Int(slots[Int(id)].classIndex)].pinnedCount += 1 }
    }

    /// Ends a pin; tells how many are left.
    @inline(__always)
    mutating func unpin(_ id: SlotID) -> UInt32 {
        precondition(slots[Int(id)].pins > 0, "unpinned too often")
        slots[Int(id)].pins -= 1
        if slots[Int(id)].pins == 0 { classes[Int(slots[Int(id)].classIndex)].pinnedCount -= 1 }
        return slots[Int(id)].pins
    }

    mutating func adjustLeases(_ id: SlotID, by delta: Int) { classes[classIndex(of: id)].leaseCount += delta }

    /// Takes the bytes of one more region for `classIndex` from the budget. `otherBytes` is what everything else
    /// uses or has set aside. Nil when the cap or the tenant's quota does not allow it.
    mutating func planRegion(_ classIndex: Int, otherBytes: Int) -> RegionPlan? {
        let size = classes[classIndex].slotByteCount
        let room = min(capacityBytes - otherBytes - regionBytes, quotaRoom(classIndex))
        var count = slotsPerRegion(classIndex)
        // The last region of a cap or quota may be smaller, down to one slot, so that it is used up.
        while count > 1 && Region.byteCount(slotByteCount: size, slotCount: count) > room { count /= 2 }
        let plan = RegionPlan(classIndex: classIndex, slotByteCount: size, slotCount: count)
        guard plan.byteCount <= room else { return nil }
        regionBytes += plan.byteCount
        classes[classIndex].plannedBytes += plan.byteCount
        return plan
    }

    mutating func cancelRegion(_ plan: RegionPlan) {
        regionBytes -= plan.byteCount
        classes[plan.classIndex].plannedBytes -= plan.byteCount
    }

    /// Brings a mapped region in; false when metadata for its slots cannot be had (the caller then cancels the plan).
    mutating func addRegion(_ region: Region, plan: RegionPlan) -> Bool {
        var ids: [SlotID] = []
        ids.reserveCapacity(plan.slotCount)
        while ids.count < plan.slotCount, let id = freeIDs.popLast() { ids.append(id) }
        let fresh = plan.slotCount - ids.count
        let start = slots.count
        guard slots.grow(toCount: start + fresh),
            classes[plan.classIndex].policy.grow(toCount: slots.count)
        else {
            freeIDs.append(contentsOf: ids)
            return false
        }
        for offset in 0..<fresh { ids.append(SlotID(start + offset)) }
        let number = regions.firstIndex { $0 == nil } ?? regions.count
        if number == regions.count { regions.append(nil) }
        regions[number] = RegionState(
            id: nextRegionID,
            region: region,
            classIndex: plan.classIndex,
            slotIDs: ids
        )
        nextRegionID += 1
        classes[plan.classIndex].slotCount += ids.count
        classes[plan.classIndex].regionBytes += plan.byteCount
        classes[plan.classIndex].plannedBytes -= plan.byteCount
        for (index, id) in ids.enumerated().reversed() {
            slots[Int(id)] = Slot(
                entry: .none,
                region: UInt32(number),
                indexInRegion: UInt32(index),
                pins: 0,
                digest: 0,
                nextFree: .none,
                isFree: true,
                classIndex: UInt32(plan.classIndex),
                addressBits: UInt(bitPattern: unsafe region.address(ofSlot: index))
            )
            pushFree(id, plan.classIndex)
        }
        return true
    }

    private mutating func pushFree(_ id: SlotID, _ classIndex: Int) {
        slots[Int(id)].isFree = true
        slots[Int(id)].nextFree = classes[classIndex].freeHead
        classes[classIndex].freeHead = id
        classes[classIndex].freeCount += 1
    }

    /// A free slot of the class, its generation raised. Skips slots of draining regions.
    mutating func takeFree(_ classIndex: Int, for entry: EntryID) -> SlotID? {
        let id = classes[classIndex].freeHead
        guard id != .none else { return nil }
        classes[classIndex].freeHead = slots[Int(id)].nextFree
        classes[classIndex].freeCount -= 1
        slots[Int(id)].isFree = false
        slots[Int(id)].entry = entry
        slots[Int(id)].digest = 0
        let number = Int(slots[Int(id)].region)
        regions[number]!.usedSlots += 1
        // Policies are keyed by slot, and this class's policy may be younger than other classes' slots.
        regions[number]!.region.raiseGeneration(ofSlot: Int(slots[Int(id)].indexInRegion))
        return id
    }

    /// Gives a slot back that no entry and no pin holds. Closes its region when that was draining and is now empty;
    /// returns the closed region, to be unmapped outside the lock.
    mutating func free(_ id: SlotID) -> Region? {
        precondition(slots[Int(id)].pins == 0 && !slots[Int(id)].isFree)
        let number = Int(slots[Int(id)].region)
        let classIndex = regions[number]!.classIndex
        slots[Int(id)].entry = .none
        regions[number]!.usedSlots -= 1
        if regions[number]!.isDraining {
            slots[Int(id)].isFree = true
            return regions[number]!.usedSlots == 0 ? close(number) : nil
        }
        pushFree(id, classIndex)
        return nil
    }

    /// Stops handing out slots of the region of `id`. Returns it when it is empty already.
    mutating func drainRegion(of id: SlotID) -> Region? {
        let number = Int(slots[Int(id)].region)
        guard !regions[number]!.isDraining else { return nil }
        regions[number]!.isDraining = true
        for slot in regions[number]!.slotIDs { slots[Int(slot)].isDraining = true }
        let classIndex = regions[number]!.classIndex
        // Rebuild the free list without the region's slots.
        var kept: [SlotID] = []
        var head = classes[classIndex].freeHead
        while head != .none {
            if Int(slots[Int(head)].region) != number { kept.append(head) }
            head = slots[Int(head)].nextFree
        }
        classes[classIndex].freeHead = .none
        classes[classIndex].freeCount = 0
        for slot in kept.reversed() { pushFree(slot, classIndex) }
        return regions[number]!.usedSlots == 0 ? close(number) : nil
    }

    private mutating func close(_ number: Int) -> Region {
        let state = regions[number]!
        regions[number] = nil
        freeIDs.append(contentsOf: state.slotIDs)
        classes[state.classIndex].slotCount -= state.slotIDs.count
        classes[state.classIndex].regionBytes -= state.region.byteCount
        if sharers[state.id] == nil {
            regionBytes -= state.region.byteCount
        } else {
            closedShared[state.id] = (state.region.byteCount, state.classIndex)
            classes[state.classIndex].closedSharedBytes += state.region.byteCount
        }
        return state.region
    }

    // MARK: Other processes

    /// Where a slot lies, for somebody who maps its region in another process.
    func place(of id: SlotID) -> SlotPlace {
        let slot = slots[Int(id)]
        let state = regions[Int(slot.region)]!
        return SlotPlace(
            regionID: state.id,
            slotIndex: slot.indexInRegion,
            generation: state.region.generation(ofSlot: Int(slot.indexInRegion))
        )
    }

    /// Notes that one more process is about to map a region. Nil when it is closed.
    mutating func share(_ id: UInt32) -> SharedRegion? {
        guard let state = regions.first(where: { $0?.id == id }) ?? nil else { return nil }
        sharers[id, default: 0] += 1
        return SharedRegion(
            id: id,
            slotCount: state.region.slotCount,
            slotByteCount: state.region.slotByteCount,
            byteCount: state.region.byteCount,
            fileDescriptor: state.region.fileDescriptor
        )
    }

    /// A process has unmapped a region, or has ended.
    mutating func unshare(_ id: UInt32) {
        guard let count = sharers[id] else { return }
        sharers[id] = count > 1 ? count - 1 : nil
        if count == 1, let closed = closedShared.removeValue(forKey: id) {
            regionBytes -= closed.byteCount
            classes[closed.classIndex].closedSharedBytes -= closed.byteCount
        }
    }

    /// Whether other processes should let go of a region.
    func isClosedButShared(_ id: UInt32) -> Bool { closedShared[id] != nil }

    /// Bytes of regions that are closed here and still mapped elsewhere.
    var closedSharedByteCount: Int { closedShared.values.reduce(0) { $0 + $1.byteCount } }

    mutating func adjustOccupied(_ id: SlotID, by delta: Int) {
        classes[classIndex(of: id)].occupiedCount += delta
    }

    /// Slots of the region that `id` lies in.
    func slotIDs(inRegionOf id: SlotID) -> [SlotID] { regions[Int(slots[Int(id)].region)]!.slotIDs }

    func isDraining(_ id: SlotID) -> Bool { slots[Int(id)].isDraining }

    /// Bytes of slots that hold nothing, and of regions that are being mapped.
    var unusedBytes: Int { classes.reduce(0) { $0 + $1.freeBytes + $1.plannedBytes } }

    /// True while any region is being emptied.
    var hasDrainingRegion: Bool { regions.contains { $0?.isDraining == true } }

    /// True while any region of the class is being emptied.
    func hasDrainingRegion(_ classIndex: Int) -> Bool {
        regions.contains { $0?.classIndex == classIndex && $0?.isDraining == true }
    }

    /// The slot's memory, as a value that may leave the lock together with a pin.
    func memory(of id: SlotID) -> SlotMemory {
        // The pin that the caller holds keeps the region mapped, so the address is one.
        return unsafe SlotMemory(address: UnsafeMutableRawPointer(bitPattern: slots[Int(id)].addressBits)!)
    }

    /// Slot ids in use are below this.
    var slotIDCount: Int { slots.count }
    var pinnedSlotCount: Int {
        var pinned = 0
        for id in 0..<slots.count where slots[id].pins > 0 { pinned += 1 }
        return pinned
    }
    var usedSlotCount: Int { regions.reduce(0) { $0 + ($1?.usedSlots ?? 0) } }
    var regionCount: Int { regions.reduce(0) { $0 + ($1 == nil ? 0 : 1) } }
}

/// The bytes of a pinned or reserved slot.
///
/// Sendable although it is an address: who holds one also holds a pin or the reservation of the slot, and the store
/// gives the slot to nobody else until that ends.
@safe
package struct SlotMemory: @unchecked Sendable {
    private let address: UnsafeMutableRawPointer

    package init(address: UnsafeMutableRawPointer) { unsafe self.address = address }

    /// Valid while the holder's pin is.
    @unsafe func bytes(_ count: Int) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: address, count: count)
    }
    /// Valid while the holder's pin is.
    @unsafe func mutableBytes(_ count: Int) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(start: address, count: count)
    }
}
