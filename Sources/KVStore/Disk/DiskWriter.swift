/// The writer thread's loop: open, load, then write, reclaim and tidy until told to stop.
///
/// Lives on one thread. Trouble with the disk ends in a pause and another try, never in an exception to the caller:
/// the memory tier goes on, and `stopAccepting` makes the core stop counting on the disk.
final class DiskWriter {
    private let tier: DiskTier
    private var core: CoreLock { tier.core }
    private var configuration: DiskConfiguration { tier.configuration }
    private var log: SegmentLog?
    /// What segments are written in, kept from one to the next.
    private let buffer = WriteBuffer()
    private var pauseSeconds = 0.5
    private var retryNanoseconds: UInt64?
    private var lastPartialSeal: UInt64 = 0
    /// The failure that was reported last and is not known to be over: what stays wrong is said once.
    private var reportedProblem: KVStoreError.Code?
    private var allocatedBytes = 0
    private var writeSpeed = WriteSpeed()
    private var conditions = WriteConditions()
    /// Sequence of the next record: recency that survives a restart, whatever the clock does.
    private var nextSequence: UInt64 = 1

    /// Bytes that may be carried over, a token bucket: every new byte written earns `carryPerNewByte`, so write
    /// amplification stays below 1.28 however hot the segments are; unused tokens keep for two segments' worth.
    private var carryTokens = 0
    private static let carryPerNewByte = 0.28
    /// Growth of the index and its logs between two measurements: a write buffer that is flushed while its log still
    /// stands, and the output of a compaction beside its input. With half of it, a directory of 64 MiB was seen 0.8 MiB
    /// above its cap for a moment.
    private var indexGrowthBytes: Int { max(2 << 20, configuration.capacityBytes / 512) }

    init(tier: DiskTier) { self.tier = tier }

    func run() {
        if !isStopping { openLog() }
        // Engines wait for what is loaded above, but not for what is written below.
        DiskThread.letOthersGoFirst()
        while !isStopping {
            if log == nil { openLog() }
            waitForWork()
            if log != nil { doWork() }
        }
        finish()
    }

    private var isStopping: Bool { tier.workMonitor.update { $0.isStopping } }

    // MARK: Opening

    private func openLog() {
        if let retryNanoseconds, monotonicNanoseconds() < retryNanoseconds { return }
        do throws(KVStoreError) {
            let opened = try SegmentLog(directory: configuration.path, options: SegmentLogOptions(keepsRows: true))
            log = opened
            reportRecovery(opened.recovery)
            for row in tier.namespaceRows { try opened.putNamespace(row) }
            measure()
            // From here on removals go straight to the log; those that came earlier go now, before rows are read.
            core.with { $0.disk.isWarming = true }
            tier.setLog(opened)
            tier.setState(.warming)
            tier.writePendingRemovals(opened)
            var loader = IndexLoader(core: core, log: opened, keepsIndex: tier.warmUp.isOn)
            nextSequence = try loader.load(stopping: { self.isStopping }) + 1
            core.with { core in
                core.disk.isWarming = false
                core.disk.removedWhileWarming = []
                core.disk.tenantsPurgedWhileWarming = []
                core.disk.accepts = true
                _ = core.enqueueAllResidentIfWriteBack()
            }
            retryNanoseconds = nil
            if let index = loader.index, !isStopping { tier.warmUp.start(index, log: opened, tier: tier) }
            tier.setState(.running)
        } catch {
            tier.setLog(nil)
            log?.close()
            log = nil
            // What was loaded before the error.
            core.with { $0.forgetDisk() }
            fail(error)
        }
    }

    private func reportRecovery(_ recovery: RecoveryReport) {
        guard recovery.wasRepaired else { return }
        tier.report(
            .warning,
            "the disk tier in \(configuration.path) was damaged and has been repaired: "
                + "\(recovery.segmentsSalvaged) segments kept, \(recovery.filesRefused) files dropped"
        )
    }

