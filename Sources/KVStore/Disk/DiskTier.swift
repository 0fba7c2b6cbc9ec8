internal import Synchronization

/// The disk tier at work: opens the log, loads its index, writes what the core queued, reads what lookups claimed.
///
/// Decisions are the core's (`StoreCore+Disk`); this class moves bytes. One writer thread does everything that changes
/// the log, so nothing there needs a second thought about order; readers are many. A block's bytes are copied once on
/// the way down, from the slot into what the disk takes them from (see `SequentialFile`), and once on the way up (see
/// `ReadRun`). What crosses to the kernel is counted in a test.
final class DiskTier: Sendable {
    let configuration: DiskConfiguration
    let core: CoreLock
    let readers: ReaderPool
    let warmUp: WarmUp
    let segmentBytes: Int
    private let onEvent: (@Sendable (StoreEvent) -> Void)?
    /// The open log. Readers take a reference under the lock and read outside it.
    private let log = Mutex<SegmentLog?>(nil)
    private let work = Monitor(Work())
    private let writer = BackgroundThread()
    /// Descriptions of namespaces to be stored with the segments.
    private let descriptions = Mutex<[BlockKey: NamespaceRow]>([:])
    /// Removals that the log does not have yet.
    private let pendingRemovals = Mutex(PendingRemovals())
    /// Held while they are being written: whoever finds none left knows that theirs are down.
    private let removalWriting = Mutex<Void>(())
    private let allocatedBytes = Atomic<Int>(0)

    private struct PendingRemovals {
        var blocks: [BlockIdentity] = []
        var tenants: Set<UInt64> = []
    }

    /// What the writer thread is asked to do, and how far it is.
    struct Work {
        var isStopping = false
        /// Set by `nudge`: look at the queue.
        var isNudged = false
        var askedFlushes = 0
        /// Whose blocks the flushes asked for are about; nil for everybody's.
        var tenantsToFlush: Set<UInt64>? = []
        var doneFlushes = 0
        var askedSpills = 0
        var doneSpills = 0
        var state = State.opening
        var lastFlushReason: String?
    }

    enum State: Equatable {
        case opening
        case warming
        case running
        /// Cannot write now; tried again at `retryNanoseconds`.
        case paused(String)
        /// Will not heal by itself.
        case failed(String)
        case stopped
    }

    init(_ configuration: DiskConfiguration, store: Configuration, core: CoreLock) {
        self.configuration = configuration
        self.core = core
        onEvent = store.onEvent
        segmentBytes = configuration.segmentBytes(spillBufferBytes: store.memoryCapacityBytes / 8)
        readers = ReaderPool(threadCount: configuration.readerThreads)
        warmUp = WarmUp(fraction: store.warmUpFraction)
    }

    func start() {
        core.with { $0.disk.isWarming = true }
        writer.start(name: "kvstore-write") { [self] in
            let loop = DiskWriter(tier: self)
            loop.run()
        }
    }

    /// Ends the threads; waits for the last write.
    func stop() {
        work.update { $0.isStopping = true }
        writer.join()
        warmUp.stop()
        readers.stop()
    }

    // MARK: Asked by the store

    /// The queue may have grown enough to be worth a segment.
    func nudge() {
        let isWorth = core.with { $0.disk.queuedBytes >= segmentBytes }
        if isWorth || configuration.writeThrough { work.update { $0.isNudged = true } }
    }

    func waitUntilWarm() -> Bool {
        work.wait(untilNanoseconds: nil) { work -> Bool? in
            switch work.state {
            case .opening, .warming: nil
            case .running: true
            case .paused, .failed, .stopped: false
            }
        } ?? false
    }

    func waitForSpill() {
        let ticket = work.update { work -> Int in
            work.askedSpills += 1
            return work.askedSpills
        }
        _ = work.wait(untilNanoseconds: nil) { work -> Bool? in
            work.doneSpills >= ticket || work.state == .stopped ? true : nil
        }
    }

    /// Writes what is only in memory, of one tenant or of all.
    func flush(tenant: UInt64? = nil) -> FlushResult {
        let quotaEffects = core.with { $0.diskQuotaEffects }
        let ticket = work.update { work -> Int in
            work.askedFlushes += 1
            if let tenant { work.tenantsToFlush?.insert(tenant) } else { work.tenantsToFlush = nil }
            return work.askedFlushes
        }
        let reason = work.wait(untilNanoseconds: nil) { work -> String?? in
            if work.doneFlushes >= ticket { return .some(work.lastFlushReason) }
            return work.state == .stopped ? .some("the store is closed") : nil
        }
        let (durable, refused, isOverQuota) = core.with { core in
            let (durable, refused) = core.durableBlocks(ofTenant: tenant)
            return (durable, refused, core.diskQuotaEffects != quotaEffects)
        }
        let quotaReason = isOverQuota ? "a tenant's disk quota has no room for all of its blocks" : nil
        let why = refused == 0 ? nil : (reason ?? nil) ?? quotaReason ?? "blocks were stored while the flush ran"
        return FlushResult(durableBlocks: durable, refusedBlocks: refused, reason: why)
    }

