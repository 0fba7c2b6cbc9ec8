/// Appends little-endian fields; the formats of the disk tier's own files and rows are made of these.
struct ByteWriter {
    private(set) var bytes: [UInt8] = []

    init(capacity: Int) { bytes.reserveCapacity(capacity) }

    mutating func append(_ byte: UInt8) { bytes.append(byte) }

    mutating func append<Word: FixedWidthInteger & BitwiseCopyable>(_ word: Word) {
        // The buffer is that of a local copy, read within the call.
        unsafe withUnsafeBytes(of: word.littleEndian) { unsafe bytes.append(contentsOf: $0) }
    }

    mutating func append(_ key: BlockKey) {
        append(key.word0)
        append(key.word1)
        append(key.word2)
        append(key.word3)
    }

    mutating func append(contentsOf other: [UInt8]) { bytes.append(contentsOf: other) }
}

/// Reads little-endian fields and answers nil past the end; it never traps on what a disk holds.
@safe
struct ByteReader: ~Escapable {
    // Valid for as long as the reader: it cannot escape the scope of the buffer it was made from.
    private let base: UnsafeRawBufferPointer
    private(set) var offset = 0

    @_lifetime(borrow buffer)
    init(_ buffer: borrowing UnsafeRawBufferPointer) {
        unsafe base = copy buffer
    }

    var remainingByteCount: Int { unsafe base.count - offset }

    @_lifetime(self: copy self)
    mutating func byte() -> UInt8? { load() }
    @_lifetime(self: copy self)
    mutating func word16() -> UInt16? { load() }
    @_lifetime(self: copy self)
    mutating func word32() -> UInt32? { load() }
    @_lifetime(self: copy self)
    mutating func word64() -> UInt64? { load() }

    @_lifetime(self: copy self)
    mutating func key() -> BlockKey? {
        guard remainingByteCount >= BlockKey.byteCount else { return nil }
        return BlockKey(word0: load()!, word1: load()!, word2: load()!, word3: load()!)
    }

    @_lifetime(self: copy self)
    mutating func bytes(count: Int) -> [UInt8]? {
        guard count >= 0, remainingByteCount >= count else { return nil }
        defer { offset += count }
        // The range was checked above.
        return unsafe Array(base[offset..<offset + count])
    }

    @_lifetime(self: copy self)
    private mutating func load<Word: FixedWidthInteger & BitwiseCopyable>() -> Word? {
        let byteCount = Word.bitWidth / 8
        guard remainingByteCount >= byteCount else { return nil }
        defer { offset += byteCount }
        // The range was checked above, and loadUnaligned needs no alignment.
        return unsafe Word(littleEndian: base.loadUnaligned(fromByteOffset: offset, as: Word.self))
    }
}

/// CRC-32C, for the few small structures that RocksDB's own checksums do not cover.
enum CRC32C {
    private static let table: [UInt32] = (0..<256).map { index in
        (0..<8).reduce(UInt32(index)) { value, _ in (value >> 1) ^ (value & 1 == 0 ? 0 : 0x82F6_3B78) }
    }

    static func checksum(_ bytes: Span<UInt8>) -> UInt32 {
        let table = table
        var value = UInt32.max
        for index in bytes.indices {
            value = (value >> 8) ^ table[Int((value ^ UInt32(bytes[index])) & 0xFF)]
        }
        return ~value
    }
}
