// A frame: the header, one row per unit, then the units' stored bytes without gaps.
//
// Two digests cover the payload: one of table and payload as stored, one of the raw bytes. The digest of a single unit
// is for those who read one layer; a whole frame does not need it, and `verify` checks it all the same.

/// Codes and decodes frames.
enum Frame {
    /// The most bytes that a frame of this block can take.
    static func maximumByteCount(rawByteCount: Int, geometry: FrameGeometry) -> Int {
        let unitCount = UnitPlan(geometry: geometry, rawByteCount: rawByteCount).unitCount
        return FrameHeader.byteCount + unitCount * UnitEntry.byteCount + rawByteCount
    }

    /// Writes the frame of `raw` to the start of `output`.
    ///
    /// - Returns: The header as written.
    static func encode(
        _ raw: UnsafeRawBufferPointer,
        geometry: FrameGeometry,
        codec: CodecChoice,
        rawDigest: UInt64?,
        into output: UnsafeMutableRawBufferPointer
    ) -> FrameHeader {
        precondition(raw.count <= FrameHeader.rawByteLimit, "a block is at most 1 GiB")
        let plan = UnitPlan(geometry: geometry, rawByteCount: raw.count)
        let unitCount = plan.unitCount
        let payloadStart = FrameHeader.byteCount + unitCount * UnitEntry.byteCount
        precondition(output.count >= payloadStart + raw.count, "no room for the frame")

        // Safe: no unit's stored bytes are more than its raw bytes, so the room checked above is enough for all.
        let choice = codec.resolved(for: geometry.elementType)
        var (rawOffset, storedOffset, entryOffset) = (0, payloadStart, FrameHeader.byteCount)
        var firstCodec: UnitCodec?
        var isMixed = false
        for rawByteCount in plan {
            let unit = unsafe UnsafeRawBufferPointer(rebasing: raw[rawOffset..<rawOffset + rawByteCount])
            let room = unsafe UnsafeMutableRawBufferPointer(rebasing: output[storedOffset...])
            let coded = unsafe UnitCodec.encode(unit, choice: choice, into: room)
            let stored = unsafe UnsafeRawBufferPointer(rebasing: room[..<coded.byteCount])
            let entry = UnitEntry(
                storedByteCount: coded.byteCount,
                rawByteCount: rawByteCount,
                codec: coded.codec,
                storedDigest: unsafe UInt32(truncatingIfNeeded: XXH3.digest(stored))
            )
            unsafe entry.write(to: output, at: entryOffset)
            isMixed = isMixed || coded.codec != firstCodec ?? coded.codec
            firstCodec = firstCodec ?? coded.codec
            rawOffset += rawByteCount
            storedOffset += coded.byteCount
            entryOffset += UnitEntry.byteCount
        }

        let triedCodec: UnitCodec = choice.triesLZ4 ? .lz4 : choice.triesConstant ? .constant : .raw
        let header = FrameHeader(
            codec: (isMixed ? triedCodec : firstCodec ?? .raw).rawValue,
            flags: isMixed ? [.rawDigestValid, .codecPerUnit] : [.rawDigestValid],
            geometry: geometry,
            unitCount: unitCount,
            rawByteCount: raw.count,
            payloadByteCount: storedOffset - payloadStart,
            rawDigest: unsafe rawDigest ?? XXH3.digest(raw),
            storedDigest: unsafe XXH3.digest(
                UnsafeRawBufferPointer(rebasing: output[FrameHeader.byteCount..<storedOffset])
            )
        )
        unsafe header.write(to: output)
        return header
    }

    /// Checks the digest of the stored bytes and every row of the unit table, so that decoding stays inside both
    /// buffers.
    ///
    /// - Parameter header: What ``FrameHeader/init(reading:)`` made of the same bytes.
    /// - Returns: Whether all units are raw, so that the payload is the block.
    static func check(_ frame: UnsafeRawBufferPointer, header: FrameHeader) throws(RecordDamage) -> Bool {
        // Safe: the header was made of these bytes, so its lengths add up to `frame.count`.
        let stored = unsafe UnsafeRawBufferPointer(rebasing: frame[FrameHeader.byteCount...])
        guard unsafe XXH3.digest(stored) == header.storedDigest else { throw .storedDigest }
        var (rawSum, storedSum, allRaw) = (0, 0, true)
        for index in 0..<header.unitCount {
            let entry = try unsafe UnitEntry(reading: frame, at: entryOffset(index))
            guard header.flags.contains(.codecPerUnit) || entry.codec.rawValue == header.codec else { throw .malformed }
            // Sums of at most 2^32 rows of at most 2^32 bytes, compared after each step: no overflow.
            rawSum += entry.rawByteCount
            storedSum += entry.storedByteCount
            guard rawSum <= header.rawByteCount, storedSum <= header.payloadByteCount else { throw .malformed }
            allRaw = allRaw && entry.codec == .raw
        }
        guard rawSum == header.rawByteCount, storedSum == header.payloadByteCount else { throw .malformed }
        return allRaw
    }

    /// Decodes a frame that ``check(_:header:)`` accepted into `slot`, and checks the digest of the result.
    ///
    /// When it throws, `slot` holds anything.
    static func decode(
        _ frame: UnsafeRawBufferPointer,
        header: FrameHeader,
        into slot: UnsafeMutableRawBufferPointer
    ) throws(RecordDamage) {
        guard slot.count == header.rawByteCount else { throw .lengthMismatch }
        // Safe: `check` proved that the rows add up to exactly the payload and the slot.
        var (rawOffset, storedOffset) = (0, payloadStart(header))
        for index in 0..<header.unitCount {
            let entry = try unsafe UnitEntry(reading: frame, at: entryOffset(index))
            let (rawEnd, storedEnd) = (rawOffset + entry.rawByteCount, storedOffset + entry.storedByteCount)
            let stored = unsafe UnsafeRawBufferPointer(rebasing: frame[storedOffset..<storedEnd])
            let output = unsafe UnsafeMutableRawBufferPointer(rebasing: slot[rawOffset..<rawEnd])
            guard unsafe entry.codec.decode(stored, into: output) else { throw .undecodable }
            (rawOffset, storedOffset) = (rawEnd, storedEnd)
        }
        guard unsafe XXH3.digest(UnsafeRawBufferPointer(slot)) == header.rawDigest else { throw .rawDigest }
    }

    /// Checks the digest of every unit of a frame that ``check(_:header:)`` accepted.
    static func checkUnitDigests(_ frame: UnsafeRawBufferPointer, header: FrameHeader) throws(RecordDamage) {
        var storedOffset = payloadStart(header)
        for index in 0..<header.unitCount {
            // Safe: as in `decode`.
            let entry = try unsafe UnitEntry(reading: frame, at: entryOffset(index))
            let storedEnd = storedOffset + entry.storedByteCount
            let stored = unsafe UnsafeRawBufferPointer(rebasing: frame[storedOffset..<storedEnd])
            let digest = unsafe UInt32(truncatingIfNeeded: XXH3.digest(stored))
            guard digest == entry.storedDigest else { throw .unitDigest }
            storedOffset = storedEnd
        }
    }

    /// Where the units' stored bytes start.
    static func payloadStart(_ header: FrameHeader) -> Int { entryOffset(header.unitCount) }

    private static func entryOffset(_ index: Int) -> Int { FrameHeader.byteCount + index * UnitEntry.byteCount }
}