    /// What cannot heal by itself is said once and left alone; all else is tried again, ever more slowly.
    private func fail(_ error: KVStoreError) {
        core.with { core in
            core.counters.diskErrors += 1
            core.disk.isWarming = false
            core.stopAccepting()
        }
        let permanent: [KVStoreError.Code] = [.foreignDirectory, .futureFormat, .invalidArgument]
        if permanent.contains(error.code) {
            retryNanoseconds = .max
            tier.setState(.failed(error.description))
            tier.report(.warning, "the disk tier is off: \(error.message)")
            return
        }
        retryNanoseconds = monotonicNanoseconds() + UInt64(pauseSeconds * 1e9)
        tier.setState(.paused(error.description))
        if reportedProblem != error.code {
            reportedProblem = error.code
            tier.report(.warning, "the disk tier pauses and tries again, ever more rarely: \(error.message)")
        }
        pauseSeconds = min(30, pauseSeconds * 2)
    }

    /// A segment was sealed, so whatever was wrong is over.
    private func noteWritten() {
        pauseSeconds = 0.5
        guard reportedProblem != nil else { return }
        reportedProblem = nil
        tier.report(.info, "the disk tier writes again")
    }

    // MARK: The loop

    private func waitForWork() {
        var deadline = monotonicNanoseconds() + 200_000_000
        if let delay = configuration.writeBackDelaySeconds {
            deadline = min(deadline, monotonicNanoseconds() + UInt64(delay * 1e8))
        }
        _ = tier.workMonitor.wait(untilNanoseconds: deadline) { work -> Bool? in
            let isAsked = work.isNudged || work.askedFlushes > work.doneFlushes || work.askedSpills > work.doneSpills
            guard isAsked || work.isStopping else { return nil }
            work.isNudged = false
            return true
        }
        // Without a log nobody can be served; whoever waits gets the reason.
        if log == nil { answerWaiters(reason: problem) }
    }

    private var problem: String? {
        tier.workMonitor.update { work in
            switch work.state {
            case .paused(let why), .failed(let why): why
            default: nil
            }
        }
    }

    private func answerWaiters(reason: String?) {
        tier.workMonitor.update { work in
            if work.askedFlushes > work.doneFlushes { work.lastFlushReason = reason }
            work.doneFlushes = work.askedFlushes
            work.doneSpills = work.askedSpills
        }
    }

    private func doWork() {
        let (flushes, spills, tenants) = tier.workMonitor.update { work in
            defer { work.tenantsToFlush = [] }
            return (work.askedFlushes, work.askedSpills, work.tenantsToFlush)
        }
        let isFlush = flushes > tier.workMonitor.update({ $0.doneFlushes })
        if isPaused { return answerWaiters(reason: problem) }
        resumeIfPaused()
        if isFlush { core.with { _ = $0.enqueueAllResident(ofTenants: tenants) } }
        core.with { $0.shrinkToQuotas() }
        // A region that drains waits for its last blocks, and metadata may wait for that region.
        let isDraining = core.with { $0.slots.hasDrainingRegion }
        let writesPartial = isFlush || configuration.writeThrough || queueAged() || isDraining
        if let log { tier.writePendingRemovals(log) }
        do throws(KVStoreError) {
            try writeSegments(partial: writesPartial)
            try dropDeadSegments()
            try forgetRows(atLeast: isFlush || writesPartial ? 1 : 1024)
        } catch {
            writeFailed(error)
        }
        let reason = problem
        tier.workMonitor.update { work in
            if isFlush { work.lastFlushReason = reason }
            work.doneFlushes = max(work.doneFlushes, flushes)
            work.doneSpills = max(work.doneSpills, spills)
        }
    }

    private var isPaused: Bool { retryNanoseconds.map { monotonicNanoseconds() < $0 } ?? false }

    private func resumeIfPaused() {
        guard retryNanoseconds != nil else { return }
        retryNanoseconds = nil
        core.with { core in
            core.disk.accepts = true
            _ = core.enqueueAllResidentIfWriteBack()
        }
        tier.setState(.running)
    }

    /// Queues blocks that reached half of the write-back delay; tells whether to seal what waits, full or not. Together
    /// a block is on disk before it is `writeBackDelaySeconds` old, and such seals are at least 0.3 delays apart.
    private func queueAged() -> Bool {
        guard let delay = configuration.writeBackDelaySeconds else { return false }
        let now = monotonicNanoseconds()
        let age = UInt64(delay * 0.5e9)
        let seconds = UInt32(truncatingIfNeeded: (now - min(now, age)) / 1_000_000_000)
        core.with { $0.enqueueAged(committedBy: delay < 4 ? seconds &+ 1 : seconds) }
        guard core.with({ $0.disk.queuedBlocks > 0 }), now - lastPartialSeal > UInt64(delay * 0.3e9) else {
            return false
        }
        lastPartialSeal = now
        return true
    }

