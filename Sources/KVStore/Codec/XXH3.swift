import CXXHash

// The only file that imports CXXHash.

/// The 64-bit XXH3 digest. It finds damage; it is no protection against an adversary, which is what keys are for.
package enum XXH3 {
    /// The digest of `bytes`, with seed 0.
    package static func digest(_ bytes: UnsafeRawBufferPointer) -> UInt64 {
        // Safe: the library reads exactly `count` bytes, and a null pointer only with a count of 0.
        unsafe kvstore_xxh3_64bits(bytes.baseAddress, bytes.count)
    }

    /// The digest of bytes that come in parts: the same number as that of all of them at once. Not thread-safe.
    @safe
    package final class Stream {
        private let state: OpaquePointer

        /// Nil when there is no memory.
        package init?() {
            guard let state = unsafe XXH3_createState() else { return nil }
            unsafe self.state = state
            restart()
        }

        // Safe, as below: the state belongs to this object, which frees it once.
        deinit { unsafe XXH3_freeState(state) }

        /// Forgets what came so far.
        package func restart() { unsafe XXH3_64bits_reset(state) }

        package func append(_ bytes: UnsafeRawBufferPointer) {
            unsafe kvstore_xxh3_64bits_update(state, bytes.baseAddress, bytes.count)
        }

        /// The digest of what came so far.
        package var digest: UInt64 { unsafe XXH3_64bits_digest(state) }
    }
}
