import Foundation
import KVStoreTestSupport

@testable import KVStore

/// What a model run found wrong. The test adds the seed and the operations so far.
struct ModelFailure: Error {
    let what: String
}

/// Random operations on a store, checked against a dictionary.
///
/// The dictionary knows, for every key ever stored, which bytes a lookup may return: those of the last commit, none after
/// a removal. A miss is always allowed (the store is a cache); other bytes never are. Every commit writes its own version
/// of a block's bytes, so that a block that comes back from the past is told from the present one.
final class ModelRun {
    /// A namespace of the run, opened anew after each restart.
    struct Space {
        let identity: NamespaceIdentity
        var namespace: Namespace
    }

    struct Block {
        let space: Int
        let path: [UInt32]
        /// Versions whose bytes may be served; empty when the block was removed.
        var allowed: Set<UInt64> = []
    }

    /// Noncopyable values do not go into arrays; these boxes do.
    final class HeldLease {
        var lease: BlockLease?
        let keys: [BlockKey]
        let versions: [UInt64]
        init(_ lease: consuming BlockLease, keys: [BlockKey], versions: [UInt64]) {
            self.lease = consume lease
            self.keys = keys
            self.versions = versions
        }
    }

    final class HeldReservation {
        var reservation: BlockReservation?
        let keys: [BlockKey]
        let version: UInt64
        /// Keys removed since: their blocks must not become visible.
        var revoked: Set<BlockKey> = []
        init(_ reservation: consuming BlockReservation, keys: [BlockKey], version: UInt64) {
            self.reservation = consume reservation
            self.keys = keys
            self.version = version
        }
    }

    let plan: ModelPlan
    var random: SeededRandom
    var store: BlockStore?
    var spaces: [Space] = []
    var blocks: [BlockKey: Block] = [:]
    var knownPaths: [[UInt32]] = [[0]]
    var leases: [HeldLease] = []
    var reservations: [HeldReservation] = []
    var nextVersion: UInt64 = 1
    private(set) var log: [String] = []
    private(set) var totals = ModelTotals()
    /// Inodes of every region seen, to prove at the end that none is left.
    private var regionInodes: Set<UInt64> = []

    init(_ plan: ModelPlan) throws {
        self.plan = plan
        random = SeededRandom(seed: plan.seed &* 0x9E37_79B9 &+ 17)
        try open()
    }

    var operations: String { log.enumerated().map { "  \($0.offset): \($0.element)" }.joined(separator: "\n") }

    // MARK: The run

    func run() throws {
        for step in 0..<plan.steps {
            try performOne()
            try checkCaps(walkDirectory: step % 16 == 15)
            if step % 4 == 3 { try checkInvariants() }
        }
        try finish()
    }

