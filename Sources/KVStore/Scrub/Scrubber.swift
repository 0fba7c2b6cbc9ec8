internal import Synchronization

/// The scrub at work: one thread that compares blocks with their digests, slowly, in memory and on disk.
///
/// Belongs to the store, not to the disk tier, because memory is scrubbed without a disk too. When and where is decided
/// by `ScrubSchedule`, what follows by `StoreCore+Scrub`; this class reads, hashes and sleeps. One block at a time is
/// pinned, and nothing is read or hashed under the lock.
final class Scrubber: Sendable {
    private let core: CoreLock
    private let disk: DiskTier?
    private let configuration: ScrubConfiguration
    private let onEvent: (@Sendable (StoreEvent) -> Void)?
    private let isStopping = Monitor(false)
    private let thread = BackgroundThread()
    /// When the last pass over each tier ended, 0 before the first.
    private let memoryPassEnd = Atomic<UInt64>(0)
    private let diskPassEnd = Atomic<UInt64>(0)

    /// Nil when both rates are 0.
    init?(_ configuration: Configuration, core: CoreLock, disk: DiskTier?) {
        let scrub = configuration.scrub
        guard scrub.memoryBytesPerSecond > 0 || (scrub.diskBytesPerSecond > 0 && disk != nil) else { return nil }
        self.configuration = scrub
        self.core = core
        self.disk = disk
        onEvent = configuration.onEvent
    }

    func start() {
        thread.start(name: "kvstore-scrub") { [self] in
            var loop = ScrubLoop(scrubber: self)
            loop.run()
        }
    }

    /// Ends the thread, after at most one block. The disk tier must still be open, for the cursor is written now.
    func stop() {
        isStopping.update { $0 = true }
        thread.join()
    }

    /// Adds the age of the last passes.
    func complete(_ statistics: inout StoreStatistics) {
        func age(_ end: UInt64) -> Double? { end == 0 ? nil : Double(monotonicNanoseconds() - end) / 1e9 }
        statistics.memory.scrub.secondsSincePass = age(memoryPassEnd.load(ordering: .relaxed))
        statistics.disk.scrub.secondsSincePass = age(diskPassEnd.load(ordering: .relaxed))
    }

    // MARK: One block

    static func digest(of target: ScrubBlock) -> UInt64 {
        // Pinned by whoever made the target, so the memory is ours to read.
        unsafe XXH3.digest(target.block.memory.bytes(target.byteCount))
    }

    /// A record is damaged: checks the copy in memory, if there is one, and acts on what that is worth.
    static func repair(_ record: ScrubRecord, _ core: CoreLock) -> ScrubVerdict {
        let (copy, verdict) = core.with { core -> (ScrubBlock?, ScrubVerdict) in
            var verdict = ScrubVerdict.moved
            let copy = core.pinForRepair(record, verdict: &verdict)
            return (copy, verdict)
        }
        guard let copy else { return verdict }
        let digest = digest(of: copy)
        return core.with { $0.finishRepair(record, copy, digest: digest) }
    }

    /// The thread's own state: a schedule for each tier, and what is to be reported at the end of a pass.
    private struct ScrubLoop {
        let scrubber: Scrubber
        private var core: CoreLock { scrubber.core }
        private var memory: ScrubSchedule
        private var records: ScrubSchedule
        private let cursorFile: ScrubCursor?
        private var savedNanoseconds: UInt64
        private var savedCursor: UInt64?
        private var damagedInPass: [Tier: Int] = [:]

        private static let saveIntervalNanoseconds: UInt64 = 30_000_000_000
        /// How long the scrub of the disk waits when there is nothing to read it with.
        private static let retryNanoseconds: UInt64 = 200_000_000

        init(scrubber: Scrubber) {
            self.scrubber = scrubber
            let configuration = scrubber.configuration
            let now = monotonicNanoseconds()
            func schedule(_ bytesPerSecond: Int) -> ScrubSchedule {
                ScrubSchedule(
                    bytesPerSecond: bytesPerSecond,
                    passIntervalNanoseconds: UInt64(configuration.passIntervalSeconds * 1e9),
                    emptyPassNanoseconds: UInt64(min(1, configuration.passIntervalSeconds) * 1e9),
                    firstPassNanoseconds: now + UInt64(configuration.startDelaySeconds * 1e9)
                )
            }
            memory = schedule(configuration.memoryBytesPerSecond)
            records = schedule(scrubber.disk == nil ? 0 : configuration.diskBytesPerSecond)
            cursorFile = scrubber.disk.map { ScrubCursor(directory: $0.configuration.path) }
            savedNanoseconds = now
        }

        mutating func run() {
            while !isStopping {
                let now = monotonicNanoseconds()
                if memory.isDue(at: now) { scrubMemory() }
                if records.isDue(at: now) { scrubDisk() }
                let next = [memory, records].compactMap { $0.nextCheck(after: monotonicNanoseconds()) }.min()
                if let next, next > now { sleep(until: next) }
            }
            saveCursor()
        }

        private var isStopping: Bool { scrubber.isStopping.wait(untilNanoseconds: 0) { $0 } ?? true }

        private func sleep(until nanoseconds: UInt64) {
            _ = scrubber.isStopping.wait(untilNanoseconds: nanoseconds) { $0 ? true : nil }
        }

        // MARK: Memory

