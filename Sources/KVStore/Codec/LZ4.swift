import CLZ4

// The only file that imports CLZ4.

/// One LZ4 block without a frame.
enum LZ4 {
    /// Compresses `raw` into `output`.
    ///
    /// - Returns: The bytes written, or nil when the result does not fit into `output`.
    static func encode(_ raw: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Int? {
        guard let capacity = Int32(exactly: output.count), let rawCount = Int32(exactly: raw.count) else { return nil }
        // Safe: both pointers come with their counts, and the library stays inside them.
        let written = unsafe LZ4_compress_default(
            raw.baseAddress?.assumingMemoryBound(to: CChar.self),
            output.baseAddress?.assumingMemoryBound(to: CChar.self),
            rawCount,
            capacity
        )
        return written > 0 ? Int(written) : nil
    }

    /// Decompresses `stored` into `output`, whatever `stored` holds.
    ///
    /// - Returns: Whether the result fills `output` exactly.
    static func decode(_ stored: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Bool {
        guard let capacity = Int32(exactly: output.count), let storedCount = Int32(exactly: stored.count) else {
            return false
        }
        // Safe: `LZ4_decompress_safe` is made for hostile input and stays inside both counts.
        let written = unsafe LZ4_decompress_safe(
            stored.baseAddress?.assumingMemoryBound(to: CChar.self),
            output.baseAddress?.assumingMemoryBound(to: CChar.self),
            storedCount,
            capacity
        )
        return written == capacity
    }
}
