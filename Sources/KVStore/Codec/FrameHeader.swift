/// The first 96 bytes of a frame, little-endian.
///
/// | offset | type | field |
/// |---|---|---|
/// | 0 | u32 | magic, the bytes `KVF1` |
/// | 4 | u8 | version, 1 |
/// | 5 | u8 | codec: that of every unit, or the one that was tried when flag 8 is set |
/// | 6 | u8 | element type, as in ``ElementType`` |
/// | 7 | u8 | flags: 1 lossy, 2 raw digest valid, 4 keys after RoPE, 8 codec per unit |
/// | 8 | u16 | tokens |
/// | 10 | u16 | layers |
/// | 12 | u16 | KV heads |
/// | 14 | u16 | head dimension |
/// | 16 | u8 | tensors: 2 keys and values, 1 keys only |
/// | 17 | u8 | layout: 0 `[layer][K/V][token][head][dimension]`, 255 opaque |
/// | 18 | u16 | header length, 96 |
/// | 20 | u32 | units |
/// | 24 | u64 | raw bytes |
/// | 32 | u64 | stored bytes: the payload after the unit table |
/// | 40 | u64 | XXH3 of the raw bytes; with flag 1, of what the units decode to |
/// | 48 | u64 | XXH3 of unit table and payload |
/// | 56 | u32 | profile (quantiser or table set), 0 none |
/// | 60 | u16 | value head dimension, 0 the same as of keys |
/// | 62 | u16 | 0 |
/// | 64 | u32 | encryption key, 0 none |
/// | 68 | 12 bytes | nonce, 0 without encryption |
/// | 80 | 12 bytes | 0 |
/// | 92 | u32 | low half of XXH3 of bytes 0 to 91 |
struct FrameHeader {
    static let byteCount = 96
    static let magic: UInt32 = 0x3146_564B
    static let version: UInt8 = 1
    /// The most raw bytes that any frame may claim.
    static let rawByteLimit = NamespaceIdentity.Limits.blockBytes

    struct Flags: OptionSet {
        let rawValue: UInt8
        /// Some units lost something; the raw digest is that of what they decode to.
        static let lossy = Flags(rawValue: 1)
        static let rawDigestValid = Flags(rawValue: 2)
        static let keysAfterRoPE = Flags(rawValue: 4)
        static let codecPerUnit = Flags(rawValue: 8)
        /// The flags that this version's decoder understands.
        static let understood: Flags = [.lossy, .rawDigestValid, .keysAfterRoPE, .codecPerUnit]
    }

    var codec: UInt8
    var flags: Flags
    var geometry: FrameGeometry
    var unitCount: Int
    var rawByteCount: Int
    /// The bytes after the unit table.
    var payloadByteCount: Int
    var rawDigest: UInt64
    var storedDigest: UInt64

    /// Header, unit table and payload together.
    var frameByteCount: Int { Self.byteCount + unitCount * UnitEntry.byteCount + payloadByteCount }
}

extension FrameHeader {
    func write(to frame: UnsafeMutableRawBufferPointer) {
        precondition(frame.count >= Self.byteCount, "no room for a frame header")
        // Safe: every offset is inside the 96 bytes checked above, and each store checks again.
        unsafe UnsafeMutableRawBufferPointer(rebasing: frame[..<Self.byteCount]).initializeMemory(
            as: UInt8.self,
            repeating: 0
        )
        unsafe LittleEndian.store(Self.magic, to: frame, at: 0)
        unsafe LittleEndian.store(Self.version, to: frame, at: 4)
        unsafe LittleEndian.store(codec, to: frame, at: 5)
        unsafe LittleEndian.store(geometry.elementType.rawValue, to: frame, at: 6)
        unsafe LittleEndian.store(flags.rawValue, to: frame, at: 7)
        unsafe LittleEndian.store(geometry.tokens, to: frame, at: 8)
        unsafe LittleEndian.store(geometry.layers, to: frame, at: 10)
        unsafe LittleEndian.store(geometry.keyHeads, to: frame, at: 12)
        unsafe LittleEndian.store(geometry.headDimension, to: frame, at: 14)
        unsafe LittleEndian.store(geometry.tensors, to: frame, at: 16)
        unsafe LittleEndian.store(geometry.layout.rawValue, to: frame, at: 17)
        unsafe LittleEndian.store(UInt16(Self.byteCount), to: frame, at: 18)
        unsafe LittleEndian.store(UInt32(unitCount), to: frame, at: 20)
        unsafe LittleEndian.store(UInt64(rawByteCount), to: frame, at: 24)
        unsafe LittleEndian.store(UInt64(payloadByteCount), to: frame, at: 32)
        unsafe LittleEndian.store(rawDigest, to: frame, at: 40)
        unsafe LittleEndian.store(storedDigest, to: frame, at: 48)
        unsafe LittleEndian.store(geometry.valueHeadDimension, to: frame, at: 60)
        unsafe LittleEndian.store(Self.digest(of: UnsafeRawBufferPointer(frame)), to: frame, at: 92)
    }

