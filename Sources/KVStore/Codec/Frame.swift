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
        conditions: WriteConditions,
        rawDigest: UInt64?,
        into output: UnsafeMutableRawBufferPointer
    ) -> FrameHeader {
        precondition(raw.count <= FrameHeader.rawByteLimit, "a block is at most 1 GiB")
        let plan = UnitPlan(geometry: geometry, rawByteCount: raw.count)
        let unitCount = plan.unitCount
        let payloadStart = FrameHeader.byteCount + unitCount * UnitEntry.byteCount
        precondition(output.count >= payloadStart + raw.count, "no room for the frame")

        // Safe: no unit's stored bytes are more than its raw bytes, so the room checked above is enough for all.
        let target = codec.target(for: geometry, conditions: conditions)
        var scratch = ScratchLoan()
        var decodedDigest = DecodedDigest(target: target, scratch: &scratch)
        var (rawOffset, storedOffset, entryOffset) = (0, payloadStart, FrameHeader.byteCount)
        var firstCodec: UnitCodec?
        var isMixed = false
        for rawByteCount in plan {
            let unit = unsafe UnsafeRawBufferPointer(rebasing: raw[rawOffset..<rawOffset + rawByteCount])
            let room = unsafe UnsafeMutableRawBufferPointer(rebasing: output[storedOffset...])
            let place = UnitPlace(geometry: geometry, offset: rawOffset, byteCount: rawByteCount)
            let coded = unsafe UnitCodec.encode(
                unit,
                place: place,
                target: decodedDigest.isPossible ? target : geometry.losslessFallback,
                scratch: &scratch,
                into: room
            )
            let stored = unsafe UnsafeRawBufferPointer(rebasing: room[..<coded.byteCount])
            let entry = UnitEntry(
                storedByteCount: coded.byteCount,
                rawByteCount: rawByteCount,
                codec: coded.codec,
                baseMode: coded.baseMode,
                storedDigest: unsafe UInt32(truncatingIfNeeded: XXH3.digest(stored))
            )
            unsafe entry.write(to: output, at: entryOffset)
            unsafe decodedDigest.append(unit, stored: stored, codec: coded.codec, place: place, scratch: &scratch)
            isMixed = isMixed || coded.codec != firstCodec ?? coded.codec
            firstCodec = firstCodec ?? coded.codec
            rawOffset += rawByteCount
            storedOffset += coded.byteCount
            entryOffset += UnitEntry.byteCount
        }

        var flags: FrameHeader.Flags = isMixed ? [.rawDigestValid, .codecPerUnit] : [.rawDigestValid]
        if decodedDigest.isLossy { flags.insert(.lossy) }
        let header = FrameHeader(
            codec: (isMixed ? target : firstCodec ?? .raw).rawValue,
            flags: flags,
            geometry: geometry,
            unitCount: unitCount,
            rawByteCount: raw.count,
            payloadByteCount: storedOffset - payloadStart,
            rawDigest: unsafe decodedDigest.lossyDigest ?? rawDigest ?? XXH3.digest(raw),
            storedDigest: unsafe XXH3.digest(
                UnsafeRawBufferPointer(rebasing: output[FrameHeader.byteCount..<storedOffset])
            )
        )
        unsafe header.write(to: output)
        return header
    }

    /// Checks the digest of the stored bytes and every row of the unit table.
    ///
    /// - Parameter header: What ``FrameHeader/init(reading:frameByteCount:)`` made of the same bytes.
    /// - Returns: Whether all units are raw, so that the payload is the block.
    static func check(_ frame: UnsafeRawBufferPointer, header: FrameHeader) throws(RecordDamage) -> Bool {
        // Safe: the header was made of these bytes, so its lengths add up to `frame.count`.
        let stored = unsafe UnsafeRawBufferPointer(rebasing: frame[FrameHeader.byteCount...])
        guard unsafe XXH3.digest(stored) == header.storedDigest else { throw .storedDigest }
        var allRaw = true
        try unsafe checkTable(stored, header: header) { allRaw = allRaw && $0.codec == .raw }
        return allRaw
    }

    /// Decodes a frame into `slot` in one pass over its bytes, and checks every digest that covers all of it.
    ///
    /// Each unit is hashed as it is stored, decoded and hashed again while it is in the processor's cache. So units are
    /// decoded before it is known that they are what was written; every codec takes any bytes, and when this throws,
    /// `slot` holds anything.
    ///
    /// - Parameters:
    ///   - source: The record that the frame is in.
    ///   - start: Where in the record it begins; it goes to the record's end.
    ///   - header: What ``FrameHeader/init(reading:frameByteCount:)`` made of it.
    static func decode(
        _ source: inout some RecordSource & ~Copyable,
        from start: Int,
        header: FrameHeader,
        into slot: UnsafeMutableRawBufferPointer
    ) throws(RecordDamage) {
        guard slot.count == header.rawByteCount else { throw .lengthMismatch }
        var scratch = ScratchLoan()
        let work = scratch.get()
        guard let streams = work.freshStreams() else { throw .noMemory }
        try readTable(&source, from: start, header: header, into: work, hashing: streams.stored)

        // Safe: `readTable` proved that the rows add up to exactly the payload and the slot.
        var (unit, rawOffset, storedOffset) = (0, 0, start + payloadStart(header))
        var failure: RecordDamage?
        while unit < work.units.count {
            let run = unitsToLend(work.units, from: unit, storedOffset: storedOffset, source: source)
            guard let stored = unsafe source.lend(storedOffset..<storedOffset + run.byteCount) else { throw .truncated }
            var offset = 0
            for entry in work.units[run.units] {
                let bytes = unsafe UnsafeRawBufferPointer(rebasing: stored[offset..<offset + entry.storedByteCount])
                unsafe streams.stored.append(bytes)
                let rawEnd = rawOffset + entry.rawByteCount
                let output = unsafe UnsafeMutableRawBufferPointer(rebasing: slot[rawOffset..<rawEnd])
                let place = UnitPlace(geometry: header.geometry, offset: rawOffset, byteCount: entry.rawByteCount)
                // After a unit that cannot be decoded only the digest of what is stored is of interest.
                if failure == nil {
                    do throws(RecordDamage) {
                        try unsafe entry.codec.decode(
                            bytes,
                            baseMode: entry.baseMode,
                            place: place,
                            scratch: &scratch,
                            into: output
                        )
                        unsafe streams.raw.append(UnsafeRawBufferPointer(output))
                    } catch {
                        failure = error
                    }
                }
                (rawOffset, offset) = (rawEnd, offset + entry.storedByteCount)
            }
            (unit, storedOffset) = (run.units.upperBound, storedOffset + run.byteCount)
        }
        guard streams.stored.digest == header.storedDigest else { throw .storedDigest }
        if let failure { throw failure }
        guard streams.raw.digest == header.rawDigest else { throw .rawDigest }
    }

    /// Whole units from `first` on: those that are at hand, else as many as the source lends at once, one at least.
    private static func unitsToLend(
        _ units: [UnitEntry],
        from first: Int,
        storedOffset: Int,
        source: borrowing some RecordSource & ~Copyable
    ) -> (units: Range<Int>, byteCount: Int) {
        let held = source.heldByteCount(from: storedOffset)
        let limit = units[first].storedByteCount <= held ? held : source.windowByteCount
        var (end, byteCount) = (first, 0)
        while end < units.count, end == first || byteCount + units[end].storedByteCount <= limit {
            byteCount += units[end].storedByteCount
            end += 1
        }
        return (first..<end, byteCount)
    }

    /// Reads the unit table into `work`, and checks that its rows add up to exactly the payload and the block.
    private static func readTable(
        _ source: inout some RecordSource & ~Copyable,
        from start: Int,
        header: FrameHeader,
        into work: CodecScratch,
        hashing stream: XXH3.Stream
    ) throws(RecordDamage) {
        // No plan makes units this short, and a table as long as the block is not worth the memory.
        guard header.unitCount <= max(leastUnitLimit, header.rawByteCount / 256) else { throw .malformed }
        let range = start + entryOffset(0)..<start + payloadStart(header)
        guard let table = unsafe source.lend(range) else { throw .truncated }
        unsafe stream.append(table)
        // Safe: the header's claims were compared with the record's length, so the table is `unitCount` rows.
        try unsafe checkTable(table, header: header) { work.units.append($0) }
    }

    /// Checks every row of a unit table, and that they add up to exactly the payload and the block.
    private static func checkTable(
        _ table: UnsafeRawBufferPointer,
        header: FrameHeader,
        _ body: (UnitEntry) -> Void
    ) throws(RecordDamage) {
        var (rawSum, storedSum, isLossy) = (0, 0, false)
        for index in 0..<header.unitCount {
            let entry = try unsafe UnitEntry(reading: table, at: index * UnitEntry.byteCount)
            guard header.flags.contains(.codecPerUnit) || entry.codec.rawValue == header.codec else { throw .malformed }
            // Sums of at most 2^32 rows of at most 2^32 bytes, compared after each step: no overflow.
            rawSum += entry.rawByteCount
            storedSum += entry.storedByteCount
            guard rawSum <= header.rawByteCount, storedSum <= header.payloadByteCount else { throw .malformed }
            isLossy = isLossy || entry.codec == .int8
            body(entry)
        }
        guard rawSum == header.rawByteCount, storedSum == header.payloadByteCount else { throw .malformed }
        guard isLossy == header.flags.contains(.lossy) else { throw .malformed }
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

    private static let leastUnitLimit = 1 << 14

    /// Where the units' stored bytes start.
    static func payloadStart(_ header: FrameHeader) -> Int { entryOffset(header.unitCount) }

    private static func entryOffset(_ index: Int) -> Int { FrameHeader.byteCount + index * UnitEntry.byteCount }
}

/// The digest of what a lossy frame decodes to, gathered unit by unit, so that a block that is read back can be checked
/// like any other. Without lossy units it stays unused.
private struct DecodedDigest {
    private let stream: XXH3.Stream?
    /// Whether units may be coded as the target says: without memory for a digest, not with loss.
    let isPossible: Bool
    private(set) var isLossy = false

    init(target: UnitCodec, scratch: inout ScratchLoan) {
        stream = target == .int8 ? scratch.get().freshStream() : nil
        isPossible = target != .int8 || stream != nil
    }

    var lossyDigest: UInt64? { isLossy ? stream?.digest : nil }

    mutating func append(
        _ raw: UnsafeRawBufferPointer,
        stored: UnsafeRawBufferPointer,
        codec: UnitCodec,
        place: UnitPlace,
        scratch: inout ScratchLoan
    ) {
        guard let stream else { return }
        guard codec == .int8 else { return unsafe stream.append(raw) }
        isLossy = true
        unsafe stream.append(Int8Quantiser.decoded(stored, place: place, scratch: scratch.get()))
    }
}

extension FrameGeometry {
    /// What units are coded with when they may not lose anything.
    fileprivate var losslessFallback: UnitCodec { elementType == .bf16 ? .nib4 : .constant }
}
