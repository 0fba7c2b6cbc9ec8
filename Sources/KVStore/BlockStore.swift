internal import Synchronization

/// A store of KV blocks on one node: memory first, disk below, found by prefix.
///
/// ```
///   acquire ──▶ index ──▶ memory tier (sealed memfd regions) ──▶ lease: bytes in place, nothing copied
///                 │             ▲ promote            │ evict
///                 └──────▶ disk tier (RocksDB as a log of segments) ◀── spill, write-back, flush
///   reserve ──▶ slot ──▶ the caller fills it ──▶ commit: digest, then visible from the head of the chain on
/// ```
///
/// Every method may be called from any thread. Those that may read or wait for the disk say so; they have an async twin
/// that does not block Swift's cooperative threads. Errors are for opening and configuring; after that a block is
/// either there, verified, or it is a miss.
public final class BlockStore: BlockCache {
    /// The configuration the store was opened with.
    public let configuration: Configuration
    let core: CoreLock
    let disk: DiskTier?
    private let scrubber: Scrubber?
    private let memoryAhead: MemoryAhead?
    /// What shown hashes of keys are made with, and where the walk of `hottestPrefixes` goes on.
    let displayKey = DisplayKey()
    let hotWalkStart = Atomic<Int>(0)

    /// Opens a store. Memory is usable at once; the disk tier's directory is opened and its index loaded in the
    /// background (see `waitUntilWarm`). A disk that cannot be used does not fail the open: the store runs on memory,
    /// `statistics.diskProblem` and `Configuration.onEvent` say why, and what can heal is tried again.
    ///
    /// - Throws: `invalidArgument` naming every limit that does not hold; `outOfMemory`.
    public init(_ configuration: Configuration) throws(KVStoreError) {
        try configuration.validate()
        self.configuration = configuration
        let core = CoreLock(try StoreCore(configuration: configuration))
        self.core = core
        disk = configuration.disk.map { DiskTier($0, store: configuration, core: core) }
        scrubber = Scrubber(configuration, core: core, disk: disk)
        memoryAhead = MemoryAhead(configuration, core: core)
        memoryAhead?.start()
        disk?.start()
        scrubber?.start()
    }

    deinit { close() }

    /// Opens a namespace: the complete identity of one model instance and tenant.
    ///
    /// - Throws: `invalidArgument` when a field is out of range or a block is too large for the memory cap.
    public func namespace(_ identity: NamespaceIdentity) throws(KVStoreError) -> Namespace {
        try identity.validate()
        if configuration.disk?.codec == .int8, identity.storage != .int8 {
            throw KVStoreError(
                .invalidArgument,
                "the disk tier's codec is int8, which is lossy, but the namespace's storage is lossless; set its storage "
                    + "to int8, or choose another codec"
            )
        }
        let blockByteCount = identity.blockByteCount
        let geometry = FrameGeometry(identity)
        let limit = configuration.memoryCapacityBytes / 8
        let recordBytes = BlockRecord.maximumByteCount(rawByteCount: blockByteCount, geometry: geometry)
        guard blockByteCount <= limit, disk == nil || recordBytes <= StoreCore.stagingBytes(configuration) else {
            let needed = blockByteCount * (disk == nil ? 8 : 32)
            throw KVStoreError(
                .invalidArgument,
                "blocks of \(blockByteCount) bytes need memoryCapacityBytes of at least \(needed); it is "
                    + "\(configuration.memoryCapacityBytes). Use fewer tokens per block, or more memory"
            )
        }
        let fingerprint = identity.fingerprint
        let index = core.with { core -> UInt16? in
            let index = core.registerNamespace(
                fingerprint: fingerprint,
                tenant: identity.tenantHash,
                blockByteCount: blockByteCount,
                geometry: geometry,
                label: NamespaceLabel(
                    tenant: identity.tenant,
                    model: identity.model,
                    tokensPerBlock: identity.tokensPerBlock
                )
            )
            if let index { core.noteUse(ofNamespace: index) }
            return index
        }
        guard let index else { throw KVStoreError(.invalidArgument, "more than 65535 namespaces are open") }
        disk?.remember(identity)
        return Namespace(identity: identity, index: index)
    }

    // MARK: Finding

    /// How many leading blocks of a prefix are stored, and in which tier each was found. Moves nothing, holds nothing:
    /// what is true now may be false a moment later; `acquire` makes it a promise.
    public func match(_ prefix: Prefix) -> PrefixMatch {
        var tiers: [Tier] = []
        tiers.reserveCapacity(prefix.keys.count)
        let isWarming = core.with { core -> Bool in
            _ = core.countPresent(prefix.keys, namespace: prefix.namespace.index) { tiers.append($0) }
            return core.disk.isWarming
        }
        return PrefixMatch(tiers: tiers, isWarming: isWarming)
    }

