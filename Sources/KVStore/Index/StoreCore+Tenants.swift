// Tenants: whose blocks are where, what they may take, and how they are removed together.

/// What the core knows of a tenant.
struct TenantState {
    let hash: UInt64
    /// Nil until a namespace of the tenant is opened, or it is given a quota.
    var name: String?
    /// What the tenant's blocks on disk may take together.
    var diskQuotaBytes: Int?
    /// Record bytes of the tenant's blocks in the disk tier; of those that wait to be written, the most they can take.
    var diskBytes = 0
    /// How often a block was not queued because of the quota.
    var quotaRefusedBlocks = 0
    /// Blocks given up on disk to make room under the quota.
    var quotaEvictedBlocks = 0
}

/// What a namespace is called, known once somebody opened it.
struct NamespaceLabel {
    let tenant: String
    let model: String
    let tokensPerBlock: Int
}

extension StoreCore {
    /// The place of a tenant in `tenants`, found or added.
    mutating func registerTenant(_ hash: UInt64, name: String?) -> Int {
        if let index = tenants.firstIndex(where: { $0.hash == hash }) {
            if let name { tenants[index].name = name }
            return index
        }
        tenants.append(TenantState(hash: hash, name: name))
        return tenants.count - 1
    }

    // MARK: Counting

    /// The memory tier counts a block of the namespace more, or less, in `slot`.
    mutating func countInMemory(_ slot: SlotID, _ namespace: UInt16, by delta: Int) {
        slots.adjustOccupied(slot, by: delta)
        namespaceCounters[Int(namespace)].memoryBlocks += delta
    }

    /// One visible block more, or less, that is only in memory.
    mutating func noteUnwritten(_ namespace: UInt16, by delta: Int) {
        namespaceCounters[Int(namespace)].unwrittenBlocks += delta
    }

    /// What a member of the disk tier is booked with.
    func diskCharge(of entry: Entry) -> Int {
        entry.isOnDisk
            ? disk.storedByteCount(segment: entry.segment, ordinal: entry.ordinal)
            : namespaces[Int(entry.namespace)].recordByteLimit
    }

    mutating func countDiskEviction(of id: EntryID) {
        counters.diskEvictedBlocks += 1
        if let age = clock.age(ofTick: disk.policy.tick(of: id)) { counters.diskEvictionAge.record(age) }
    }

    // MARK: Quota of memory

    /// Where memory for a class is to come from: the largest of the others, of the same tenant if that has all it may.
    func donorClass(for classIndex: Int) -> Int? {
        let slotClass = slots.classes[classIndex]
        let oneSlot = Region.byteCount(slotByteCount: slotClass.slotByteCount, slotCount: 1)
        guard slots.quotaRoom(classIndex) < oneSlot else { return largestClass(except: classIndex) }
        return largestClass(ofTenant: slotClass.tenant, except: classIndex)
    }

    private func largestClass(ofTenant tenant: UInt64, except classIndex: Int?) -> Int? {
        slots.classes.indices
            .filter { $0 != classIndex && slots.classes[$0].tenant == tenant && slots.classes[$0].slotCount > 0 }
            .max { slots.classes[$0].regionBytes < slots.classes[$1].regionBytes }
    }

    /// A quota that was lowered is reached a region at a time.
    mutating func shrinkToQuota(_ classIndex: Int) {
        if slots.quotaRoom(classIndex) < 0 { _ = drainForQuota(ofTenant: slots.classes[classIndex].tenant) }
    }

    /// As `shrinkToQuota`, for all tenants that have one.
    mutating func shrinkToQuotas() {
        for tenant in slots.quotaBytes.keys { _ = drainForQuota(ofTenant: tenant) }
    }

    /// Begins to empty one more region of a tenant that is above its memory quota. False when those that are being emptied
    /// already are enough, or nothing more can be emptied.
    private mutating func drainForQuota(ofTenant tenant: UInt64) -> Bool {
        guard let quota = slots.quotaBytes[tenant] else { return false }
        let kept = slots.regionBytes(ofTenant: tenant) - slots.drainingBytes(ofTenant: tenant)
        let donor = slots.classes.indices
            .filter { slots.classes[$0].tenant == tenant && slotToDrain($0) != nil }
            .max { slots.classes[$0].regionBytes < slots.classes[$1].regionBytes }
        guard kept > quota, let donor else { return false }
        drainColdestRegion(of: donor, alongsideOthers: true)
        return slots.regionBytes(ofTenant: tenant) - slots.drainingBytes(ofTenant: tenant) < kept
    }

    // MARK: Quota of the disk

    /// Whether the tenant's quota can hold `count` more blocks of the namespace, if all others made room.
    func isWithinDiskQuota(_ count: Int, namespace: UInt16) -> Bool {
        let space = namespaces[Int(namespace)]
        guard let quota = tenants[space.tenantIndex].diskQuotaBytes else { return true }
        return count * space.recordByteLimit <= quota
    }

