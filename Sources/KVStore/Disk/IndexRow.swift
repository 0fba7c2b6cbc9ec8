/// Where a record lies. Positions grow in the order in which records were written, and a position is never used twice.
package struct RecordPosition: Hashable, Sendable, Comparable {
    package var segment: UInt32
    package var ordinal: UInt32

    package init(segment: UInt32, ordinal: UInt32) {
        self.segment = segment
        self.ordinal = ordinal
    }

    package static func < (left: Self, right: Self) -> Bool {
        (left.segment, left.ordinal) < (right.segment, right.ordinal)
    }
}

/// What names a block on disk: the same key in another namespace, or of another tenant, is another block.
package struct BlockIdentity: Hashable, Sendable {
    package var tenant: UInt64
    package var fingerprint: BlockKey
    package var key: BlockKey

    package init(tenant: UInt64, fingerprint: BlockKey, key: BlockKey) {
        self.tenant = tenant
        self.fingerprint = fingerprint
        self.key = key
    }
}

/// One block of the index on disk.
package struct IndexRow: Hashable, Sendable {
    package var key: BlockKey
    package var parent: BlockKey
    package var fingerprint: BlockKey
    /// A hash of the tenant's name; the name itself is not stored here.
    package var tenant: UInt64
    package var segment: UInt32
    package var ordinal: UInt32
    package var rawByteCount: UInt32
    package var storedByteCount: UInt32
    package var uses: UInt32
    package var sequence: UInt64

    package init(
        key: BlockKey,
        parent: BlockKey,
        fingerprint: BlockKey,
        tenant: UInt64,
        segment: UInt32 = 0,
        ordinal: UInt32 = 0,
        rawByteCount: UInt32,
        storedByteCount: UInt32 = 0,
        uses: UInt32 = 0,
        sequence: UInt64 = 0
    ) {
        self.key = key
        self.parent = parent
        self.fingerprint = fingerprint
        self.tenant = tenant
        self.segment = segment
        self.ordinal = ordinal
        self.rawByteCount = rawByteCount
        self.storedByteCount = storedByteCount
        self.uses = uses
        self.sequence = sequence
    }

    package var identity: BlockIdentity { BlockIdentity(tenant: tenant, fingerprint: fingerprint, key: key) }
    /// Of the block before it; of a first block, the namespace's fingerprint stands there, which names no block.
    package var parentIdentity: BlockIdentity { BlockIdentity(tenant: tenant, fingerprint: fingerprint, key: parent) }
    package var position: RecordPosition { RecordPosition(segment: segment, ordinal: ordinal) }
}

/// One namespace: its identity, and a description that only the caller understands.
package struct NamespaceRow: Hashable, Sendable {
    package var fingerprint: BlockKey
    package var tenant: UInt64
    package var description: [UInt8]

    package init(fingerprint: BlockKey, tenant: UInt64, description: [UInt8]) {
        self.fingerprint = fingerprint
        self.tenant = tenant
        self.description = description
    }
}

/// One sealed segment.
package struct SegmentInfo: Hashable, Sendable {
    package var id: UInt32
    package var recordCount: Int
    package var fileByteCount: Int
}

/// Keys and values of the index column family, and keys of the segments column family.
///
/// ```
/// 'B' tenant(8 BE) fingerprint(32) key(32)  ->  version(1) segment ordinal raw stored uses(4 LE each) sequence(8 LE)
///                                               parent(32)
/// 'N' tenant(8 BE) fingerprint(32)          ->  description
/// 'S' segment(4 BE)                         ->  record count(4 LE) file bytes(8 LE)
/// 'X'                                       ->  next segment id(4 LE)
/// record: segment(4 BE) ordinal(4 BE)       ->  the record; the last ordinal is the footer's
/// ```
enum IndexEncoding {
    static let blockTag = UInt8(ascii: "B")
    static let namespaceTag = UInt8(ascii: "N")
    static let segmentTag = UInt8(ascii: "S")
    static let nextSegmentKey = [UInt8(ascii: "X")]
    static let footerOrdinal = UInt32.max
    static let rowVersion: UInt8 = 1
    static let blockKeyByteCount = 1 + 8 + 2 * BlockKey.byteCount
    static let recordKeyByteCount = 8
    static let rowByteCount = 1 + 5 * 4 + 8 + BlockKey.byteCount

    static func blockKey(_ identity: BlockIdentity) -> [UInt8] {
        var bytes = ByteWriter(capacity: blockKeyByteCount)
        bytes.append(blockTag)
        bytes.append(identity.tenant.byteSwapped)
        bytes.append(identity.fingerprint)
        bytes.append(identity.key)
        return bytes.bytes
    }

    /// The keys of all blocks, of a tenant's blocks, or of a namespace's, as a half-open range.
    static func blockRange(tenant: UInt64? = nil, fingerprint: BlockKey? = nil) -> (lower: [UInt8], upper: [UInt8]) {
        var bytes = ByteWriter(capacity: blockKeyByteCount)
        bytes.append(blockTag)
        if let tenant { bytes.append(tenant.byteSwapped) }
        if let fingerprint { bytes.append(fingerprint) }
        return (bytes.bytes, successor(ofPrefix: bytes.bytes))
    }