    /// Takes a lease on the leading blocks of a prefix that are stored. Nil when the first block is a miss.
    ///
    /// Blocks in memory are served as they are, without a copy. Blocks on disk are read, verified and promoted first;
    /// the call waits for that (use the async twin in async code). If no slot is free to promote into, or a block turns
    /// out damaged, the lease covers the blocks before it.
    ///
    /// - Parameter memoryOnly: stop before the first block that is only on disk; the call then never waits.
    /// - Complexity: one table look-up per block; one allocation when everything is in memory.
    public func acquire(_ prefix: Prefix, memoryOnly: Bool) -> BlockLease? {
        lease(acquireBlocks(prefix, memoryOnly: memoryOnly), prefix)
    }

    /// As `acquire(_:memoryOnly:)`; disk reads happen on the store's own threads.
    public func acquire(_ prefix: Prefix) async -> BlockLease? {
        guard let disk, core.with({ !$0.isClosed }), match(prefix).needsDisk else {
            return lease(acquireBlocks(prefix, memoryOnly: false), prefix)
        }
        let blocks = await withCheckedContinuation { continuation in
            disk.readers.submit { continuation.resume(returning: self.acquireBlocks(prefix, memoryOnly: false)) }
        }
        return lease(blocks, prefix)
    }

    /// Promotes what a coming request will need, in the background. Nobody waits, nothing is held.
    ///
    /// Reads that somebody waits for go first, and of many wishes at once the last are forgotten.
    public func prefetch(_ prefix: Prefix) { prefetch(prefix, holding: ()) }

    /// As `prefetch(_:)`; `ticket` lives until the wish is fulfilled or forgotten.
    package func prefetch(_ prefix: Prefix, holding ticket: some Sendable) {
        let found = match(prefix)
        guard let disk, found.needsDisk else { return }
        let stored = prefix.first(found.count)
        disk.readers.submitWish {
            let blocks = self.pinLeading(stored, memoryOnly: false).blocks
            self.endPins(blocks.map(\.slot))
            withExtendedLifetime(ticket) {}
        }
    }

    private func lease(_ blocks: [PinnedBlock], _ prefix: Prefix) -> BlockLease? {
        BlockLease(owner: self, blocks: blocks, blockByteCount: prefix.namespace.blockByteCount)
    }

    private func acquireBlocks(_ prefix: Prefix, memoryOnly: Bool) -> [PinnedBlock] {
        let started = monotonicNanoseconds()
        var (blocks, stop) = pinLeading(prefix, memoryOnly: memoryOnly)
        if configuration.verifyMemoryHits { verify(&blocks, byteCount: prefix.namespace.blockByteCount) }
        let ended = monotonicNanoseconds()
        core.with { core in
            core.countLookup(
                prefix,
                blocks: blocks,
                stop: stop,
                nanoseconds: ended - started,
                nowSeconds: seconds(ended)
            )
        }
        return blocks
    }

    /// Pins the leading blocks, reading those that are only on disk. Pins taken on the way hold until the end, so what
    /// was found first is still there when the last read lands.
    private func pinLeading(_ prefix: Prefix, memoryOnly: Bool) -> (blocks: [PinnedBlock], stop: PrefixStop) {
        var blocks: [PinnedBlock] = []
        blocks.reserveCapacity(prefix.keys.count)
        var claims: [LoadClaim] = []
        var flight: Flight?
        let fromDisk = !memoryOnly && disk != nil
        while true {
            let stop = core.with { core -> PrefixStop in
                guard !core.isClosed else { return .absent }
                let stop = core.pinRun(
                    prefix,
                    blocks: &blocks,
                    claims: &claims,
                    fromDisk: fromDisk,
                    flight: &flight
                )
                if claims.isEmpty { core.touchRun(blocks) }
                core.trimToLimit(namespace: prefix.namespace.index)
                return stop
            }
            if case .needsRegion(let plan) = stop {
                guard core.addRegion(plan) else { return (load(prefix, claims, flight, blocks), .noSlot) }
                continue
            }
            let claimed = claims.count
            blocks = load(prefix, claims, flight, blocks)
            let lostSome = claimed > 0 && blocks.count < claims.last!.position + 1
            claims.removeAll()
            flight = nil
            guard case .loading(let other) = stop, !lostSome else { return (blocks, stop) }
            // Another reader's blocks: wait for them, then look again from there on.
            if memoryOnly { return (blocks, .inProgress) }
            other.wait()
        }
    }

