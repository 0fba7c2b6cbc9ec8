import CXXHash

// The only file that imports CXXHash.

/// The 64-bit XXH3 digest. It finds damage; it is no protection against an adversary, which is what keys are for.
package enum XXH3 {
    /// The digest of `bytes`, with seed 0.
    package static func digest(_ bytes: UnsafeRawBufferPointer) -> UInt64 {
        // Safe: the library reads exactly `count` bytes, and a null pointer only with a count of 0.
        unsafe kvstore_xxh3_64bits(bytes.baseAddress, bytes.count)
    }
}