    /// Reads a header and checks everything in it that can be checked without the rest of the frame, and that the frame
    /// is exactly as long as the header says. Never reads outside `frame`, of which only the header need be there.
    init(reading frame: UnsafeRawBufferPointer, frameByteCount: Int) throws(RecordDamage) {
        guard frame.count >= Self.byteCount, frameByteCount >= Self.byteCount else { throw .truncated }
        // Safe: every offset is inside the 96 bytes checked above, and each load checks again.
        guard unsafe LittleEndian.load(frame, at: 0) == Self.magic else { throw .notARecord }
        // A later version may keep its digest elsewhere, so its number comes before ours.
        guard unsafe LittleEndian.load(frame, at: 4) == Self.version else { throw .unsupported }
        guard unsafe LittleEndian.load(frame, at: 92) == Self.digest(of: frame) else { throw .headerDigest }

        geometry = try unsafe Self.geometry(in: frame)
        codec = unsafe LittleEndian.load(frame, at: 5)
        flags = unsafe Flags(rawValue: LittleEndian.load(frame, at: 7))
        // Without a digest of the raw bytes nothing proves what was decoded.
        guard flags.isSubset(of: .understood), flags.contains(.rawDigestValid) else { throw .unsupported }
        geometry.storage = flags.contains(.lossy) ? .int8 : .lossless
        try unsafe Self.checkUnused(in: frame)

        let rawClaim: UInt64 = unsafe LittleEndian.load(frame, at: 24)
        let payloadClaim: UInt64 = unsafe LittleEndian.load(frame, at: 32)
        unitCount = Int(unsafe LittleEndian.load(frame, at: 20, as: UInt32.self))
        rawDigest = unsafe LittleEndian.load(frame, at: 40)
        storedDigest = unsafe LittleEndian.load(frame, at: 48)
        guard rawClaim <= UInt64(Self.rawByteLimit) else { throw .malformed }
        rawByteCount = Int(rawClaim)
        // At most 96 + 16 · 2^32, so no overflow; the payload is compared before it is added to anything.
        let bytesBeforePayload = Self.byteCount + unitCount * UnitEntry.byteCount
        guard bytesBeforePayload <= frameByteCount else { throw .truncated }
        let bytesLeft = UInt64(frameByteCount - bytesBeforePayload)
        guard payloadClaim <= bytesLeft else { throw .truncated }
        guard payloadClaim == bytesLeft else { throw .trailingBytes }
        payloadByteCount = Int(payloadClaim)
        if let expected = geometry.rawByteCount, expected != rawByteCount { throw .malformed }
    }

    private static func geometry(in frame: UnsafeRawBufferPointer) throws(RecordDamage) -> FrameGeometry {
        // Safe: as in `init(reading:)`, the only caller.
        guard
            let elementType = unsafe ElementType(rawValue: LittleEndian.load(frame, at: 6)),
            let layout = unsafe FrameGeometry.Layout(rawValue: LittleEndian.load(frame, at: 17))
        else { throw .unsupported }
        let tensors: UInt8 = unsafe LittleEndian.load(frame, at: 16)
        guard tensors == 1 || tensors == 2 else { throw .malformed }
        return unsafe FrameGeometry(
            elementType: elementType,
            tokens: LittleEndian.load(frame, at: 8),
            layers: LittleEndian.load(frame, at: 10),
            keyHeads: LittleEndian.load(frame, at: 12),
            headDimension: LittleEndian.load(frame, at: 14),
            valueHeadDimension: LittleEndian.load(frame, at: 60),
            tensors: tensors,
            layout: layout
        )
    }

