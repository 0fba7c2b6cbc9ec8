/// Where the bytes of one record come from: memory that holds all of it, or a file that is read piece by piece.
protocol RecordSource: ~Copyable {
    /// The whole record's bytes.
    var byteCount: Int { get }
    /// The most bytes that can be lent at once, if fewer than all.
    var windowByteCount: Int { get }

    /// How many bytes from `offset` on are at hand, without reading anything.
    func heldByteCount(from offset: Int) -> Int

    /// Lends some of the record's bytes until the next call; nil when they cannot be had, or are more than the window.
    mutating func lend(_ range: Range<Int>) -> UnsafeRawBufferPointer?
}

/// A record in memory.
@safe
struct RecordInMemory: RecordSource {
    // Valid for as long as the caller of a decoder lends it.
    private let bytes: UnsafeRawBufferPointer

    @unsafe init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = bytes }

    var byteCount: Int { unsafe bytes.count }
    var windowByteCount: Int { byteCount }

    func heldByteCount(from offset: Int) -> Int { byteCount - offset }

    func lend(_ range: Range<Int>) -> UnsafeRawBufferPointer? {
        guard range.lowerBound >= 0, range.upperBound <= byteCount else { return nil }
        // In range by the line above.
        return unsafe UnsafeRawBufferPointer(rebasing: bytes[range])
    }
}
