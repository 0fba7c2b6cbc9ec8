/// Maps regions before they are needed, on a thread of its own.
///
/// The kernel clears a page when it is first touched, which for a MiB takes longer than reading it from disk or copying
/// it. Here that happens while nobody waits. For which class, and how much of it, is up to `StoreCore.planRegionAhead`.
final class MemoryAhead: Sendable {
    private let core: CoreLock
    private let thread = BackgroundThread()

    /// Nil when no memory is to be taken ahead.
    init?(_ configuration: Configuration, core: CoreLock) {
        guard configuration.memoryAheadBytes > 0 else { return nil }
        self.core = core
    }

    func start() {
        thread.start(name: "kvstore-ahead") { [core] in
            DiskThread.letOthersGoFirst()
            var pace = ClearingPace()
            while core.demand.wait() {
                while let plan = core.with({ $0.planRegionAhead() }) {
                    let isAdded = core.addRegion(plan) { Self.clear($0, &pace, core.demand) }
                    // Without memory regions are taken when they are needed, and whoever needs one hears that there is none.
                    guard isAdded else { return }
                }
            }
        }
    }

    /// Ends the thread, after at most one piece of a region.
    func stop() {
        core.demand.end()
        thread.join()
    }

    private static func clear(_ region: Region, _ pace: inout ClearingPace, _ demand: RegionDemand) {
        var offset = 0
        while offset < region.byteCount {
            let due = monotonicNanoseconds() + pace.pauseNanoseconds
            let startCPU = threadCPUNanoseconds()
            guard !demand.waitForEnd(untilNanoseconds: due) else { return }
            let end = min(offset + ClearingPace.pieceByteCount, region.byteCount)
            guard region.clearPages(offset..<end) else { return }
            pace.note(
                elapsedNanoseconds: max(monotonicNanoseconds(), due) - due,
                computedNanoseconds: threadCPUNanoseconds() &- startCPU
            )
            offset = end
        }
    }
}

/// How long to pause before the next piece of a region is cleared.
///
/// An engine computes on every processor and waits for its slowest thread, so what clearing takes from one thread is taken
/// from all of them. Nobody tells this thread that a processor is idle, but it can tell that none is: it was made to wait.
/// Then it pauses, up to a length at which it takes 0.2 % of a processor; with nobody in its way it does not pause at all.
struct ClearingPace {
    /// About 0.2 ms of work.
    static let pieceByteCount = 256 << 10
    private static let shortestPause: UInt64 = 1_000_000
    private static let longestPause: UInt64 = 128_000_000
    /// Timers and idle processors wake up late as well, by less than this; a thread that has to wait its turn loses more.
    private static let tolerance: UInt64 = 500_000

    private(set) var pauseNanoseconds: UInt64 = 0

    /// A piece was cleared, `elapsed` after its time had come.
    mutating func note(elapsedNanoseconds: UInt64, computedNanoseconds: UInt64) {
        if elapsedNanoseconds > computedNanoseconds + Self.tolerance {
            pauseNanoseconds = min(max(2 * pauseNanoseconds, Self.shortestPause), Self.longestPause)
        } else {
            pauseNanoseconds = pauseNanoseconds > Self.shortestPause ? pauseNanoseconds / 2 : 0
        }
    }
}

/// Says that a region is wanted, to the thread that maps regions ahead.
final class RegionDemand: Sendable {
    /// Regions are mapped when nobody has taken a slot for this long. Whoever loads or stores a prompt takes its slots
    /// first, and then wants the processor, and the lock over the address space, for itself.
    private static let calmNanoseconds: UInt64 = 500_000_000

    private enum Answer { case noted, ended }
    private struct State {
        var noteCount = 0
        var seenCount = 0
        var isEnded = false

        mutating func answer() -> Answer? {
            if isEnded { return .ended }
            guard noteCount != seenCount else { return nil }
            seenCount = noteCount
            return .noted
        }
    }
    private let state = Monitor(State())

    func note() { state.update { $0.noteCount &+= 1 } }

    func end() { state.update { $0.isEnded = true } }

    /// Whether `end` is called before then.
    func waitForEnd(untilNanoseconds deadline: UInt64) -> Bool {
        state.wait(untilNanoseconds: deadline) { $0.isEnded ? true : nil } ?? false
    }

    /// Waits for `note`, and then for calm; false after `end`.
    func wait() -> Bool {
        var answer = state.wait(untilNanoseconds: nil) { $0.answer() }
        while answer == .noted {
            answer = state.wait(untilNanoseconds: monotonicNanoseconds() + Self.calmNanoseconds) { $0.answer() }
        }
        return answer != .ended
    }
}