    // What this version always writes as 0 has a meaning in a later one, so anything else is not ours to decode.
    private static func checkUnused(in frame: UnsafeRawBufferPointer) throws(RecordDamage) {
        // Safe: as in `init(reading:)`, the only caller.
        guard unsafe LittleEndian.load(frame, at: 18) == UInt16(byteCount) else { throw .unsupported }
        guard unsafe LittleEndian.load(frame, at: 56, as: UInt32.self) == 0 else { throw .unsupported }
        guard unsafe LittleEndian.load(frame, at: 62, as: UInt16.self) == 0 else { throw .unsupported }
        for offset in stride(from: 64, to: 92, by: 4) {
            guard unsafe LittleEndian.load(frame, at: offset, as: UInt32.self) == 0 else { throw .unsupported }
        }
    }

    private static func digest(of frame: UnsafeRawBufferPointer) -> UInt32 {
        // Safe: both callers checked that there are 96 bytes.
        unsafe UInt32(truncatingIfNeeded: XXH3.digest(UnsafeRawBufferPointer(rebasing: frame[..<92])))
    }
}

/// One row of the unit table, 16 bytes, little-endian.
///
/// | offset | type | field |
/// |---|---|---|
/// | 0 | u32 | stored bytes |
/// | 4 | u32 | raw bytes |
/// | 8 | u8 | codec |
/// | 9 | u8 | base mode: of nib4 and nib4h 0 or 1 (see ``Nib4``), else 0 |
/// | 10 | u16 | 0 |
/// | 12 | u32 | low half of XXH3 of the stored bytes |
struct UnitEntry {
    static let byteCount = 16

    var storedByteCount: Int
    var rawByteCount: Int
    var codec: UnitCodec
    var baseMode: UInt8
    var storedDigest: UInt32

    init(storedByteCount: Int, rawByteCount: Int, codec: UnitCodec, baseMode: UInt8, storedDigest: UInt32) {
        self.storedByteCount = storedByteCount
        self.rawByteCount = rawByteCount
        self.codec = codec
        self.baseMode = baseMode
        self.storedDigest = storedDigest
    }

    func write(to frame: UnsafeMutableRawBufferPointer, at offset: Int) {
        // Safe: each store checks its offset.
        unsafe LittleEndian.store(UInt32(storedByteCount), to: frame, at: offset)
        unsafe LittleEndian.store(UInt32(rawByteCount), to: frame, at: offset + 4)
        unsafe LittleEndian.store(UInt32(codec.rawValue) | UInt32(baseMode) << 8, to: frame, at: offset + 8)
        unsafe LittleEndian.store(storedDigest, to: frame, at: offset + 12)
    }

    /// Reads the row at `offset`, which the caller has checked to be in the table.
    init(reading frame: UnsafeRawBufferPointer, at offset: Int) throws(RecordDamage) {
        // Safe: each load checks its offset.
        storedByteCount = Int(unsafe LittleEndian.load(frame, at: offset, as: UInt32.self))
        rawByteCount = Int(unsafe LittleEndian.load(frame, at: offset + 4, as: UInt32.self))
        storedDigest = unsafe LittleEndian.load(frame, at: offset + 12)
        guard let codec = unsafe UnitCodec(rawValue: LittleEndian.load(frame, at: offset + 8)) else {
            throw .unsupported
        }
        self.codec = codec
        baseMode = unsafe LittleEndian.load(frame, at: offset + 9)
        let unused: UInt16 = unsafe LittleEndian.load(frame, at: offset + 10)
        guard unused == 0,
            codec.allows(storedByteCount: storedByteCount, rawByteCount: rawByteCount, baseMode: baseMode)
        else { throw .malformed }
    }
}
