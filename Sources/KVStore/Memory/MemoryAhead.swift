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
                while core.demand.isCalm, let plan = core.with({ $0.planRegionAhead() }) {
                    // Without memory regions are taken when they are needed, and whoever needs one hears that there is none.
                    guard let mapped = core.mapRegion(plan) else { return }
                    Self.clear(mapped, &pace, core.demand)
                }
            }
        }
    }

    /// Ends the thread, after at most one region's allocation or one piece of it.
    func stop() {
        core.demand.end()
        thread.join()
    }

    /// Clears the pages of a region that is in use already: its slots are taken from the front, and pages that somebody was
    /// quicker with cost nothing. Ends when the store closes the region, or is closed.
    static func clear(_ mapped: WeakRegion, _ pace: inout ClearingPace, _ demand: RegionDemand) {
        var offset = 0
        while true {
            let due = monotonicNanoseconds() + pace.pauseNanoseconds
            guard !demand.waitForEnd(untilNanoseconds: due) else { return }
            let startCPU = threadCPUNanoseconds()
            guard let region = mapped.region, offset < region.byteCount else { return }
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
/// From then on it pauses before every piece, which is 0.2 % of a processor, until several in a row did not have to wait.
/// One is not enough: whoever has just slept is let in at once, and made to wait only when it goes on.
struct ClearingPace {
    /// About 0.2 ms of work.
    static let pieceByteCount = 256 << 10
    private static let longPause: UInt64 = 128_000_000
    private static let pausesUntilTrusted = 8
    /// Timers and idle processors wake up late as well, by less than this; a thread that has to wait its turn loses more.
    private static let tolerance: UInt64 = 500_000

    private var pausesLeft = 0

    var pauseNanoseconds: UInt64 { pausesLeft > 0 ? Self.longPause : 0 }

    /// A piece was cleared, `elapsed` after its time had come.
    mutating func note(elapsedNanoseconds: UInt64, computedNanoseconds: UInt64) {
        if elapsedNanoseconds > computedNanoseconds + Self.tolerance {
            pausesLeft = Self.pausesUntilTrusted
        } else {
            pausesLeft = max(pausesLeft - 1, 0)
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
    /// By itself, so that `note` wakes nobody who waits for the end.
    private let isEnded = Monitor(false)

    func note() { state.update { $0.noteCount &+= 1 } }

    func end() {
        isEnded.update { $0 = true }
        state.update { $0.isEnded = true }
    }

    /// Whether nobody has noted anything since `wait` returned.
    var isCalm: Bool { state.update { $0.noteCount == $0.seenCount } }

    /// Whether `end` is called before then.
    func waitForEnd(untilNanoseconds deadline: UInt64) -> Bool {
        isEnded.wait(untilNanoseconds: deadline) { $0 ? true : nil } ?? false
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