        /// Checks blocks in memory for as long as the schedule allows.
        private mutating func scrubMemory() {
            if memory.end == nil {
                memory.beginPass(end: UInt64(core.with { $0.slots.slotIDCount }), at: monotonicNanoseconds())
            }
            while memory.isDue(at: monotonicNanoseconds()), !isStopping {
                let (step, cursor) = core.with { [memory] core -> (ScrubStep<ScrubBlock>, UInt64) in
                    var cursor = memory.cursor
                    let step = core.pinForScrub(from: &cursor, end: memory.end!)
                    return (step, cursor)
                }
                memory.advance(to: cursor)
                switch step {
                case .check(let target):
                    let digest = Scrubber.digest(of: target)
                    let verdict = core.with { $0.finishScrub(target, digest: digest) }
                    memory.spend(target.byteCount, at: monotonicNanoseconds())
                    note(verdict, .memory)
                case .nothingYet: break
                case .end:
                    let now = monotonicNanoseconds()
                    guard memory.finishPass(at: now) else { return }
                    core.with { $0.counters.memoryScrub.passes += 1 }
                    scrubber.memoryPassEnd.store(now, ordering: .relaxed)
                    reportPass(.memory)
                    return
                }
            }
        }

        // MARK: Disk

        /// Checks records on disk for as long as the schedule allows.
        private mutating func scrubDisk() {
            guard let disk = scrubber.disk, disk.isRunning, let log = disk.currentLog else {
                return records.postpone(until: monotonicNanoseconds() + Self.retryNanoseconds)
            }
            if records.end == nil { beginDiskPass() }
            while records.isDue(at: monotonicNanoseconds()), !isStopping {
                let (step, cursor) = core.with { [records] core -> (ScrubStep<ScrubRecord>, UInt64) in
                    var cursor = records.cursor
                    let step = core.recordForScrub(from: &cursor, end: records.end!)
                    return (step, cursor)
                }
                records.advance(to: cursor)
                switch step {
                case .check(let record):
                    guard check(record, log) else { return }
                case .nothingYet: break
                case .end: return finishDiskPass()
                }
            }
            if monotonicNanoseconds() - savedNanoseconds > Self.saveIntervalNanoseconds { saveCursor() }
        }

        private mutating func beginDiskPass() {
            // Only now is the directory ours to read; the file counts once.
            if savedCursor == nil {
                let position = cursorFile?.load() ?? RecordPosition(segment: 0, ordinal: 0)
                savedCursor = position.scrubCursor
                records.advance(to: position.scrubCursor)
            }
            records.beginPass(end: core.with { $0.diskScrubEnd }, at: monotonicNanoseconds())
        }

        /// Reads and judges one record. False when the disk cannot be read now.
        private mutating func check(_ record: ScrubRecord, _ log: SegmentLog) -> Bool {
            let found: RecordCheck
            do throws(KVStoreError) {
                found = try RecordCheck.run(log, at: record.position, expecting: record.expected)
            } catch {
                // Closed, or trouble that the writer or a reader will report. This record waits for the next pass.
                records.postpone(until: monotonicNanoseconds() + Self.retryNanoseconds)
                return false
            }
            var byteCount = record.rawByteCount
            var verdict = ScrubVerdict.good
            switch found {
            case .good(let storedByteCount): byteCount = storedByteCount
            case .notChecked: verdict = .moved
            case .damaged, .missing: verdict = Scrubber.repair(record, core)
            }
            core.with { $0.countScrubbed(verdict, recordByteCount: byteCount) }
            records.spend(byteCount, at: monotonicNanoseconds())
            note(verdict, .disk)
            return true
        }

        private mutating func finishDiskPass() {
            let now = monotonicNanoseconds()
            let isCounted = records.finishPass(at: now)
            saveCursor()
            guard isCounted else { return }
            core.with { $0.counters.diskScrub.passes += 1 }
            scrubber.diskPassEnd.store(now, ordering: .relaxed)
            reportPass(.disk)
        }

        /// Only while the log is open is the directory ours to write to.
        private mutating func saveCursor() {
            savedNanoseconds = monotonicNanoseconds()
            guard let saved = savedCursor, saved != records.cursor, scrubber.disk?.currentLog != nil else { return }
            savedCursor = records.cursor
            cursorFile?.save(RecordPosition(scrubCursor: records.cursor))
        }

        // MARK: Reporting

        /// The first damaged block of a pass is reported at once, the others together at its end.
        private mutating func note(_ verdict: ScrubVerdict, _ tier: Tier) {
            guard verdict == .repaired || verdict == .dropped else { return }
            damagedInPass[tier, default: 0] += 1
            guard damagedInPass[tier] == 1 else { return }
            let outcome = verdict == .repaired ? "the other tier's copy took its place" : "it was dropped"
            report("the scrub found a damaged block \(tier == .disk ? "on disk" : "in memory"); \(outcome)")
        }

        private mutating func reportPass(_ tier: Tier) {
            let count = damagedInPass.removeValue(forKey: tier) ?? 0
            guard count > 1 else { return }
            report("the scrub found \(count) damaged blocks \(tier == .disk ? "on disk" : "in memory") in one pass")
        }

        private func report(_ message: String) {
            scrubber.onEvent?(StoreEvent(severity: .warning, message: message))
        }
    }
}

extension DiskTier {
    /// Whether the tier is open, loaded and neither pausing nor failed.
    var isRunning: Bool { workMonitor.wait(untilNanoseconds: 0) { $0.state == .running } ?? false }
}
