/// Numbers in stored bytes: little-endian, at any offset.
enum LittleEndian {
    /// Reads a number at `offset`.
    static func load<Number: FixedWidthInteger & BitwiseCopyable>(
        _ bytes: UnsafeRawBufferPointer,
        at offset: Int,
        as type: Number.Type = Number.self
    ) -> Number {
        precondition(offset >= 0 && offset <= bytes.count &- MemoryLayout<Number>.size, "read outside the buffer")
        // Safe: the bounds were checked just above; any bytes are a number.
        return unsafe Number(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: Number.self))
    }

    /// Writes a number at `offset`.
    static func store<Number: FixedWidthInteger & BitwiseCopyable>(
        _ number: Number,
        to bytes: UnsafeMutableRawBufferPointer,
        at offset: Int
    ) {
        precondition(offset >= 0 && offset <= bytes.count &- MemoryLayout<Number>.size, "write outside the buffer")
        // Safe: the bounds were checked just above.
        unsafe bytes.storeBytes(of: number.littleEndian, toByteOffset: offset, as: Number.self)
    }
}
