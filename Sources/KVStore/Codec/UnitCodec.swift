/// How a stored unit is coded. The numbers are the format's; 17 (int4g32) is taken.
enum UnitCodec: UInt8, Sendable, CaseIterable {
    /// The bytes as they are.
    case raw = 0
    /// One 16-bit word, stored once; an odd length ends with the word's first byte.
    case constant = 1
    /// One LZ4 block.
    case lz4 = 2
    /// See ``Nib4``.
    case nib4 = 3
    /// See ``Nib4``.
    case nib4h = 4
    /// See ``HSplit``.
    case hsplit = 5
    /// See ``Int8Quantiser``.
    case int8 = 16

    static let wordByteCount = 2

    /// Whether a unit coded this way can have these lengths and this base mode at all.
    func allows(storedByteCount: Int, rawByteCount: Int, baseMode: UInt8) -> Bool {
        guard rawByteCount > 0 else { return false }
        switch self {
        case .raw: return storedByteCount == rawByteCount && baseMode == 0
        case .constant: return storedByteCount == Self.wordByteCount && baseMode == 0
        case .lz4, .hsplit, .int8: return storedByteCount > 0 && storedByteCount < rawByteCount && baseMode == 0
        case .nib4, .nib4h: return storedByteCount > 0 && storedByteCount < rawByteCount && baseMode <= 1
        }
    }

    /// Codes one unit into the start of `output`, which has room for the unit as it is.
    ///
    /// - Parameter target: what to try; `constant` nothing but that.
    static func encode(
        _ raw: UnsafeRawBufferPointer,
        place: UnitPlace,
        target: UnitCodec,
        scratch: inout ScratchLoan,
        into output: UnsafeMutableRawBufferPointer
    ) -> Nib4.Coded {
        precondition(output.count >= raw.count, "no room for a raw unit")
        // Reading is only worth its cost when it saves a sixteenth.
        let limit = raw.count * 15 / 16
        // Safe: no codec writes more than `limit` or `raw.count` bytes, and `output` holds `raw.count`.
        if target != .raw, limit >= wordByteCount, unsafe isConstant(raw) {
            unsafe output.copyMemory(from: UnsafeRawBufferPointer(rebasing: raw[..<wordByteCount]))
            return Nib4.Coded(codec: .constant, baseMode: 0, byteCount: wordByteCount)
        }
        let room = unsafe UnsafeMutableRawBufferPointer(rebasing: output[..<limit])
        if limit > 0, let coded = unsafe attempt(target, raw, place, &scratch, room) { return coded }
        unsafe output.copyMemory(from: raw)
        return Nib4.Coded(codec: .raw, baseMode: 0, byteCount: raw.count)
    }

    private static func attempt(
        _ target: UnitCodec,
        _ raw: UnsafeRawBufferPointer,
        _ place: UnitPlace,
        _ scratch: inout ScratchLoan,
        _ room: UnsafeMutableRawBufferPointer
    ) -> Nib4.Coded? {
        var byteCount: Int?
        switch target {
        case .raw, .constant: break
        case .lz4: byteCount = unsafe LZ4.encode(raw, into: room)
        case .nib4:
            return unsafe Nib4.encode(raw, place: place, wantsHuffman: false, scratch: nil, into: room)
        case .nib4h:
            return unsafe Nib4.encode(raw, place: place, wantsHuffman: true, scratch: scratch.get(), into: room)
        case .hsplit:
            byteCount = unsafe HSplit.encode(
                raw,
                elementByteCount: place.geometry.elementType.byteCount,
                scratch: scratch.get(),
                into: room
            )
        case .int8:
            byteCount = unsafe Int8Quantiser.encode(raw, place: place, scratch: scratch.get(), into: room)
            // What cannot be quantised is coded as if the namespace had asked for no loss.
            if byteCount == nil, place.geometry.elementType == .bf16 {
                return unsafe attempt(.nib4, raw, place, &scratch, room)
            }
        }
        return byteCount.map { Nib4.Coded(codec: target, baseMode: 0, byteCount: $0) }
    }

    /// Decodes one unit, filling `output` exactly.
    ///
    /// - Precondition: ``allows(storedByteCount:rawByteCount:baseMode:)`` said yes.
    /// - Throws: `undecodable`, or `noMemory`; `output` then holds anything.
    func decode(
        _ stored: UnsafeRawBufferPointer,
        baseMode: UInt8,
        place: UnitPlace,
        scratch: inout ScratchLoan,
        into output: UnsafeMutableRawBufferPointer
    ) throws(RecordDamage) {
        switch self {
        case .raw:
            precondition(stored.count == output.count, "a raw unit of another length")
            // Safe: the counts are equal.
            unsafe output.copyMemory(from: stored)
        case .constant:
            unsafe Self.fill(output, with: LittleEndian.load(stored, at: 0))
        case .lz4:
            guard unsafe LZ4.decode(stored, into: output) else { throw .undecodable }
        case .nib4:
            try unsafe Nib4.decode(stored, isHuffman: false, baseMode: baseMode, scratch: nil, into: output)
        case .nib4h:
            try unsafe Nib4.decode(stored, isHuffman: true, baseMode: baseMode, scratch: scratch.get(), into: output)
        case .hsplit:
            try unsafe HSplit.decode(stored, scratch: scratch.get(), into: output)
        case .int8:
            try unsafe Int8Quantiser.decode(stored, place: place, scratch: scratch.get(), into: output)
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