    // MARK: Writing

    private func writeSegments(partial: Bool) throws(KVStoreError) {
        let segmentBytes = tier.segmentBytes
        while true {
            let queued = core.with { $0.disk.queuedBytes }
            guard queued >= segmentBytes || (partial && queued > 0) else { return }
            guard let log else { return }
            // Rows of blocks that left the tier go first: a removed parent that is stored again must not find them.
            try forgetRows(atLeast: 1)
            // Begun before the batch is chosen: a removal after that is also about what is yet to be appended.
            let writer = try log.beginSegment(buffer)
            let batch = core.with { $0.takeSpillBatch(maximumBytes: segmentBytes) }
            if batch.isEmpty { return }
            try write(batch, writer)
        }
    }

    /// Writes one segment: what is carried over first (it is older), then the batch.
    private func write(_ batch: [SpillItem], _ writer: SegmentWriter) throws(KVStoreError) {
        let batchBytes = batch.reduce(0) { $0 + $1.rawByteCount + 1024 }
        carryTokens = min(
            2 * tier.segmentBytes,
            carryTokens + Int(Double(batchBytes) * Self.carryPerNewByte)
        )
        conditions = WriteConditions(
            diskBytesPerSecond: writeSpeed.bytesPerSecond,
            isBacklogged: core.with { $0.disk.queuedBytes } >= 2 * tier.segmentBytes
        )
        var reclaims: [StoreCore.ReclaimPlan] = []
        let firstSequence = nextSequence
        nextSequence += UInt64(batch.count)
        do throws(KVStoreError) {
            reclaims = try planReclaims(for: batchBytes)
            var written: [SpillItem] = []
            var stored: [Int] = []
            for item in reclaims.flatMap(\.carried) {
                // See `StoreCore.batchLimit`; what is not carried over goes with its old segment.
                guard written.count < 3 << 14, let byteCount = try carry(item, to: writer) else { continue }
                written.append(item)
                stored.append(byteCount)
            }
            for (number, item) in batch.enumerated() {
                stored.append(try append(item, sequence: firstSequence + UInt64(number), to: writer))
                written.append(item)
            }
            let sealed = try writer.seal()
            writeSpeed.note(byteCount: sealed.info.fileByteCount, nanoseconds: sealed.waitNanoseconds)
            core.with { core in
                core.finishSpill(
                    written,
                    segment: sealed.info.id,
                    byteCount: sealed.info.fileByteCount,
                    storedByteCounts: stored,
                    staleOrdinals: Set(sealed.staleRows.map(\.ordinal))
                )
            }
        } catch {
            core.with { $0.failSpill(batch) }
            throw error
        }
        noteWritten()
        for plan in reclaims { try drop(plan.segment) }
        measure()
    }

    /// Chooses segments to drop so that the batch and what is carried over fit under the cap, and so that room for the
    /// next segment is left afterwards: old segments only go once the new one is sealed, so both must fit for a moment.
    private func planReclaims(for batchBytes: Int) throws(KVStoreError) -> [StoreCore.ReclaimPlan] {
        let roomForNext = tier.segmentBytes * 5 / 4 + indexGrowthBytes
        var plans: [StoreCore.ReclaimPlan] = []
        var growth = batchBytes
        measure()
        var roomNow = configuration.capacityBytes - indexGrowthBytes - allocatedBytes - batchBytes
        while allocatedBytes + growth + roomForNext > configuration.capacityBytes {
            let excluded = Set(plans.map(\.segment))
            let carryLimit = max(0, min(carryTokens, roomNow))
            guard let plan = core.with({ $0.planReclaim(excluding: excluded, carryLimitBytes: carryLimit) }) else {
                throw KVStoreError(
                    .diskFull,
                    "the disk tier's cap of \(configuration.capacityBytes) bytes leaves no room; raise it"
                )
            }
            plans.append(plan)
            growth += plan.carriedBytes - plan.byteCount
            carryTokens -= plan.carriedBytes
            roomNow -= plan.carriedBytes
        }
        return plans
    }

    private func makeRow(_ item: SpillItem, sequence: UInt64) -> IndexRow {
        IndexRow(
            key: item.key,
            parent: item.parentKey,
            fingerprint: item.fingerprint,
            tenant: item.tenant,
            rawByteCount: UInt32(item.rawByteCount),
            uses: UInt32(item.uses),
            sequence: sequence
        )
    }