    /// Reads the claimed blocks and makes them visible; returns the run as far as it is good.
    private func load(
        _ prefix: Prefix,
        _ claims: [LoadClaim],
        _ flight: Flight?,
        _ blocks: [PinnedBlock]
    ) -> [PinnedBlock] {
        guard !claims.isEmpty, let disk else { return blocks }
        var blocks = blocks
        let started = monotonicNanoseconds()
        let finished = disk.read(claims, blocks: blocks, namespace: prefix.namespace)
        let elapsed = monotonicNanoseconds() - started
        core.with { core in
            core.counters.promote.record(elapsed)
            _ = core.finishLoads(finished, blocks: &blocks)
            core.touchRun(blocks)
        }
        flight?.land()
        return blocks
    }

    /// Compares the bytes of blocks found in memory with the digests of their commits. A block that differs is dropped
    /// with everything built on it.
    private func verify(_ blocks: inout [PinnedBlock], byteCount: Int) {
        for (position, block) in blocks.enumerated() where block.tier == .memory {
            // Pinned above, so the memory is ours to read.
            let digest = unsafe XXH3.digest(block.memory.bytes(byteCount))
            let isGood = core.with { core in core.confirm(block, digest: digest) }
            if isGood { continue }
            endPins(blocks[position...].map(\.slot))
            blocks.removeSubrange(position...)
            return
        }
    }

    // MARK: Storing

    /// Asks for slots for the blocks of a prefix that are missing, head first.
    ///
    /// Blocks that are stored already, or that somebody else is storing, get no slot. When room runs out the reservation
    /// ends there: fewer slots than missing blocks is a normal answer. Never waits for the disk. Nil when there is
    /// nothing to store.
    public func reserve(_ prefix: Prefix) -> BlockReservation? {
        var blocks: [ReservedBlock] = []
        var position = 0
        var parent = EntryID.none
        let started = monotonicNanoseconds()
        let now = seconds(started)
        while true {
            let stop = core.with { core -> PrefixStop in
                guard !core.isClosed else { return .absent }
                if position == 0 { core.touchPresent(prefix) }
                return core.reserveRun(
                    prefix,
                    position: &position,
                    parent: &parent,
                    blocks: &blocks,
                    nowSeconds: now
                )
            }
            if case .needsRegion(let plan) = stop, core.addRegion(plan) { continue }
            break
        }
        let refused = prefix.keys.count - position
        let elapsed = monotonicNanoseconds() - started
        core.with { core in
            core.counters.reserve.record(elapsed)
            core.counters.refusedBlocks += refused
            if !blocks.isEmpty { core.reservationCount += 1 }
        }
        disk?.nudge()
        return blocks.isEmpty ? nil : BlockReservation(owner: self, namespace: prefix.namespace, blocks: blocks)
    }

    // MARK: Removing

    /// Removes the last block of `prefix`'s keys … and every block that builds on any of them, from every tier. Blocks
    /// under a lease stay readable for its holder. When the call returns, the blocks stay gone, also over a crash; while
    /// the disk cannot be written, an event says that this has to wait.
    ///
    /// May wait for the disk. Returns how many blocks went.
    @discardableResult
    public func remove(_ prefix: Prefix, from first: Int) -> Int {
        let keys = Array(prefix.keys.dropFirst(first))
        return removeKeys(keys, namespace: prefix.namespace)
    }

    private func removeKeys(_ keys: [BlockKey], namespace: Namespace) -> Int {
        guard !keys.isEmpty else { return 0 }
        // Out of the index first: a segment begun after the removal is written down cannot hold what is removed here.
        let removed = core.with { $0.remove(keys, namespace: namespace.index) }
        // With all that built on them, or storing a removed parent again would bring its old children back after a crash.
        disk?.recordRemoval(Array(Set(keys).union(removed)), namespace: namespace)
        return removed.count
    }

    // MARK: Whole store

    /// Writes everything that is only in memory to disk and waits for it. Tells how many blocks are durable (they
    /// survive a kill of the process), how many are not, and why.
    public func flush() -> FlushResult {
        guard let disk else { return flushWithoutDisk() }
        return disk.flush()
    }

    /// As `flush()`, of one tenant's blocks; what others stored is left to the write-back and not counted.
    public func flush(tenant: String) -> FlushResult {
        let hash = NamespaceIdentity.tenantHash(of: tenant)
        guard let disk else {
            let refused = core.with { $0.durableBlocks(ofTenant: hash).refused }
            return FlushResult(durableBlocks: 0, refusedBlocks: refused, reason: "the store has no disk tier")
        }
        return disk.flush(tenant: hash)
    }

    private func flushWithoutDisk() -> FlushResult {
        FlushResult(
            durableBlocks: 0,
            refusedBlocks: core.with { $0.entries.count },
            reason: "the store has no disk tier"
        )
    }

    /// As `flush()`, without blocking a cooperative thread.
    public func flush() async -> FlushResult {
        guard let disk else { return flushWithoutDisk() }
        return await withCheckedContinuation { continuation in
            disk.readers.submit { continuation.resume(returning: disk.flush()) }
        }
    }

