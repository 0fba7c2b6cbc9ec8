#if KVSTORE_TSAN
    internal import Glibc

    /// Stands in for `Synchronization.Mutex` where the thread sanitizer watches (`Tests/tsan.sh`): on Linux that one is a
    /// bare futex, which the sanitizer does not know, so it would report every access under it as a race. It knows pthreads.
    ///
    /// @unchecked Sendable: the value is only reached under the lock.
    @safe
    struct Mutex<Value: ~Copyable>: ~Copyable, @unchecked Sendable {
        private let lock = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
        private let value = UnsafeMutablePointer<Value>.allocate(capacity: 1)

        init(_ initial: consuming sending Value) {
            unsafe pthread_mutex_init(lock, nil)
            unsafe value.initialize(to: initial)
        }

        deinit {
            unsafe value.deinitialize(count: 1)
            unsafe value.deallocate()
            unsafe pthread_mutex_destroy(lock)
            unsafe lock.deallocate()
        }

        borrowing func withLock<Result: ~Copyable, Failure: Error>(
            _ body: (inout Value) throws(Failure) -> Result
        ) throws(Failure) -> Result {
            unsafe pthread_mutex_lock(lock)
            defer { unsafe pthread_mutex_unlock(lock) }
            return try body(&(unsafe value.pointee))
        }
    }
#endif
