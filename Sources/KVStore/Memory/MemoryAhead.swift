internal import Synchronization

/// Maps regions before they are needed, on a thread of its own.
///
/// The kernel clears a page when it is first touched, which for a MiB takes longer than reading it from disk or copying
/// it. Here that happens while nobody waits. For which class, and how much of it, is up to `StoreCore.planRegionAhead`.
final class MemoryAhead: Sendable {
    private let core: CoreLock
    private let thread = Mutex<DiskThread?>(nil)

    /// Nil when no memory is to be taken ahead.
    init?(_ configuration: Configuration, core: CoreLock) {
        guard configuration.memoryAheadBytes > 0 else { return nil }
        self.core = core
    }

    func start() {
        let started = DiskThread(name: "kvstore-ahead") { [core] in
            DiskThread.letOthersGoFirst()
            while core.demand.wait() {
                while let plan = core.with({ $0.planRegionAhead() }) {
                    // Without memory regions are taken when they are needed, and whoever needs one hears that there is none.
                    guard core.addRegion(plan, isAhead: true) else { return }
                }
            }
        }
        thread.withLock { $0 = started }
    }

    /// Ends the thread, after at most one region.
    func stop() {
        core.demand.end()
        let running = thread.withLock { thread -> DiskThread? in
            defer { thread = nil }
            return thread
        }
        running?.join()
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

    /// Waits for `note`, and then for calm; false after `end`.
    func wait() -> Bool {
        var answer = state.wait(untilNanoseconds: nil) { $0.answer() }
        while answer == .noted {
            answer = state.wait(untilNanoseconds: monotonicNanoseconds() + Self.calmNanoseconds) { $0.answer() }
        }
        return answer != .ended
    }
}