    /// Waits until the disk tier is open and its index is loaded, or has failed. True when it is usable.
    @discardableResult
    public func waitUntilWarm() -> Bool { disk?.waitUntilWarm() ?? true }

    /// Waits until the writer has nothing left that fills a segment. For replays that must repeat exactly.
    public func waitForSpill() { disk?.waitForSpill() }

    /// Writes what is only in memory (if so configured), closes the disk tier and ends the threads. Leases that are out
    /// stay readable; every later call is a miss. Safe to call twice.
    public func close() {
        let wasOpen = core.with { core in
            defer { core.isClosed = true }
            return !core.isClosed
        }
        guard wasOpen else { return }
        memoryAhead?.stop()
        scrubber?.stop()
        disk?.stop()
    }

    /// A snapshot of every counter and level.
    public var statistics: StoreStatistics {
        var statistics = core.with { $0.statistics() }
        disk?.complete(&statistics)
        scrubber?.complete(&statistics)
        return statistics
    }

    /// Raw bytes that wait for the disk. For those who ask all the time: a snapshot counts percentiles as well.
    package var queuedBytes: Int { core.with { $0.disk.queuedBytes } }

    // MARK: Inside

    func endPins(_ slots: [SlotID]) {
        core.with { core in for slot in slots { core.unpin(slot) } }
    }

    func secondsNow() -> UInt32 { seconds(monotonicNanoseconds()) }

    func seconds(_ nanoseconds: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: nanoseconds / 1_000_000_000) }
}

/// The core behind its lock.
final class CoreLock: Sendable {
    private let mutex: Mutex<StoreCore>
    /// Told when a region should be mapped ahead of need.
    let demand = RegionDemand()

    init(_ core: consuming sending StoreCore) { mutex = Mutex(core) }

    /// Runs `body` under the lock, then unmaps what it closed.
    func with<Result: Sendable>(_ body: (inout StoreCore) -> Result) -> Result {
        let (result, closed, wantsRegion) = mutex.withLock { core -> (Result, ClosedRegions?, Bool) in
            let result = body(&core)
            let wantsRegion = core.wantsRegionAhead
            core.wantsRegionAhead = false
            if core.closedRegions.isEmpty { return (result, nil, wantsRegion) }
            defer { core.closedRegions.removeAll() }
            return (result, ClosedRegions(core.closedRegions), wantsRegion)
        }
        if wantsRegion { demand.note() }
        // Unmapping is slow, so the last reference goes here, outside the lock.
        _ = closed
        return result
    }

    /// Maps a planned region outside the lock. False when the kernel has no memory: the store lives on with what it has.
    func addRegion(_ plan: SlotTable.RegionPlan) -> Bool { mapRegion(plan) != nil }

    /// As `addRegion`; the region that the store has got. It may close it at any time, which unmaps it.
    func mapRegion(_ plan: SlotTable.RegionPlan) -> WeakRegion? {
        let region = try? Region(slotByteCount: plan.slotByteCount, slotCount: plan.slotCount)
        // Handed over whole: nobody else knows the region yet.
        nonisolated(unsafe) let made = region
        let isAdded = with { core in
            if let made = unsafe made, core.slots.addRegion(made, plan: plan) { return true }
            core.slots.cancelRegion(plan)
            return false
        }
        return isAdded ? WeakRegion(region) : nil
    }
}

/// A region without a hold on it: what the store closes is unmapped at once.
struct WeakRegion {
    private(set) weak var region: Region?
    init(_ region: Region?) { self.region = region }
}

/// @unchecked Sendable: the regions left the core and nobody else refers to them.
private struct ClosedRegions: @unchecked Sendable {
    let regions: [Region]
    init(_ regions: [Region]) { self.regions = regions }
}

/// What `match` found.
public struct PrefixMatch: Sendable, Hashable {
    /// The tier of each leading block that is stored.
    public let tiers: [Tier]
    /// True while the index of the disk tier is still being loaded: a miss may become a hit in a moment.
    public let isWarming: Bool
    /// Leading blocks that are stored.
    public var count: Int { tiers.count }
    /// Whether `acquire` would read from disk.
    public var needsDisk: Bool { tiers.contains(.disk) }

    package init(tiers: [Tier], isWarming: Bool) {
        self.tiers = tiers
        self.isWarming = isWarming
    }
}

/// What `flush` achieved.
public struct FlushResult: Sendable, Hashable {
    /// Blocks on disk now.
    public let durableBlocks: Int
    /// Blocks that are still only in memory.
    public let refusedBlocks: Int
    /// Why, when some are.
    public let reason: String?

    package init(durableBlocks: Int, refusedBlocks: Int, reason: String?) {
        self.durableBlocks = durableBlocks
        self.refusedBlocks = refusedBlocks
        self.reason = reason
    }
}
