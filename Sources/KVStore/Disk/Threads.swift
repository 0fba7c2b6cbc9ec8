// Threads of the disk tier. Blocking calls into RocksDB must not run on Swift's cooperative pool (it has one thread per
// core and expects each to make progress) nor on Dispatch's shared queues, so the tier has plain threads of its own.
internal import DequeModule
internal import Glibc
internal import Synchronization

/// A mutex with a condition: the one thing Synchronization does not have.
///
/// @unchecked Sendable: the C objects live at a fixed address for the life of the instance and are made for sharing;
/// `Value` is only reached under the mutex.
@safe
package final class Monitor<Value>: @unchecked Sendable {
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private var value: Value

    package init(_ value: Value) {
        self.value = value
        // Deadlines are measured on the monotonic clock: a jump of the wall clock must not stall the disk.
        var attributes = pthread_condattr_t()
        unsafe pthread_condattr_init(&attributes)
        unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        unsafe pthread_mutex_init(mutex, nil)
        unsafe pthread_cond_init(condition, &attributes)
        unsafe pthread_condattr_destroy(&attributes)
    }

    deinit {
        unsafe pthread_cond_destroy(condition)
        unsafe pthread_mutex_destroy(mutex)
        unsafe condition.deallocate()
        unsafe mutex.deallocate()
    }

    /// Changes the value and wakes everybody who waits.
    package func update<Result>(_ body: (inout Value) -> Result) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer {
            unsafe pthread_cond_broadcast(condition)
            unsafe pthread_mutex_unlock(mutex)
        }
        return body(&value)
    }

    /// Looks at the value and wakes nobody.
    package func read<Result>(_ body: (Value) -> Result) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return body(value)
    }

    /// Waits until `body` returns a result, at most until `deadlineNanoseconds` on the monotonic clock.
    package func wait<Result>(
        untilNanoseconds deadlineNanoseconds: UInt64?,
        _ body: (inout Value) -> Result?
    ) -> Result? {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        while true {
            if let result = body(&value) { return result }
            if let deadlineNanoseconds {
                var deadline = timespec(
                    tv_sec: Int(deadlineNanoseconds / 1_000_000_000),
                    tv_nsec: Int(deadlineNanoseconds % 1_000_000_000)
                )
                if unsafe pthread_cond_timedwait(condition, mutex, &deadline) == ETIMEDOUT { return body(&value) }
            } else {
                unsafe pthread_cond_wait(condition, mutex)
            }
        }
    }
}

/// The monotonic clock.
package func monotonicNanoseconds() -> UInt64 { nanoseconds(of: CLOCK_MONOTONIC) }

/// What the calling thread has computed.
func threadCPUNanoseconds() -> UInt64 { nanoseconds(of: CLOCK_THREAD_CPUTIME_ID) }

private func nanoseconds(of clock: clockid_t) -> UInt64 {
    var now = timespec()
    unsafe clock_gettime(clock, &now)
    return UInt64(now.tv_sec) &* 1_000_000_000 &+ UInt64(now.tv_nsec)
}

/// A named thread that runs one closure.
///
/// @unchecked Sendable: the handle is written once, before anybody can join.
package final class DiskThread: @unchecked Sendable {
    private var handle: pthread_t = 0
    /// Whether the system had a thread to give.
    let isRunning: Bool

    private final class Start {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }

    package init(name: String, _ body: @escaping @Sendable () -> Void) {
        // The new thread takes the retained box over; on failure it is released here.
        let box = unsafe Unmanaged.passRetained(Start(body))
        let status = unsafe pthread_create(
            &handle,
            nil,
            { argument in
                unsafe Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue().body()
                return nil
            },
            box.toOpaque()
        )
        isRunning = status == 0
        if isRunning {
            nameThread(handle, name)
        } else {
            unsafe box.release()
        }
    }

    /// From here on the calling thread has a tenth of the weight of others, and so have those that it starts: for work that
    /// nobody waits for, beside an engine that computes on all processors and waits for its slowest thread. Weights are
    /// compared within a control group or session. It cannot be taken back.
    static func letOthersGoFirst() { _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, 10) }

    /// Waits for the thread to end. Call once. From the thread itself (the last reference to a store can go away in a job
    /// of its own) there is nothing to wait for.
    package func join() {
        guard isRunning else { return }
        if pthread_equal(pthread_self(), handle) != 0 {
            pthread_detach(handle)
        } else {
            _ = pthread_join(handle, nil)
        }
    }
}

/// The one background thread of its owner: started by one call, ended by another, whoever makes them.
final class BackgroundThread: Sendable {
    private let thread = Mutex<DiskThread?>(nil)

    func start(name: String, _ body: @escaping @Sendable () -> Void) {
        let started = DiskThread(name: name, body)
        thread.withLock { $0 = started }
    }

    /// Waits for the thread to end, if it was started and nobody has waited yet. Telling it to end is up to the owner.
    func join() {
        let running = thread.withLock { thread -> DiskThread? in
            defer { thread = nil }
            return thread
        }
        running?.join()
    }
}

/// A fixed number of threads and two queues for them: jobs that somebody waits for, and wishes that nobody waits for,
/// which run when there is no job. The kernel takes names of at most 15 bytes, number included.
package final class ReaderPool: Sendable {
    private struct State {
        var jobs: Deque<@Sendable () -> Void> = []
        var wishes: Deque<@Sendable () -> Void> = []
        var isStopping = false
    }
    /// A wish is cheap to make and slow to fulfil: more than these are forgotten.
    package static let wishLimit = 256
    private let state = Monitor(State())
    private let threads: [DiskThread]

    package init(threadCount: Int, name: String = "kvstore-read") {
        let state = self.state
        threads = (0..<threadCount).map { number in
            DiskThread(name: "\(name)-\(number)") {
                while let job = Self.nextJob(state) { job() }
            }
        }
    }

    private static func nextJob(_ state: Monitor<State>) -> (@Sendable () -> Void)? {
        state.wait(untilNanoseconds: nil) { state -> (@Sendable () -> Void)?? in
            if let job = state.jobs.popFirst() { return .some(job) }
            if state.isStopping { return .some(nil) }
            return state.wishes.popFirst().map { .some($0) }
        } ?? nil
    }

    /// Runs `job` on one of the threads, some time. After `stop` jobs run on the caller's thread.
    package func submit(_ job: @escaping @Sendable () -> Void) {
        let accepted = state.update { state in
            if state.isStopping { return false }
            state.jobs.append(job)
            return true
        }
        if !accepted { job() }
    }

    /// Runs `wish` when there is nothing else to do. False, and it is forgotten, when too many wait or the pool stops.
    @discardableResult
    package func submitWish(_ wish: @escaping @Sendable () -> Void) -> Bool {
        state.update { state in
            guard !state.isStopping, state.wishes.count < Self.wishLimit else { return false }
            state.wishes.append(wish)
            return true
        }
    }

    /// Finishes the jobs there are, forgets the wishes and ends the threads.
    package func stop() {
        state.update {
            $0.isStopping = true
            $0.wishes = []
        }
        for thread in threads { thread.join() }
    }
}

/// A read of one or more blocks that is under way. Others who want one of them wait here instead of reading it again.
final class Flight: Sendable {
    private let isDone = Monitor(false)

    /// Called once, after the blocks became visible or were given up.
    func land() { isDone.update { $0 = true } }

    /// Waits for `land`. Only disk reads happen in between.
    func wait() {
        _ = isDone.wait(untilNanoseconds: nil) { $0 ? true : nil }
    }
}