    private func performOne() throws {
        totals.operations += 1
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<30: try storeChain()
        case 30..<38: try reserveAndHold()
        case 38..<44: try endReservation()
        case 44..<66: try acquire()
        case 66..<72: try endLease()
        case 72..<80: try match()
        case 80..<84: try prefetch()
        case 84..<90: try remove()
        case 90..<94: try flush()
        case 94..<97: waitForSpill()
        default: plan.hasDisk ? try reopen() : try storeChain()
        }
    }

    private func note(_ text: String) { log.append(text) }

    func fail(_ what: String) -> ModelFailure { ModelFailure(what: what) }

    private func anySpace() -> Int { Int.random(in: 0..<spaces.count, using: &random) }

    /// A path that was used before, a longer one, or one that branches off.
    private func anyPath() -> [UInt32] {
        var path = knownPaths.randomElement(using: &random)!
        switch Int.random(in: 0..<4, using: &random) {
        case 0: break
        case 1: path = Array(path.prefix(Int.random(in: 1...path.count, using: &random)))
        default: path = Array(path.prefix(Int.random(in: 0...path.count, using: &random)))
        }
        if path.isEmpty || Bool.random(using: &random) {
            for _ in 0..<Int.random(in: 1...plan.maximumGrowth, using: &random) {
                path.append(UInt32.random(in: 0..<(path.isEmpty ? 6 : 3), using: &random))
            }
        }
        path = Array(path.prefix(plan.maximumDepth))
        knownPaths.append(path)
        return path
    }

    private func anyPrefix() -> (space: Int, prefix: Prefix) {
        let space = anySpace()
        let path = anyPath()
        let prefix = spaces[space].namespace.prefix(tokens: path)
        for (index, key) in prefix.keys.enumerated() where blocks[key] == nil {
            blocks[key] = Block(space: space, path: Array(path[...index]))
        }
        return (space, prefix)
    }

    private func name(_ prefix: Prefix) -> String {
        blocks[prefix.keys.last!]!.path.map(String.init).joined()
    }

    private func takeVersion() -> UInt64 {
        defer { nextVersion += 1 }
        return nextVersion
    }

    // MARK: Storing

    private func storeChain() throws {
        let (space, prefix) = anyPrefix()
        let version = takeVersion()
        note("store space \(space) path \(name(prefix)) version \(version)")
        var asked: [BlockKey] = []
        let visible = store!.store(prefix) { number, span in
            asked.append(prefix.keys[number])
            Payload.fill(&span, key: prefix.keys[number], version: version)
        }
        totals.storedBlocks += visible
        try committed(asked, revoked: [], version: version, visible: visible)
    }

    private func committed(_ keys: [BlockKey], revoked: Set<BlockKey>, version: UInt64, visible: Int) throws {
        let possible = keys.filter { !revoked.contains($0) }
        guard visible <= possible.count else {
            throw fail("\(visible) blocks became visible, at most \(possible.count) could")
        }
        for key in possible {
            // When all became visible, the new bytes are the only right ones. Otherwise it is open which did.
            if visible == keys.count { blocks[key]!.allowed = [version] } else { blocks[key]!.allowed.insert(version) }
        }
    }

    private func reserveAndHold() throws {
        guard reservations.count < 4 else { return try endReservation() }
        let (space, prefix) = anyPrefix()
        let version = takeVersion()
        note("reserve space \(space) path \(name(prefix)) version \(version)")
        guard var reservation = store!.reserve(prefix) else { return }
        var keys: [BlockKey] = []
        for index in 0..<reservation.count {
            let number = reservation.blockIndex(at: index)
            keys.append(prefix.keys[number])
            reservation.withMutableBytes(at: index) {
                Payload.fill(&$0, key: prefix.keys[number], version: version)
            }
        }
        reservations.append(HeldReservation(reservation, keys: keys, version: version))
    }

    private func endReservation() throws {
        guard !reservations.isEmpty else { return }
        let held = reservations.remove(at: Int.random(in: 0..<reservations.count, using: &random))
        guard let reservation = held.reservation.take() else { return }
        if Int.random(in: 0..<3, using: &random) == 0 {
            note("abandon version \(held.version)")
            drop(consume reservation)
        } else {
            note("commit version \(held.version)")
            let visible = reservation.commit()
            totals.storedBlocks += visible
            try committed(held.keys, revoked: held.revoked, version: held.version, visible: visible)
        }
    }

    private func drop(_ reservation: consuming BlockReservation) {}

    // MARK: Reading

    private func acquire() throws {
        let (space, prefix) = anyPrefix()
        let memoryOnly = Int.random(in: 0..<8, using: &random) == 0
        note("acquire space \(space) path \(name(prefix))\(memoryOnly ? " from memory" : "")")
        let matched = store!.match(prefix).count
        guard let lease = store!.acquire(prefix, memoryOnly: memoryOnly) else {
            if !plan.hasDisk, matched > 0 { throw fail("match found \(matched) blocks, acquire none") }
            return
        }
        if !plan.hasDisk, matched != lease.count { throw fail("match found \(matched) blocks, acquire \(lease.count)") }
        var versions: [UInt64] = []
        for index in 0..<lease.count {
            let key = prefix.keys[index]
            let version = blocks[key]!.allowed.first { version in
                lease.withBytes(at: index) { Payload.matches($0, key: key, version: version) }
            }
            guard let version else {
                throw fail("block \(index) is served with bytes of none of \(blocks[key]!.allowed.sorted())")
            }
            // What is seen once is what stays.
            blocks[key]!.allowed = [version]
            versions.append(version)
            totals.verifiedBlocks += 1
        }
        if leases.count < 5, Bool.random(using: &random) {
            leases.append(HeldLease(lease, keys: Array(prefix.keys.prefix(versions.count)), versions: versions))
        }
    }

    private func endLease() throws {
        guard !leases.isEmpty else { return }
        note("release")
        try verifyAndRelease(leases.remove(at: Int.random(in: 0..<leases.count, using: &random)))
    }

    private func verifyAndRelease(_ held: HeldLease) throws {
        guard let lease = held.lease.take() else { return }
        for index in 0..<lease.count {
            let isSame = lease.withBytes(at: index) {
                Payload.matches($0, key: held.keys[index], version: held.versions[index])
            }
            if !isSame { throw fail("block \(index) changed under its lease") }
            totals.verifiedBlocks += 1
        }
    }

    private func match() throws {
        let (space, prefix) = anyPrefix()
        note("match space \(space) path \(name(prefix))")
        let found = store!.match(prefix)
        for index in 0..<found.count where blocks[prefix.keys[index]]!.allowed.isEmpty {
            throw fail("match found block \(index), which was removed or never committed")
        }
    }

    private func prefetch() throws {
        let (space, prefix) = anyPrefix()
        note("prefetch space \(space) path \(name(prefix))")
        store!.prefetch(prefix)
    }

    // MARK: Removing, and the whole store

    private func remove() throws {
        let (space, prefix) = anyPrefix()
        let first = Int.random(in: 0..<prefix.keys.count, using: &random)
        note("remove space \(space) path \(name(prefix)) from \(first)")
        store!.remove(prefix, from: first)
        let head = blocks[prefix.keys[first]]!.path
        for (key, block) in blocks where block.space == space && block.path.starts(with: head) {
            blocks[key]!.allowed = []
            for held in reservations where held.keys.contains(key) { held.revoked.insert(key) }
        }
        guard store!.match(prefix).count <= first else { throw fail("removed blocks are still found") }
    }

    private func flush() throws {
        note("flush")
        let result = store!.flush()
        if plan.mustFlushCompletely, reservations.isEmpty, result.refusedBlocks != 0 {
            throw fail("flush left \(result.refusedBlocks) blocks: \(result.reason ?? "no reason")")
        }
    }

    private func waitForSpill() {
        note("wait for spill")
        store!.waitForSpill()
    }

    /// Closes the store and opens it again on the same directory. Leases stay readable over that; reservations may not.
    private func reopen() throws {
        while let held = reservations.popLast() { held.reservation = nil }
        let mustSurvive = plan.mustFlushCompletely ? store!.core.with { Set($0.visibleKeys()) } : []
        let evicted = store!.core.with { $0.counters.diskEvictedBlocks }
        note("reopen with \(mustSurvive.count) blocks")
        store!.close()
        if store!.acquire(spaces[0].namespace.prefix(tokens: [0])) != nil {
            throw fail("a closed store served a block")
        }
        let evictedAtClose = store!.core.with { $0.counters.diskEvictedBlocks } - evicted
        rememberRegions()
        store = nil
        try open()
        let survived = store!.core.with { Set($0.visibleKeys()) }
        let lost = mustSurvive.subtracting(survived).count
        if lost > evictedAtClose { throw fail("\(lost) of \(mustSurvive.count) blocks are gone after a clean close") }
        for key in survived where blocks[key]?.allowed.isEmpty ?? true {
            throw fail("a removed block is back after a restart")
        }
        try checkInvariants()
    }

    private func open() throws {
        let store = try BlockStore(plan.configuration)
        self.store = store
        guard store.waitUntilWarm() else {
            throw fail("the disk tier does not open: \(store.statistics.diskProblem ?? "?")")
        }
        spaces = try plan.identities.map { Space(identity: $0, namespace: try store.namespace($0)) }
    }

    // MARK: Checks

    private func checkCaps(walkDirectory: Bool) throws {
        let statistics = store!.statistics
        if statistics.memory.bytes > statistics.memory.capacityBytes {
            throw fail("\(statistics.memory.bytes) bytes of memory, cap \(statistics.memory.capacityBytes)")
        }
        guard let disk = plan.configuration.disk, walkDirectory else { return }
        let allocated = allocatedBytes(under: disk.path)
        totals.highestDiskBytes = max(totals.highestDiskBytes, allocated)
        if allocated > disk.capacityBytes { throw fail("\(allocated) bytes of disk, cap \(disk.capacityBytes)") }
    }

    private func checkInvariants() throws {
        let problems = store!.core.with { $0.checkInvariants() }
        if !problems.isEmpty { throw fail(problems.prefix(8).joined(separator: "; ")) }
    }

    private func rememberRegions() {
        regionInodes.formUnion(
            store!.core.with { core in core.slots.regions.compactMap { $0.map { inode(of: $0.region.fileDescriptor) } }
            }
        )
    }

    private func finish() throws {
        note("finish")
        while let held = leases.popLast() { try verifyAndRelease(held) }
        while let held = reservations.popLast() { held.reservation = nil }
        // Prefetches and write-back pin slots too, but end on their own.
        let deadline = Date().addingTimeInterval(10)
        var end = store!.statistics
        while end.pinnedSlots > 0, Date() < deadline {
            usleep(500)
            end = store!.statistics
        }
        guard (end.leases, end.reservations, end.pinnedSlots) == (0, 0, 0) else {
            throw fail(
                "\(end.leases) leases, \(end.reservations) reservations, \(end.pinnedSlots) pinned slots are left"
            )
        }
        if end.corruptBlocks > 0 { throw fail("\(end.corruptBlocks) blocks were found corrupt") }
        try checkInvariants()
        totals.add(end)
        rememberRegions()
        store!.close()
        try checkCaps(walkDirectory: true)
        store = nil
        try checkNothingIsLeft()
    }

    /// No descriptor and no mapping of a region outlives its store.
    private func checkNothingIsLeft() throws {
        let left = regionInodes.intersection(openRegionInodes())
        if !left.isEmpty { throw fail("\(left.count) region descriptors are still open") }
        guard plan.seed % 8 == 0 else { return }
        let mapped = regionInodes.intersection(mappedRegionInodes())
        if !mapped.isEmpty { throw fail("\(mapped.count) regions are still mapped") }
    }
}

extension StoreCore {
    /// Keys that a lookup could find: present, with every ancestor present.
    func visibleKeys() -> [BlockKey] {
        (0..<EntryID(entries.highWater)).compactMap { id in
            guard entries.find(entries[id].key) == id else { return nil }
            var member = id
            while member != .none {
                guard entries[member].isPresent else { return nil }
                member = entries[member].parent
            }
            return entries[id].key
        }
    }
}
