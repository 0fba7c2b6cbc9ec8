/// The content key of one block: a SHA-256 over the block's tokens and everything before them.
///
/// Equal keys mean equal whole prefixes in the same namespace. A key is 32 bytes, kept as four words so that it
/// compares and hashes without touching memory elsewhere.
public struct BlockKey: Hashable, Sendable, BitwiseCopyable {
    // The words hold the 32 bytes in order, each read little-endian.
    @usableFromInline package var word0: UInt64
    @usableFromInline package var word1: UInt64
    @usableFromInline package var word2: UInt64
    @usableFromInline package var word3: UInt64

    package init(word0: UInt64, word1: UInt64, word2: UInt64, word3: UInt64) {
        self.word0 = word0
        self.word1 = word1
        self.word2 = word2
        self.word3 = word3
    }

    /// Makes a key from its 32 bytes.
    ///
    /// - Returns: nil when `bytes` does not hold exactly 32 bytes, or only zeros, which are no digest of anything.
    public init?(bytes: some Collection<UInt8>) {
        guard bytes.count == Self.byteCount else { return nil }
        var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        for (position, byte) in bytes.enumerated() {
            let shifted = UInt64(byte) &<< UInt64((position & 7) &* 8)
            switch position >> 3 {
            case 0: words.0 |= shifted
            case 1: words.1 |= shifted
            case 2: words.2 |= shifted
            default: words.3 |= shifted
            }
        }
        self.init(word0: words.0, word1: words.1, word2: words.2, word3: words.3)
        if isZero { return nil }
    }

    /// Tables mark free places with this; it is nobody's key.
    package var isZero: Bool { word0 | word1 | word2 | word3 == 0 }

    /// The number of bytes of every key.
    public static let byteCount = 32

    /// The key's 32 bytes.
    public var bytes: [UInt8] {
        var result = [UInt8]()
        result.reserveCapacity(Self.byteCount)
        for word in [word0, word1, word2, word3] {
            for shift in 0..<8 { result.append(UInt8(truncatingIfNeeded: word >> UInt64(shift &* 8))) }
        }
        return result
    }

    /// All words, although one of a digest would do: keys also come from clients, who could make that one equal in all.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(word0)
        hasher.combine(word1)
        hasher.combine(word2)
        hasher.combine(word3)
    }
}

extension BlockKey: CustomStringConvertible {
    /// The first four bytes in hex. A whole key identifies a prompt, so it is never printed.
    public var description: String {
        let hexDigits = Array("0123456789abcdef")
        return String((0..<8).map { hexDigits[Int(truncatingIfNeeded: word0 >> UInt64(($0 ^ 1) &* 4)) & 15] }) + "…"
    }
}