    /// Makes a removal last; waits for the log to be opened after a start. While the log pauses, or cannot be written, the
    /// removal is kept and written as soon as it can be.
    func recordRemoval(_ keys: [BlockKey], namespace: Namespace) {
        let tenant = namespace.identity.tenantHash
        let identities = keys.map { BlockIdentity(tenant: tenant, fingerprint: namespace.fingerprint, key: $0) }
        pendingRemovals.withLock { $0.blocks.append(contentsOf: identities) }
        writeRemovalsNow()
    }

    /// As `recordRemoval`, for all blocks of a tenant.
    func recordPurge(tenant: UInt64) {
        pendingRemovals.withLock { _ = $0.tenants.insert(tenant) }
        writeRemovalsNow()
        // Segments may have no live record now.
        work.update { $0.isNudged = true }
    }

    private func writeRemovalsNow() {
        _ = work.wait(untilNanoseconds: nil) { $0.state == .opening ? nil : true }
        if let log = currentLog { return writePendingRemovals(log) }
        report(.warning, "a removal is not on disk yet: the disk tier is not open; a crash now may bring blocks back")
    }

    func writePendingRemovals(_ log: SegmentLog) {
        removalWriting.withLock { _ in takeAndWriteRemovals(log) }
    }

    private func takeAndWriteRemovals(_ log: SegmentLog) {
        let taken = pendingRemovals.withLock { pending -> PendingRemovals in
            defer { pending = PendingRemovals() }
            return pending
        }
        guard !taken.blocks.isEmpty || !taken.tenants.isEmpty else { return }
        do throws(KVStoreError) {
            for tenant in taken.tenants { try log.purge(tenant: tenant, includingOpenSegments: true) }
            try log.remove(taken.blocks, includingOpenSegments: true)
        } catch {
            // Those that are down already do no harm twice.
            pendingRemovals.withLock { pending in
                pending.blocks.append(contentsOf: taken.blocks)
                pending.tenants.formUnion(taken.tenants)
            }
            report(.warning, "a removal is not on disk yet (\(error)); a crash before it is may bring blocks back")
        }
    }

    /// Keeps a namespace's description for the segments to come.
    func remember(_ identity: NamespaceIdentity) {
        let row = NamespaceRow(
            fingerprint: identity.fingerprint,
            tenant: identity.tenantHash,
            description: Array(identity.description.utf8)
        )
        descriptions.withLock { $0[row.fingerprint] = row }
    }

    var namespaceRows: [NamespaceRow] { descriptions.withLock { Array($0.values) } }

    func complete(_ statistics: inout StoreStatistics) {
        statistics.disk.bytes = allocatedBytes.load(ordering: .relaxed)
        statistics.disk.capacityBytes = configuration.capacityBytes
        let state = work.update { $0.state }
        switch state {
        case .paused(let why), .failed(let why): statistics.diskProblem = why
        default: break
        }
    }

    // MARK: Reading

    var currentLog: SegmentLog? { log.withLock { $0 } }

    func setLog(_ new: SegmentLog?) { log.withLock { $0 = new } }

    /// Reads every claimed record into its slot. The caller's thread takes part, so the read goes on even when all
    /// readers are busy; it returns when the last record is in.
    func read(_ claims: [LoadClaim], blocks: [PinnedBlock], namespace: Namespace) -> [LoadClaim] {
        guard let log = currentLog else {
            return claims.map { claim in
                var claim = claim
                claim.outcome = .unreadable
                return claim
            }
        }
        let run = ReadRun(claims: claims, blocks: blocks, namespace: namespace, log: log)
        let helperCount = min(configuration.readerThreads, run.pieceCount - 1)
        for _ in 0..<max(0, helperCount) { readers.submit { run.work() } }
        run.work()
        return run.finish()
    }

    // MARK: Used by the writer

    func noteAllocated(_ bytes: Int) { allocatedBytes.store(bytes, ordering: .relaxed) }

    func setState(_ state: State) { work.update { $0.state = state } }

    var workMonitor: Monitor<Work> { work }

    /// Whether the store is being closed.
    var isStopping: Bool { work.wait(untilNanoseconds: 0) { $0.isStopping } ?? true }

    /// Sleeps, but not into the end of the store.
    func waitUnlessStopping(nanoseconds: UInt64) {
        _ = work.wait(untilNanoseconds: monotonicNanoseconds() + nanoseconds) { $0.isStopping ? true : nil }
    }

    func report(_ severity: StoreEvent.Severity, _ message: String) {
        onEvent?(StoreEvent(severity: severity, message: message))
    }
}