    /// Whether a record of so many bytes fits under the tenant's quota as things are.
    func hasDiskQuotaRoom(_ byteCount: Int, namespace: UInt16) -> Bool {
        let tenant = tenants[namespaces[Int(namespace)].tenantIndex]
        return tenant.diskQuotaBytes.map { tenant.diskBytes + byteCount <= $0 } ?? true
    }

    /// Gives up the tenant's coldest blocks on disk until `count` more fit under its quota. `parent` is what those build
    /// on and stays; what it builds on stays because of it. False when too little can go.
    mutating func makeDiskQuotaRoom(forBlocks count: Int, namespace: Int, below parent: EntryID) -> Bool {
        let tenant = namespaces[namespace].tenantIndex
        guard count > 0, let quota = tenants[tenant].diskQuotaBytes else { return true }
        let needed = count * namespaces[namespace].recordByteLimit
        while tenants[tenant].diskBytes + needed > quota {
            guard evictFromDiskTier(protecting: parent, ofTenant: tenant) else { return false }
            tenants[tenant].quotaEvictedBlocks += 1
        }
        return true
    }

    /// Counts a block that was not queued, if its tenant's quota is why.
    mutating func noteQuotaRefusal(of id: EntryID) {
        let space = namespaces[Int(entries[id].namespace)]
        guard disk.accepts, space.geometry != nil, tenants[space.tenantIndex].diskQuotaBytes != nil else { return }
        var (count, member) = (0, id)
        while member != .none, !entries[member].isInDiskTier {
            // An ancestor that is not there yet is why.
            guard entries[member].residence == .resident || entries[member].residence == .spilling else { return }
            (count, member) = (count + 1, entries[member].parent)
        }
        if !hasDiskQuotaRoom(count * space.recordByteLimit, namespace: entries[id].namespace) {
            tenants[space.tenantIndex].quotaRefusedBlocks += 1
        }
    }

    /// Sets a tenant's quotas; nil for none. What is above them goes with `trimToQuota`.
    mutating func setQuota(tenant hash: UInt64, name: String, memoryBytes: Int?, diskBytes: Int?, leasedBytes: Int?) {
        let tenant = registerTenant(hash, name: name)
        tenants[tenant].diskQuotaBytes = diskBytes
        slots.quotaBytes[hash] = memoryBytes
        slots.leaseLimitBytes[hash] = leasedBytes
    }

    /// Gives up some of what a tenant has above its quotas; false when nothing more can go now. A region goes once its
    /// last lease has ended and its last block is on disk.
    mutating func trimToQuota(tenant hash: UInt64, diskBlockLimit: Int) -> Bool {
        guard let tenant = tenants.firstIndex(where: { $0.hash == hash }) else { return false }
        var isTrimmed = drainForQuota(ofTenant: hash)
        for _ in 0..<diskBlockLimit {
            guard let quota = tenants[tenant].diskQuotaBytes, tenants[tenant].diskBytes > quota,
                evictFromDiskTier(protecting: .none, ofTenant: tenant)
            else { break }
            tenants[tenant].quotaEvictedBlocks += 1
            isTrimmed = true
        }
        return isTrimmed
    }

    /// How often a disk quota had a say so far.
    var diskQuotaEffects: Int { tenants.reduce(0) { $0 + $1.quotaRefusedBlocks + $1.quotaEvictedBlocks } }

    // MARK: Purge

    /// Removes the tenant's blocks among the entries from `cursor` on, in a turn short enough for a lookup to wait for.
    /// Returns how many went; done when `cursor` has reached the end of the table.
    mutating func purgeSome(tenant hash: UInt64, cursor: inout Int, forgetsRows: Bool) -> Int {
        let isTheirs = namespaces.map { $0.tenant == hash }
        let end = min(entries.highWater, cursor + 4096)
        disk.forgetsNoRows = !forgetsRows
        var removed = 0
        while cursor < end, removed < 4096 {
            let id = EntryID(cursor)
            cursor += 1
            // A free id has no key that the table would find.
            guard isTheirs[Int(entries[id].namespace)], entries.find(entries[id].key) == id else { continue }
            removed += drop(rootOf(id))
        }
        disk.forgetsNoRows = false
        counters.removedBlocks += removed
        returnToCap()
        return removed
    }

    private func rootOf(_ id: EntryID) -> EntryID {
        var root = id
        while entries[root].parent != .none { root = entries[root].parent }
        return root
    }

    // MARK: Statistics

    func tenantName(_ tenant: TenantState) -> String { tenant.name ?? "#" + hexDigits(tenant.hash) }

