import Crypto

// The only file that imports Crypto. A key is kept as four little-endian words, so a digest becomes a key by four loads
// and a key becomes hash input by four stores; no array is made on the way.

extension BlockKey {
    /// The SHA-256 of `bytes` as a key.
    package init(sha256Of bytes: UnsafeRawBufferPointer) {
        var hasher = SHA256()
        // Safe: the hasher only reads inside `bytes`, during this call.
        unsafe hasher.update(bufferPointer: bytes)
        // Safe: a SHA-256 digest lends exactly 32 bytes.
        self = unsafe hasher.finalize().withUnsafeBytes { digest in
            unsafe BlockKey(loadingFrom: digest)
        }
    }

    /// The SHA-256 of `bytes` as a key.
    package init(sha256Of bytes: [UInt8]) {
        // Safe: the pointer does not leave the closure.
        self = unsafe bytes.withUnsafeBytes { unsafe BlockKey(sha256Of: $0) }
    }

    /// Reads a key from the first 32 bytes of `bytes`.
    package init(loadingFrom bytes: UnsafeRawBufferPointer) {
        precondition(bytes.count >= Self.byteCount, "a key needs 32 bytes")
        // Safe: the count was checked just above.
        unsafe self.init(
            word0: UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self)),
            word1: UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)),
            word2: UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self)),
            word3: UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 24, as: UInt64.self))
        )
    }

    /// Writes the key's 32 bytes to the start of `bytes`.
    package func store(into bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count >= Self.byteCount, "a key needs 32 bytes")
        // Safe: the count was checked just above.
        unsafe bytes.storeBytes(of: word0.littleEndian, toByteOffset: 0, as: UInt64.self)
        unsafe bytes.storeBytes(of: word1.littleEndian, toByteOffset: 8, as: UInt64.self)
        unsafe bytes.storeBytes(of: word2.littleEndian, toByteOffset: 16, as: UInt64.self)
        unsafe bytes.storeBytes(of: word3.littleEndian, toByteOffset: 24, as: UInt64.self)
    }
}
