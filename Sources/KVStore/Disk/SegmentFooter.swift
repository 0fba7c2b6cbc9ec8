/// The last record of every segment: who its records are, so that a lost index can be rebuilt from the segments alone.
///
/// ```
/// magic(4) version(2) zero(2) segment(4) row count(4) namespace count(4)
/// row:       tenant(8) fingerprint(32) key(32) parent(32) raw stored uses(4 each) sequence(8)
///            origin segment, ordinal(4 each)
/// namespace: tenant(8) fingerprint(32) length(4) description
/// CRC-32C of all of the above(4)
/// ```
/// All little-endian; rows are in order of their ordinals, which start at 0.
struct SegmentFooter: Equatable {
    struct Entry: Equatable {
        var row: IndexRow
        /// For a record carried over from another segment, where it was: a removal that came while it was being
        /// carried names that place, not the new one.
        var origin: RecordPosition?
    }

    var segment: UInt32
    var entries: [Entry] = []
    /// Descriptions of the namespaces that the entries belong to; the index may be lost together with its own.
    var namespaces: [NamespaceRow] = []

    private static let magic: UInt32 = 0x4653_564B  // "KVSF"
    private static let version: UInt16 = 1
    private static let entryByteCount = 8 + 3 * BlockKey.byteCount + 3 * 4 + 8 + 8
    private static let noOrigin = UInt32.max

    func encoded() -> [UInt8] {
        let namespaceByteCount = namespaces.reduce(0) { $0 + 44 + $1.description.count }
        var bytes = ByteWriter(capacity: 24 + entries.count * Self.entryByteCount + namespaceByteCount)
        bytes.append(Self.magic)
        bytes.append(Self.version)
        bytes.append(UInt16(0))
        bytes.append(segment)
        bytes.append(UInt32(entries.count))
        bytes.append(UInt32(namespaces.count))
        for entry in entries {
            bytes.append(entry.row.tenant)
            bytes.append(entry.row.fingerprint)
            bytes.append(entry.row.key)
            bytes.append(entry.row.parent)
            bytes.append(entry.row.rawByteCount)
            bytes.append(entry.row.storedByteCount)
            bytes.append(entry.row.uses)
            bytes.append(entry.row.sequence)
            bytes.append(entry.origin?.segment ?? Self.noOrigin)
            bytes.append(entry.origin?.ordinal ?? Self.noOrigin)
        }
        for namespace in namespaces {
            bytes.append(namespace.tenant)
            bytes.append(namespace.fingerprint)
            bytes.append(UInt32(namespace.description.count))
            bytes.append(contentsOf: namespace.description)
        }
        bytes.append(CRC32C.checksum(bytes.bytes.span))
        return bytes.bytes
    }

    init(segment: UInt32) { self.segment = segment }

    /// - Returns: nil when the bytes are not a whole footer of `segment` that this version can read.
    init?(decoding bytes: UnsafeRawBufferPointer, segment: UInt32) {
        self.segment = segment
        // The caller's buffer outlives this call; ByteReader checks every length.
        let content = unsafe UnsafeRawBufferPointer(rebasing: bytes.dropLast(4))
        var tail = unsafe ByteReader(UnsafeRawBufferPointer(rebasing: bytes.suffix(4)))
        guard let checksum = tail.word32(), unsafe CRC32C.checksum(content.bindMemory(to: UInt8.self).span) == checksum
        else { return nil }
        var reader = unsafe ByteReader(content)
        guard reader.word32() == Self.magic, reader.word16() == Self.version, reader.word16() == 0,
            reader.word32() == segment, let rowCount = reader.word32(), let namespaceCount = reader.word32(),
            Int(rowCount) <= reader.remainingByteCount / Self.entryByteCount
        else { return nil }
        entries.reserveCapacity(Int(rowCount))
        for ordinal in 0..<rowCount {
            guard let tenant = reader.word64(), let fingerprint = reader.key(), let key = reader.key(),
                let parent = reader.key(), let raw = reader.word32(), let stored = reader.word32(),
                let uses = reader.word32(), let sequence = reader.word64(), let originSegment = reader.word32(),
                let originOrdinal = reader.word32()
            else { return nil }
            let row = IndexRow(
                key: key,
                parent: parent,
                fingerprint: fingerprint,
                tenant: tenant,
                segment: segment,
                ordinal: ordinal,
                rawByteCount: raw,
                storedByteCount: stored,
                uses: uses,
                sequence: sequence
            )
            let isCarried = originSegment != Self.noOrigin
            let origin = isCarried ? RecordPosition(segment: originSegment, ordinal: originOrdinal) : nil
            entries.append(Entry(row: row, origin: origin))
        }
        for _ in 0..<namespaceCount {
            guard let tenant = reader.word64(), let fingerprint = reader.key(), let length = reader.word32(),
                let description = reader.bytes(count: Int(length))
            else { return nil }
            namespaces.append(NamespaceRow(fingerprint: fingerprint, tenant: tenant, description: description))
        }
        guard reader.remainingByteCount == 0 else { return nil }
    }
}