    /// Codes a block from its slot straight into the segment's file. Returns the length of its record.
    private func append(_ item: SpillItem, sequence: UInt64, to writer: SegmentWriter) throws(KVStoreError) -> Int {
        guard case .memory(_, let digest) = item.source, let geometry = item.geometry, let memory = item.memory else {
            preconditionFailure("a batch is of blocks in memory whose geometry is known (`canQueue`)")
        }
        let identity = RecordIdentity(
            key: item.key,
            parent: item.parentKey,
            fingerprint: item.fingerprint,
            sequence: sequence
        )
        let longest = BlockRecord.maximumByteCount(rawByteCount: item.rawByteCount, geometry: geometry)
        let row = try unsafe writer.append(makeRow(item, sequence: sequence), longest: longest) { room in
            // The item's pin keeps the slot until the segment is finished or has failed.
            unsafe BlockRecord.encode(
                identity,
                geometry: geometry,
                codec: configuration.codec,
                conditions: conditions,
                raw: memory.bytes(item.rawByteCount),
                rawDigest: digest,
                into: room
            )
        }
        return Int(row.storedByteCount)
    }

    /// Appends a record to be carried over; nil when it cannot be read (its block is dropped with the old segment).
    private func carry(_ item: SpillItem, to writer: SegmentWriter) throws(KVStoreError) -> Int? {
        guard case .segment(let segment, let ordinal) = item.source else { return nil }
        let row = makeRow(item, sequence: nextSequence)
        nextSequence += 1
        let origin = RecordPosition(segment: segment, ordinal: UInt32(ordinal))
        do throws(KVStoreError) {
            // The record is lent for the length of the closure.
            return try unsafe log?.read(segment: segment, ordinal: UInt32(ordinal)) {
                record throws(KVStoreError) -> Int in
                try unsafe writer.append(row, record: record, carriedFrom: origin)
                return record.count
            }
        } catch {
            guard error.code == .corrupt else { throw error }
            core.with { $0.counters.corruptBlocks += 1 }
            return nil
        }
    }

    private func drop(_ segment: UInt32) throws(KVStoreError) {
        core.with { $0.finishReclaim(segment) }
        try forgetRows(atLeast: 1)
        try log?.dropSegment(segment)
    }

    /// Segments without a single live record cost space for nothing.
    private func dropDeadSegments() throws(KVStoreError) {
        let dead = core.with { core in core.disk.segments.filter { $0.value.liveCount == 0 }.map(\.key).sorted() }
        for segment in dead { try drop(segment) }
        if !dead.isEmpty { measure() }
    }

    private func forgetRows(atLeast count: Int) throws(KVStoreError) {
        let rows = core.with { core -> [BlockIdentity] in
            guard core.disk.rowsToForget.count >= count else { return [] }
            defer { core.disk.rowsToForget.removeAll() }
            // A block that came back meanwhile has a new row of its own.
            return core.disk.rowsToForget.filter { row in
                core.entries.find(row.key).map { !core.entries[$0].isOnDisk } ?? true
            }
        }
        if !rows.isEmpty { try log?.forget(rows) }
    }

    private func measure() {
        allocatedBytes = Int(clamping: log?.allocatedBytes() ?? 0)
        tier.noteAllocated(allocatedBytes)
    }

    /// A full disk leaves the log as it was: wait and go on. Any other failure means the handle must not be written to
    /// again (RocksDB's own checks may abort the process): close it, and open it anew after a pause.
    private func writeFailed(_ error: KVStoreError) {
        let isBroken = log?.isBroken ?? true
        fail(error)
        guard isBroken else { return }
        tier.setLog(nil)
        log?.close()
        log = nil
        core.with { $0.forgetDisk() }
    }

    private func finish() {
        if let log, retryNanoseconds == nil {
            if configuration.flushOnClose { core.with { _ = $0.enqueueAllResident() } }
            do throws(KVStoreError) {
                try writeSegments(partial: true)
                try forgetRows(atLeast: 1)
                if configuration.flushOnClose {
                    nextSequence = try RowRefresh(core: core, log: log).run(from: nextSequence)
                }
            } catch {
                tier.report(.warning, "not everything could be written at close: \(error.message)")
            }
            tier.setLog(nil)
            log.close()
        }
        tier.setState(.stopped)
        answerWaiters(reason: "the store is closed")
    }
}
