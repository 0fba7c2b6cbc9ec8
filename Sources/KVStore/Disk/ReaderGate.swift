import Glibc
import Synchronization

/// Lets readers in until it is closed, and closes once the last of them has left.
@safe
final class ReaderGate: @unchecked Sendable {  // The lock is made for being shared, and its address never changes.
    private let lock: UnsafeMutablePointer<pthread_rwlock_t>
    /// Without it a steady stream of readers could keep `closeAndWait` waiting for ever.
    private let isClosed = Atomic<Bool>(false)

    init() {
        unsafe lock = .allocate(capacity: 1)
        unsafe lock.initialize(to: pthread_rwlock_t())
        let result = unsafe pthread_rwlock_init(lock, nil)
        precondition(result == 0, "cannot make a lock")
    }

    deinit {
        unsafe pthread_rwlock_destroy(lock)
        unsafe lock.deallocate()
    }

    /// False once the gate is closed. After true, `leave` must follow.
    func enter() -> Bool {
        if isClosed.load(ordering: .acquiring) { return false }
        let result = unsafe pthread_rwlock_rdlock(lock)
        precondition(result == 0, "too many readers, or the gate is being closed from inside it")
        if isClosed.load(ordering: .acquiring) {
            leave()
            return false
        }
        return true
    }

    func leave() { unsafe _ = pthread_rwlock_unlock(lock) }

    func closeAndWait() {
        isClosed.store(true, ordering: .releasing)
        let result = unsafe pthread_rwlock_wrlock(lock)
        precondition(result == 0, "the gate is being closed from inside it")
        unsafe _ = pthread_rwlock_unlock(lock)
    }
}
