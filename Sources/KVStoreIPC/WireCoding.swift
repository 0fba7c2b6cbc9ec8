package import KVStore

/// Reads numbers, keys and text from a body. Never past its end: what is not there is nil.
package struct WireReader {
    private let bytes: [UInt8]
    private var offset = 0

    package init(_ bytes: [UInt8]) { self.bytes = bytes }

    package var remainingCount: Int { bytes.count - offset }
    package var isAtEnd: Bool { remainingCount == 0 }

    private mutating func take<Value: FixedWidthInteger & BitwiseCopyable>(_: Value.Type) -> Value? {
        guard remainingCount >= MemoryLayout<Value>.size else { return nil }
        // In bounds by the line above.
        let value = unsafe bytes.withUnsafeBytes { unsafe $0.loadUnaligned(fromByteOffset: offset, as: Value.self) }
        offset += MemoryLayout<Value>.size
        return Value(littleEndian: value)
    }

    package mutating func uint8() -> UInt8? { take(UInt8.self) }
    package mutating func uint16() -> UInt16? { take(UInt16.self) }
    package mutating func uint32() -> UInt32? { take(UInt32.self) }
    package mutating func uint64() -> UInt64? { take(UInt64.self) }

    /// The next `count` bytes.
    package mutating func take(_ count: Int) -> [UInt8]? {
        guard count >= 0, remainingCount >= count else { return nil }
        defer { offset += count }
        return Array(bytes[offset..<offset + count])
    }

    /// Bytes with their length before them as u16, at most `limit` of them.
    package mutating func prefixed(limit: Int) -> [UInt8]? {
        guard let count = uint16(), count <= limit else { return nil }
        return take(Int(count))
    }

    /// Text of that kind; nil when it is no UTF-8.
    package mutating func text(limit: Int) -> String? {
        prefixed(limit: limit).flatMap { String(validating: $0, as: UTF8.self) }
    }

    package mutating func key() -> BlockKey? {
        guard remainingCount >= BlockKey.byteCount, let word0 = uint64(), let word1 = uint64(), let word2 = uint64(),
            let word3 = uint64()
        else { return nil }
        let key = BlockKey(word0: word0, word1: word1, word2: word2, word3: word3)
        return key.isZero ? nil : key
    }

    /// `count` keys; nil unless all are there and none is all zeros.
    package mutating func keys(_ count: Int) -> [BlockKey]? {
        guard count >= 0, remainingCount / BlockKey.byteCount >= count else { return nil }
        var keys: [BlockKey] = []
        keys.reserveCapacity(count)
        while keys.count < count {
            guard let key = key() else { return nil }
            keys.append(key)
        }
        return keys
    }

    /// `count` numbers; nil unless all are there.
    package mutating func uint32s(_ count: Int) -> [UInt32]? {
        guard count >= 0, remainingCount / 4 >= count else { return nil }
        return (0..<count).map { _ in uint32()! }
    }
}

/// Writes what `WireReader` reads.
package struct WireWriter {
    package private(set) var bytes: [UInt8] = []

    package init(capacity: Int = 64) { bytes.reserveCapacity(capacity) }

    /// Starts again, with the memory there is unless that is more than `limit` bytes.
    package mutating func removeAll(keepingCapacityBelow limit: Int) {
        bytes.removeAll(keepingCapacity: bytes.capacity <= limit)
    }

    package mutating func append(_ value: some FixedWidthInteger & BitwiseCopyable) {
        // The bytes of an integer are all there is to it.
        unsafe withUnsafeBytes(of: value.littleEndian) { unsafe bytes.append(contentsOf: $0) }
    }

    package mutating func append(contentsOf more: [UInt8]) { bytes.append(contentsOf: more) }

    /// Bytes with their length before them as u16. What is longer than that can say is a caller's bug.
    package mutating func append(prefixed more: some Collection<UInt8>) {
        append(UInt16(more.count))
        bytes.append(contentsOf: more)
    }

    /// Text with its length before it, cut to at most `limit` bytes between two characters.
    package mutating func append(text: String, limit: Int) { append(prefixed: Self.cut(text, limit: limit)) }

    /// The first `limit` bytes of a text or some fewer, so that they still are UTF-8.
    package static func cut(_ text: String, limit: Int) -> ArraySlice<UInt8> {
        let bytes = Array(text.utf8)
        guard bytes.count > limit else { return bytes[...] }
        var end = limit
        // A byte 10xxxxxx goes on with the character before it.
        while end > 0, bytes[end] & 0xC0 == 0x80 { end -= 1 }
        return bytes[..<end]
    }

    package mutating func append(_ key: BlockKey) {
        append(key.word0)
        append(key.word1)
        append(key.word2)
        append(key.word3)
    }
}
