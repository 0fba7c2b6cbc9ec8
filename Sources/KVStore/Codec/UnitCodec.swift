/// What the caller asks of the encoder. Any unit that does not shrink is stored raw.
package enum CodecChoice: Sendable, Hashable, CaseIterable {
    /// What suits the element type: constant units as one word; LZ4 for opaque bytes and int8, else raw, because LZ4
    /// finds nothing in floats.
    case automatic
    /// Everything as it is.
    case raw
    /// Constant units as one word, the others with LZ4.
    case lz4

    func resolved(for elementType: ElementType) -> (triesConstant: Bool, triesLZ4: Bool) {
        switch (self, elementType) {
        case (.raw, _): (false, false)
        case (.lz4, _): (true, true)
        case (.automatic, .opaque), (.automatic, .int8): (true, true)
        case (.automatic, .bf16), (.automatic, .fp16), (.automatic, .fp32): (true, false)
        case (.automatic, .fp8e4m3), (.automatic, .fp8e5m2): (true, false)
        }
    }
}

/// How a stored unit is coded. The numbers are the format's; 3 (nib4), 4 (nib4h), 5 (hsplit) and 16 (int8) are taken.
enum UnitCodec: UInt8, Sendable {
    /// The bytes as they are.
    case raw = 0
    /// One 16-bit word, stored once; an odd length ends with the word's first byte.
    case constant = 1
    /// One LZ4 block.
    case lz4 = 2

    static let wordByteCount = 2

    /// Whether a unit coded this way can have these lengths at all.
    func allows(storedByteCount: Int, rawByteCount: Int) -> Bool {
        guard rawByteCount > 0 else { return false }
        return switch self {
        case .raw: storedByteCount == rawByteCount
        case .constant: storedByteCount == Self.wordByteCount
        case .lz4: storedByteCount > 0 && storedByteCount < rawByteCount
        }
    }

    /// Codes one unit into the start of `output`, which has room for the unit as it is.
    static func encode(
        _ raw: UnsafeRawBufferPointer,
        choice: (triesConstant: Bool, triesLZ4: Bool),
        into output: UnsafeMutableRawBufferPointer
    ) -> (codec: UnitCodec, byteCount: Int) {
        precondition(output.count >= raw.count, "no room for a raw unit")
        // Reading is only worth its cost when it saves a sixteenth.
        let limit = raw.count * 15 / 16
        // Safe: the three ways write at most `limit` or `raw.count` bytes, and `output` holds `raw.count`.
        if choice.triesConstant, limit >= wordByteCount, unsafe isConstant(raw) {
            unsafe output.copyMemory(from: UnsafeRawBufferPointer(rebasing: raw[..<wordByteCount]))
            return (.constant, wordByteCount)
        }
        if choice.triesLZ4, limit > 0 {
            let room = unsafe UnsafeMutableRawBufferPointer(rebasing: output[..<limit])
            if let byteCount = unsafe LZ4.encode(raw, into: room) { return (.lz4, byteCount) }
        }
        unsafe output.copyMemory(from: raw)
        return (.raw, raw.count)
    }

    /// Decodes one unit, filling `output` exactly.
    ///
    /// - Precondition: ``allows(storedByteCount:rawByteCount:)`` said yes.
    /// - Returns: False when the stored bytes cannot be decoded; `output` then holds anything.
    func decode(_ stored: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Bool {
        switch self {
        case .raw:
            precondition(stored.count == output.count, "a raw unit of another length")
            // Safe: the counts are equal.
            unsafe output.copyMemory(from: stored)
            return true
        case .constant:
            unsafe Self.fill(output, with: LittleEndian.load(stored, at: 0))
            return true
        case .lz4:
            return unsafe LZ4.decode(stored, into: output)
        }
    }

    private static func isConstant(_ raw: UnsafeRawBufferPointer) -> Bool {
        let word: UInt16 = unsafe LittleEndian.load(raw, at: 0)
        let pattern = repeated(word)
        let wordsEnd = raw.count & ~7
        // Safe: every read ends at or before `raw.count`.
        for offset in stride(from: 0, to: wordsEnd, by: 8) {
            let found = unsafe UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
            if found != pattern { return false }
        }
        for offset in wordsEnd..<raw.count where unsafe raw[offset] != byte(of: word, at: offset) { return false }
        return true
    }

    private static func fill(_ output: UnsafeMutableRawBufferPointer, with word: UInt16) {
        let pattern = repeated(word).littleEndian
        let wordsEnd = output.count & ~7
        // Safe: every write ends at or before `output.count`.
        for offset in stride(from: 0, to: wordsEnd, by: 8) {
            unsafe output.storeBytes(of: pattern, toByteOffset: offset, as: UInt64.self)
        }
        for offset in wordsEnd..<output.count { unsafe output[offset] = byte(of: word, at: offset) }
    }

    private static func repeated(_ word: UInt16) -> UInt64 { UInt64(word) &* 0x0001_0001_0001_0001 }

    private static func byte(of word: UInt16, at offset: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: offset & 1 == 0 ? word : word >> 8)
    }
}
