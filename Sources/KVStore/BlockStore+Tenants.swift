internal import Synchronization

// What a store is told and asked about tenants: quotas, purge, and figures for each.

extension BlockStore {
    /// Sets what a tenant may take; nil lifts the limit. Call again to change it.
    ///
    /// `memoryBytes` bounds the tenant's regions: at the quota a tenant evicts its own coldest blocks and nobody else's.
    /// `diskBytes` bounds the records of its blocks on disk: its own coldest go, and what finds no room even so stays in
    /// memory until it is evicted, counted as `quotaRefusedBlocks`. `leasedBytes` bounds the slots that the tenant's
    /// leases hold, each counted once however many hold it: a lookup that would need more ends there, counted as
    /// `missesWithoutSlot`. Nothing is set aside: whether the quotas of all tenants fit under the caps is the caller's to
    /// check.
    ///
    /// A quota that is lowered is reached bit by bit: a region that is leased, or holds blocks that wait for the disk,
    /// goes later. May hold the caller for as long as it takes to give up what is above the disk quota.
    public func setQuota(tenant: String, memoryBytes: Int?, diskBytes: Int?, leasedBytes: Int? = nil) {
        precondition(
            memoryBytes ?? 0 >= 0 && diskBytes ?? 0 >= 0 && leasedBytes ?? 0 >= 0,
            "a quota is not negative"
        )
        let hash = NamespaceIdentity.tenantHash(of: tenant)
        core.with { core in
            core.setQuota(
                tenant: hash,
                name: tenant,
                memoryBytes: memoryBytes,
                diskBytes: diskBytes,
                leasedBytes: leasedBytes
            )
        }
        // In turns short enough for a lookup to wait for.
        while core.with({ $0.trimToQuota(tenant: hash, diskBlockLimit: 512) }) {}
        disk?.nudge()
    }

    /// Removes every block of a tenant, from every tier and of all its namespaces, open or not. Blocks under a lease stay
    /// readable for its holder. When the call returns, what was stored before it stays gone, also over a crash; while the
    /// disk cannot be written, an event says that this has to wait. What is stored meanwhile may go too.
    ///
    /// May wait for the disk. Returns how many blocks went, those the index had not loaded yet not counted.
    @discardableResult
    public func purge(tenant: String) -> Int {
        let hash = NamespaceIdentity.tenantHash(of: tenant)
        core.with { core in
            if core.disk.isWarming { core.disk.tenantsPurgedWhileWarming.insert(hash) }
        }
        // Out of the index first: a segment begun after the purge is written down cannot hold what is removed here. All
        // rows go with one range, so none is remembered by name.
        var removed = purgeIndex(of: hash, forgetsRows: disk == nil)
        if let disk {
            disk.recordPurge(tenant: hash)
            // Once more: the range took the rows of what was stored and written meanwhile.
            removed += purgeIndex(of: hash, forgetsRows: true)
        }
        return removed
    }

    private func purgeIndex(of tenant: UInt64, forgetsRows: Bool) -> Int {
        var (removed, next, isDone) = (0, 0, false)
        while !isDone {
            let start = next
            let turn = core.with { core -> (removed: Int, next: Int, isDone: Bool) in
                var cursor = start
                let count = core.purgeSome(tenant: tenant, cursor: &cursor, forgetsRows: forgetsRows)
                return (count, cursor, cursor >= core.entries.highWater)
            }
            removed += turn.removed
            (next, isDone) = (turn.next, turn.isDone)
        }
        return removed
    }

    /// Figures for each tenant that has, or had since the store was opened, a namespace or a quota.
    public func tenantStatistics() -> [TenantStatistics] { core.with { $0.tenantStatistics() } }

    /// Figures for each namespace, those included of which only blocks on disk tell.
    public func namespaceStatistics() -> [NamespaceStatistics] {
        let key = displayKey
        return core.with { core in core.namespaceStatistics { key.digits(of: $0) } }
    }

    /// How long operations took: `acquire.memory` (answered from memory alone), `acquire.disk`, `reserve`, `commit` (the
    /// digests included), `promote` (reading one run of blocks from disk).
    public func latencies() -> [String: LatencySummary] { core.with { $0.latencies() } }

    /// The prefixes in memory that the most lookups shared, the most used first, at most `limit`.
    ///
    /// - Complexity: looks at 65,536 slots at most, in short turns; with more, another part each time.
    public func hottestPrefixes(limit: Int) -> [HotPrefix] {
        guard limit > 0 else { return [] }
        let turnSlots = 2048
        let total = core.with { $0.slots.slotIDCount }
        var best: [StoreCore.HotCandidate] = []
        var walked = 0
        let start = hotWalkStart.load(ordering: .relaxed) % max(1, total)
        while walked < min(total, 1 << 16) {
            let (from, known) = ((start + walked) % total, best)
            // Up to the end of the table, then on from its beginning.
            let count = min(turnSlots, total - from, min(total, 1 << 16) - walked)
            best = core.with { core in
                var best = known
                core.collectHot(fromSlot: from, count: count, limit: limit, into: &best)
                return best
            }
            walked += count
        }
        hotWalkStart.store((start + walked) % max(1, total), ordering: .relaxed)
        let key = displayKey
        let found = best
        return core.with { core in
            found.map { candidate in
                let space = core.namespaces[Int(candidate.namespace)]
                return HotPrefix(
                    tenant: core.tenantName(core.tenants[space.tenantIndex]),
                    namespace: core.namespaceLabels[Int(candidate.namespace)]?.model ?? "",
                    keyHash: key.digits(of: candidate.key),
                    blocks: candidate.blocks,
                    uses: candidate.uses,
                    lastUsedSeconds: candidate.ageSeconds
                )
            }
        }
    }
}

/// What makes keys showable: a hash with a secret that is made anew with every store, so that nobody who reads statistics
/// can tell whether a prompt he can guess is stored.
struct DisplayKey: Sendable {
    private let secret: [UInt8]

    init() {
        var random = SystemRandomNumberGenerator()
        secret = (0..<32).map { _ in UInt8.random(in: 0...255, using: &random) }
    }

    /// Eight hex digits.
    func digits(of key: BlockKey) -> String { hexDigits(BlockKey(sha256Of: secret + key.bytes).word0) }
}
