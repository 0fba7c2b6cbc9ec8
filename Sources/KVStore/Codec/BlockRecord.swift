import Glibc

/// Whose bytes a record holds.
package struct RecordIdentity: Hashable, Sendable {
    /// The block's key.
    package var key: BlockKey
    /// The key of the block before it; the fingerprint for the first.
    package var parent: BlockKey
    /// The namespace.
    package var fingerprint: BlockKey
    /// When it was written, in the store's own count.
    package var sequence: UInt64

    package init(key: BlockKey, parent: BlockKey, fingerprint: BlockKey, sequence: UInt64) {
        self.key = key
        self.parent = parent
        self.fingerprint = fingerprint
        self.sequence = sequence
    }
}

/// One block as it is stored: 128 bytes that say whose it is, then a frame. Little-endian.
///
/// | offset | type | field |
/// |---|---|---|
/// | 0 | u32 | magic, the bytes `KVR1` |
/// | 4 | u16 | version, 1 |
/// | 6 | u16 | 0 |
/// | 8 | 32 bytes | key |
/// | 40 | 32 bytes | parent |
/// | 72 | 32 bytes | fingerprint of the namespace |
/// | 104 | u64 | sequence |
/// | 112 | u64 | XXH3 of the raw bytes, as in the frame: a frame under another block's identity is found out |
/// | 120 | u64 | XXH3 of bytes 0 to 119 |
/// | 128 | | frame, see ``FrameHeader`` |
///
/// Reading never traps and never reads or writes outside its buffers, whatever the record holds. What it returns as a
/// block has the key, the namespace, the length and the digest that were asked for and stored.
package enum BlockRecord {
    /// The bytes before the frame.
    static let prefixByteCount = 128
    private static let magic: UInt32 = 0x3152_564B
    private static let version: UInt16 = 1

    /// The most bytes that the record of a block can take.
    ///
    /// - Precondition: `rawByteCount` is what the geometry says, where it says something.
    package static func maximumByteCount(rawByteCount: Int, geometry: FrameGeometry) -> Int {
        prefixByteCount + Frame.maximumByteCount(rawByteCount: rawByteCount, geometry: geometry)
    }

    /// Writes a block's record to the start of `output`. Raw bytes are copied once, and nothing is allocated once a
    /// thread's worth of scratch is there (see `CodecScratch`).
    ///
    /// - Parameters:
    ///   - codec: How to code it; lossy only if the geometry's namespace allows it.
    ///   - conditions: What `automatic` decides by, besides the geometry.
    ///   - raw: The block, 1 GiB at most, as long as the geometry says.
    ///   - rawDigest: XXH3 of `raw` if known, else nil.
    ///   - output: At least ``maximumByteCount(rawByteCount:geometry:)`` bytes, apart from `raw`.
    /// - Returns: The bytes written.
    package static func encode(
        _ identity: RecordIdentity,
        geometry: FrameGeometry,
        codec: CodecChoice,
        conditions: WriteConditions = WriteConditions(),
        raw: UnsafeRawBufferPointer,
        rawDigest: UInt64?,
        into output: UnsafeMutableRawBufferPointer
    ) -> Int {
        precondition(output.count >= prefixByteCount, "no room for the record")
        // Safe: the prefix's room was checked just above; the frame checks its own.
        let room = unsafe UnsafeMutableRawBufferPointer(rebasing: output[prefixByteCount...])
        let header = unsafe Frame.encode(
            raw,
            geometry: geometry,
            codec: codec,
            conditions: conditions,
            rawDigest: rawDigest,
            into: room
        )
        unsafe LittleEndian.store(magic, to: output, at: 0)
        unsafe LittleEndian.store(UInt32(version), to: output, at: 4)
        unsafe identity.key.store(into: UnsafeMutableRawBufferPointer(rebasing: output[8...]))
        unsafe identity.parent.store(into: UnsafeMutableRawBufferPointer(rebasing: output[40...]))
        unsafe identity.fingerprint.store(into: UnsafeMutableRawBufferPointer(rebasing: output[72...]))
        unsafe LittleEndian.store(identity.sequence, to: output, at: 104)
        unsafe LittleEndian.store(header.rawDigest, to: output, at: 112)
        unsafe LittleEndian.store(prefixDigest(of: UnsafeRawBufferPointer(output)), to: output, at: 120)
        return prefixByteCount + header.frameByteCount
    }

    /// Decodes a record into `slot` if it is the block that the caller wants.
    ///
    /// Identity and lengths are checked before the first byte is written, the digests of what is stored and of the block
    /// after the last. When it throws, `slot` holds anything and must not be published.
    ///
    /// - Returns: XXH3 of the block's bytes.
    package static func decode(
        _ record: UnsafeRawBufferPointer,
        expectingKey key: BlockKey,
        fingerprint: BlockKey,
        into slot: UnsafeMutableRawBufferPointer
    ) throws(RecordDamage) -> UInt64 {
        // Lent for the length of this call.
        var source = unsafe RecordInMemory(record)
        return try unsafe decode(from: &source, expectingKey: key, fingerprint: fingerprint, into: slot)
    }

    /// As above, from wherever the record is.
    static func decode(
        from source: inout some RecordSource & ~Copyable,
        expectingKey key: BlockKey,
        fingerprint: BlockKey,
        into slot: UnsafeMutableRawBufferPointer
    ) throws(RecordDamage) -> UInt64 {
        let byteCount = source.byteCount
        let headByteCount = min(byteCount, prefixByteCount + FrameHeader.byteCount)
        guard let head = unsafe source.lend(0..<headByteCount) else { throw .truncated }
        let (identity, header) = try unsafe parts(of: head, recordByteCount: byteCount)
        guard identity.key == key else { throw .otherKey }
        guard identity.fingerprint == fingerprint else { throw .otherNamespace }
        guard slot.count == header.rawByteCount else { throw .lengthMismatch }
        try unsafe Frame.decode(&source, from: prefixByteCount, header: header, into: slot)
        return header.rawDigest
    }

    /// Reads whose record it is and how long, checking the prefix and the frame header but not the payload.
    ///
    /// - Returns: The identity, the block's bytes, and the whole record's bytes.
    package static func inspect(
        _ record: UnsafeRawBufferPointer
    ) throws(RecordDamage) -> (identity: RecordIdentity, rawByteCount: Int, storedByteCount: Int) {
        let (identity, header) = try unsafe parts(of: record, recordByteCount: record.count)
        return (identity, header.rawByteCount, record.count)
    }

    /// Checks a whole record, as a scrub does: every digest, and that every unit decodes.
    package static func verify(_ record: UnsafeRawBufferPointer) throws(RecordDamage) {
        let (_, header) = try unsafe parts(of: record, recordByteCount: record.count)
        // Safe: `parts` found a whole frame after the prefix.
        let frame = unsafe UnsafeRawBufferPointer(rebasing: record[prefixByteCount...])
        let allRaw = try unsafe Frame.check(frame, header: header)
        try unsafe Frame.checkUnitDigests(frame, header: header)
        if allRaw {
            let payload = unsafe UnsafeRawBufferPointer(rebasing: frame[Frame.payloadStart(header)...])
            guard unsafe XXH3.digest(payload) == header.rawDigest else { throw .rawDigest }
            return
        }
        // Safe: malloc, unlike Swift's allocators, can say no; the memory is freed on every way out.
        guard let scratch = unsafe malloc(max(1, header.rawByteCount)) else { throw .noMemory }
        defer { unsafe free(scratch) }
        let slot = unsafe UnsafeMutableRawBufferPointer(start: scratch, count: header.rawByteCount)
        // Lent for the length of this call.
        var source = unsafe RecordInMemory(record)
        try unsafe Frame.decode(&source, from: prefixByteCount, header: header, into: slot)
    }

    /// What the first bytes of a record say.
    private static func parts(
        of record: UnsafeRawBufferPointer,
        recordByteCount: Int
    ) throws(RecordDamage) -> (RecordIdentity, FrameHeader) {
        guard record.count >= prefixByteCount else { throw .truncated }
        // Safe: every offset is inside the 128 bytes checked above, and each load checks again.
        guard unsafe LittleEndian.load(record, at: 0) == magic else { throw .notARecord }
        guard unsafe LittleEndian.load(record, at: 4) == UInt32(version) else { throw .unsupported }
        guard unsafe LittleEndian.load(record, at: 120) == prefixDigest(of: record) else { throw .identityDigest }
        let identity = unsafe RecordIdentity(
            key: BlockKey(loadingFrom: UnsafeRawBufferPointer(rebasing: record[8...])),
            parent: BlockKey(loadingFrom: UnsafeRawBufferPointer(rebasing: record[40...])),
            fingerprint: BlockKey(loadingFrom: UnsafeRawBufferPointer(rebasing: record[72...])),
            sequence: LittleEndian.load(record, at: 104)
        )
        let frame = unsafe UnsafeRawBufferPointer(rebasing: record[prefixByteCount...])
        let header = try unsafe FrameHeader(reading: frame, frameByteCount: recordByteCount - prefixByteCount)
        guard unsafe LittleEndian.load(record, at: 112) == header.rawDigest else { throw .mismatchedParts }
        return (identity, header)
    }

    private static func prefixDigest(of record: UnsafeRawBufferPointer) -> UInt64 {
        // Safe: both callers checked that there are 128 bytes.
        unsafe XXH3.digest(UnsafeRawBufferPointer(rebasing: record[..<120]))
    }
}
