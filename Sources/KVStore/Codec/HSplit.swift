/// The codec hsplit: 16-bit floats rotated left by one and split into two planes, of which the upper, with the exponents,
/// is Huffman-coded; 8-bit floats are Huffman-coded whole.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | bytes of the zstd frame, z |
/// | 4 | 1 | bytes of an element, 1 or 2 |
/// | 5 | 3 | 0 |
/// | 8 | n | elements of 2 bytes: low plane, the low byte of each rotated word; else nothing |
/// | | z | zstd frame: the high bytes of the n rotated words; elements of 1 byte: the bytes |
/// | | 1 | elements of 2 bytes and an odd length: the last byte |
enum HSplit {
    static let headerByteCount = 8

    /// Codes a unit into the start of `output`.
    ///
    /// - Returns: the bytes written; nil when they do not fit.
    static func encode(
        _ raw: UnsafeRawBufferPointer,
        elementByteCount: Int,
        scratch: CodecScratch,
        into output: UnsafeMutableRawBufferPointer,
        level: KernelLevel = .best
    ) -> Int? {
        precondition(elementByteCount == 1 || elementByteCount == 2, "hsplit is for 8 and 16 bits")
        let count = raw.count / elementByteCount
        let tailByteCount = raw.count % elementByteCount
        let planeOffset = headerByteCount + (elementByteCount == 2 ? count : 0)
        guard count > 0, output.count > planeOffset + tailByteCount else { return nil }
        // Safe: the low plane and the tail were just checked to fit, and the frame gets the room between them.
        var high = unsafe raw
        if elementByteCount == 2 {
            guard let room = unsafe scratch.room(count) else { return nil }
            let low = unsafe UnsafeMutableRawBufferPointer(rebasing: output[headerByteCount..<planeOffset])
            unsafe Kernels.split(raw, low: low, high: room, level: level)
            unsafe high = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(room)[..<count])
        }
        let room = unsafe UnsafeMutableRawBufferPointer(
            rebasing: output[planeOffset..<output.count - tailByteCount]
        )
        guard let byteCount = unsafe scratch.huffman.encode(high, into: room) else { return nil }
        unsafe LittleEndian.store(UInt32(byteCount), to: output, at: 0)
        unsafe LittleEndian.store(UInt32(elementByteCount), to: output, at: 4)
        if tailByteCount == 1 { unsafe output[planeOffset + byteCount] = raw[raw.count - 1] }
        return planeOffset + byteCount + tailByteCount
    }

    /// Decodes a unit, filling `output`. Whatever the bytes, nothing outside the buffers is touched.
    ///
    /// - Throws: `undecodable`, or `noMemory`; `output` then holds anything.
    static func decode(
        _ stored: UnsafeRawBufferPointer,
        scratch: CodecScratch,
        into output: UnsafeMutableRawBufferPointer,
        level: KernelLevel = .best
    ) throws(RecordDamage) {
        guard stored.count >= headerByteCount else { throw .undecodable }
        // Safe: each load checks its offset.
        let frameByteCount = Int(unsafe LittleEndian.load(stored, at: 0, as: UInt32.self))
        let elementByteCount = Int(unsafe LittleEndian.load(stored, at: 4, as: UInt32.self))
        guard elementByteCount == 1 || elementByteCount == 2 else { throw .undecodable }
        let count = output.count / elementByteCount
        let tailByteCount = output.count % elementByteCount
        let planeOffset = headerByteCount + (elementByteCount == 2 ? count : 0)
        guard stored.count == planeOffset + frameByteCount + tailByteCount else { throw .undecodable }
        // Safe: every range ends at or before `stored.count`, which is the sum of all.
        let frame = unsafe UnsafeRawBufferPointer(rebasing: stored[planeOffset..<planeOffset + frameByteCount])
        if elementByteCount == 1 {
            guard try unsafe scratch.huffman.decode(frame, into: output) else { throw .undecodable }
            return
        }
        guard let room = unsafe scratch.room(count) else { throw .noMemory }
        let high = unsafe UnsafeMutableRawBufferPointer(rebasing: room[..<count])
        guard try unsafe scratch.huffman.decode(frame, into: high) else { throw .undecodable }
        let low = unsafe UnsafeRawBufferPointer(rebasing: stored[headerByteCount..<planeOffset])
        unsafe Kernels.merge(low: low, high: UnsafeRawBufferPointer(high), into: output, level: level)
        if tailByteCount == 1 { unsafe output[output.count - 1] = stored[stored.count - 1] }
    }
}