    func tenantStatistics() -> [TenantStatistics] {
        var sums = [NamespaceCounters](repeating: NamespaceCounters(), count: tenants.count)
        var namespaceCounts = [Int](repeating: 0, count: tenants.count)
        for (space, counters) in zip(namespaces, namespaceCounters) {
            sums[space.tenantIndex] += counters
            namespaceCounts[space.tenantIndex] += 1
        }
        return tenants.indices.map { index in
            let (tenant, sum) = (tenants[index], sums[index])
            var result = TenantStatistics(name: tenantName(tenant))
            result.lookups = sum.lookups
            result.requestedBlocks = sum.requestedBlocks
            result.requestedTokens = sum.requestedTokens
            result.memoryHitBlocks = sum.memoryHitBlocks
            result.memoryHitTokens = sum.memoryHitTokens
            result.diskHitBlocks = sum.diskHitBlocks
            result.diskHitTokens = sum.diskHitTokens
            result.missesAbsent = sum.missesAbsent
            result.missesInProgress = sum.missesInProgress
            result.missesWithoutSlot = sum.missesWithoutSlot
            result.missesCorrupt = sum.missesCorrupt
            result.missesWarming = sum.missesWarming
            result.memoryBlocks = sum.memoryBlocks
            result.diskBlocks = sum.diskBlocks
            result.unwrittenBlocks = sum.unwrittenBlocks
            result.diskBytes = tenant.diskBytes
            result.diskQuotaBytes = tenant.diskQuotaBytes
            result.memoryQuotaBytes = slots.quotaBytes[tenant.hash]
            result.quotaRefusedBlocks = tenant.quotaRefusedBlocks
            result.quotaEvictedBlocks = tenant.quotaEvictedBlocks
            result.namespaces = namespaceCounts[index]
            for slotClass in slots.classes where slotClass.tenant == tenant.hash {
                result.memoryBytes += slotClass.regionBytes + slotClass.closedSharedBytes
                result.unusedBytes += slotClass.freeBytes
                result.pinnedBytes += slotClass.pinnedCount * slotClass.slotByteCount
                result.leases += slotClass.leaseCount
            }
            return result
        }
    }

    /// - Parameter shown: turns a fingerprint into what may be shown of it.
    func namespaceStatistics(shown: (BlockKey) -> String) -> [NamespaceStatistics] {
        namespaces.indices.map { index in
            let (space, label) = (namespaces[index], namespaceLabels[index])
            var result = NamespaceStatistics(
                tenant: tenantName(tenants[space.tenantIndex]),
                model: label?.model ?? "",
                fingerprintPrefix: shown(space.fingerprint),
                blockBytes: space.blockByteCount,
                tokensPerBlock: label?.tokensPerBlock ?? 0
            )
            result.blocks = namespaceCounters[index].blocks
            result.memoryBlocks = namespaceCounters[index].memoryBlocks
            result.diskBlocks = namespaceCounters[index].diskBlocks
            return result
        }
    }

    /// A candidate for the hottest prefixes.
    struct HotCandidate {
        let key: BlockKey
        let namespace: UInt16
        let uses: Int
        let blocks: Int
        let ageSeconds: Int?
    }

    /// Walks `count` slots from `start` on and adds the ends of prefixes that lookups share: blocks after which uses drop
    /// to less than half. Walks are bounded: 64 children and 65,536 ancestors a block.
    func collectHot(fromSlot start: Int, count: Int, limit: Int, into best: inout [HotCandidate]) {
        for slot in start..<min(start + count, slots.slotIDCount) {
            let id = slots[SlotID(slot)].entry
            guard id != .none, entries[id].residence == .resident, entries[id].uses >= 2 else { continue }
            let entry = entries[id]
            if best.count == limit, let least = best.last, Int(entry.uses) < least.uses { continue }
            if hasChildUsedAsMuch(entry) { continue }
            var (blocks, parent) = (1, entry.parent)
            while parent != .none, blocks < 1 << 16 { (blocks, parent) = (blocks + 1, entries[parent].parent) }
            let tick = slots.policy(of: SlotID(slot)).tick(of: SlotID(slot))
            let candidate = HotCandidate(
                key: entry.key,
                namespace: entry.namespace,
                uses: Int(entry.uses),
                blocks: blocks,
                ageSeconds: clock.age(ofTick: tick).map(Int.init)
            )
            let place = best.firstIndex { ($0.uses, $0.blocks) < (candidate.uses, candidate.blocks) } ?? best.count
            best.insert(candidate, at: place)
            if best.count > limit { best.removeLast() }
        }
    }

    private func hasChildUsedAsMuch(_ entry: Entry) -> Bool {
        var child = entry.firstChild
        for _ in 0..<64 where child != .none {
            if entries[child].uses >= entry.uses / 2 + entry.uses % 2 { return true }
            child = entries[child].nextSibling
        }
        return false
    }
}

/// The first four bytes as eight hex digits.
func hexDigits(_ word: UInt64) -> String {
    let digits = Array("0123456789abcdef")
    return String((0..<8).map { digits[Int(truncatingIfNeeded: word >> UInt64(($0 ^ 1) &* 4)) & 15] })
}