    static func tagRange(_ tag: UInt8) -> (lower: [UInt8], upper: [UInt8]) { ([tag], [tag + 1]) }

    /// The smallest key that is greater than every key with this prefix. Tags are below 0xFF, so there always is one.
    private static func successor(ofPrefix prefix: [UInt8]) -> [UInt8] {
        var result = prefix
        while result.last == 0xFF { result.removeLast() }
        result[result.count - 1] += 1
        return result
    }

    static func rowValue(_ row: IndexRow) -> [UInt8] {
        var bytes = ByteWriter(capacity: rowByteCount)
        bytes.append(rowVersion)
        for word in [row.segment, row.ordinal, row.rawByteCount, row.storedByteCount, row.uses] { bytes.append(word) }
        bytes.append(row.sequence)
        bytes.append(row.parent)
        return bytes.bytes
    }

    /// - Returns: nil when the entry is not one that this version writes.
    static func row(key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> IndexRow? {
        // The buffers are RocksDB's and valid for this call. This runs once per block on disk at every start, so the
        // lengths are checked once and the fields loaded from where they are; loadUnaligned needs no alignment.
        guard unsafe isRow(key: key, value: value) else { return nil }
        func word<Word: FixedWidthInteger & BitwiseCopyable>(_ buffer: UnsafeRawBufferPointer, _ offset: Int) -> Word {
            unsafe Word(littleEndian: buffer.loadUnaligned(fromByteOffset: offset, as: Word.self))
        }
        func blockKey(_ buffer: UnsafeRawBufferPointer, _ offset: Int) -> BlockKey {
            unsafe BlockKey(
                word0: word(buffer, offset),
                word1: word(buffer, offset + 8),
                word2: word(buffer, offset + 16),
                word3: word(buffer, offset + 24)
            )
        }
        return unsafe IndexRow(
            key: blockKey(key, 41),
            parent: blockKey(value, 29),
            fingerprint: blockKey(key, 9),
            tenant: (word(key, 1) as UInt64).byteSwapped,
            segment: word(value, 1),
            ordinal: word(value, 5),
            rawByteCount: word(value, 9),
            storedByteCount: word(value, 13),
            uses: word(value, 17),
            sequence: word(value, 21)
        )
    }

    private static func isRow(key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> Bool {
        // Indexed only after the lengths were checked.
        unsafe key.count == blockKeyByteCount && value.count == rowByteCount
            && key[0] == blockTag && value[0] == rowVersion
    }

    static func namespaceKey(tenant: UInt64, fingerprint: BlockKey) -> [UInt8] {
        var bytes = ByteWriter(capacity: 1 + 8 + BlockKey.byteCount)
        bytes.append(namespaceTag)
        bytes.append(tenant.byteSwapped)
        bytes.append(fingerprint)
        return bytes.bytes
    }

    static func namespace(key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> NamespaceRow? {
        // As in `row`.
        var reader = unsafe ByteReader(key)
        guard reader.byte() == namespaceTag, let tenant = reader.word64(), let fingerprint = reader.key(),
            reader.remainingByteCount == 0
        else { return nil }
        return unsafe NamespaceRow(fingerprint: fingerprint, tenant: tenant.byteSwapped, description: Array(value))
    }

    static func segmentKey(_ id: UInt32) -> [UInt8] {
        var bytes = ByteWriter(capacity: 5)
        bytes.append(segmentTag)
        bytes.append(id.byteSwapped)
        return bytes.bytes
    }

    static func segmentID(key: UnsafeRawBufferPointer) -> UInt32? {
        // As in `row`.
        var reader = unsafe ByteReader(key)
        guard reader.byte() == segmentTag, let id = reader.word32(), reader.remainingByteCount == 0 else { return nil }
        return id.byteSwapped
    }

    static func segmentValue(_ info: SegmentInfo) -> [UInt8] {
        var bytes = ByteWriter(capacity: 12)
        bytes.append(UInt32(clamping: info.recordCount))
        bytes.append(UInt64(info.fileByteCount))
        return bytes.bytes
    }

    static func segmentRecordCount(value: UnsafeRawBufferPointer) -> Int {
        // As in `row`.
        var reader = unsafe ByteReader(value)
        return Int(reader.word32() ?? 0)
    }

    static func nextSegmentValue(_ id: UInt32) -> [UInt8] {
        var bytes = ByteWriter(capacity: 4)
        bytes.append(id)
        return bytes.bytes
    }

    static func recordKey(_ position: RecordPosition) -> [UInt8] {
        var bytes = ByteWriter(capacity: recordKeyByteCount)
        bytes.append(position.segment.byteSwapped)
        bytes.append(position.ordinal.byteSwapped)
        return bytes.bytes
    }

    static func recordPosition(key: UnsafeRawBufferPointer) -> RecordPosition? {
        // As in `row`.
        var reader = unsafe ByteReader(key)
        guard let segment = reader.word32(), let ordinal = reader.word32(), reader.remainingByteCount == 0 else {
            return nil
        }
        return RecordPosition(segment: segment.byteSwapped, ordinal: ordinal.byteSwapped)
    }
}
