import Glibc

/// One removal: what it names, and which records it is about.
struct Removal: Hashable, Sendable {
    enum Subject: Hashable, Sendable {
        case block(BlockIdentity)
        case namespace(tenant: UInt64, fingerprint: BlockKey)
        case tenant(UInt64)
    }

    /// The records that existed at the time of the removal. A block put again afterwards is another record.
    struct Extent: Hashable, Sendable {
        /// All segments below this one…
        var segmentLimit: UInt32
        /// …except that of the segments that were still open, only the records below these ordinals existed.
        var openSegments: [RecordPosition]

        func contains(_ position: RecordPosition) -> Bool {
            guard position.segment < segmentLimit else { return false }
            guard let open = openSegments.first(where: { $0.segment == position.segment }) else { return true }
            return position.ordinal < open.ordinal
        }
    }

    var subject: Subject
    var extent: Extent
}

/// Removals, arranged to be asked about records. A later removal of the same thing covers all that an earlier one did.
struct RemovalSet: Sendable {
    private var extents: [Removal.Subject: Removal.Extent] = [:]
    private(set) var highestSegmentLimit: UInt32 = 0

    var isEmpty: Bool { extents.isEmpty }
    var removals: [Removal] { extents.map { Removal(subject: $0.key, extent: $0.value) } }

    mutating func insert(_ removal: Removal) {
        extents[removal.subject] = removal.extent
        highestSegmentLimit = max(highestSegmentLimit, removal.extent.segmentLimit)
    }

    mutating func removeAll() { self = RemovalSet() }

    /// Forgets the removals that cannot concern any segment from `oldestSegment` on.
    mutating func dropObsolete(oldestSegment: UInt32) {
        extents = extents.filter { $0.value.segmentLimit > oldestSegment }
    }

    /// Whether the block that this row builds on was removed when the row's record was there already: then the row should
    /// have gone with it, whatever is stored under the parent's key by now.
    func coversParent(of row: IndexRow) -> Bool {
        extents[.block(row.parentIdentity)]?.contains(row.position) == true
    }

    func covers(_ identity: BlockIdentity, at position: RecordPosition) -> Bool {
        if extents.isEmpty { return false }
        let subjects: [Removal.Subject] = [
            .block(identity), .namespace(tenant: identity.tenant, fingerprint: identity.fingerprint),
            .tenant(identity.tenant),
        ]
        return subjects.contains { extents[$0]?.contains(position) == true }
    }
}

/// `removals.log`: what the caller removed, so that neither a lost tail of the write-ahead log nor a rebuild from
/// footers brings it back. Append-only; a removal is in this file before its rows are deleted.
///
/// ```
/// record: magic(4) CRC-32C of the rest(4) body length(4)
/// body:   kind(1) zero(1) open count(2) segment limit(4) tenant(8) fingerprint(32) key(32) open: segment(4) ordinal(4)
/// ```
struct RemovalsLog: Sendable {
    /// From this size on, a removal first drops the obsolete entries.
    private static let compactionByteCount = 4 << 20
    private static let magic: UInt32 = 0x4D52_564B  // "KVRM"
    private static let headerByteCount = 12
    private static let bodyByteCount = 8 + 8 + 2 * BlockKey.byteCount

    private let path: String
    private var descriptor: Int32
    private var byteCount: Int
    private var compactionThreshold = compactionByteCount

    /// Opens or creates the file and reads it. A torn last record is cut off; `damagedByteCount` says how many bytes
    /// before the last good record could not be read.
    static func open(
        _ path: String
    ) throws(KVStoreError) -> (log: RemovalsLog, removals: RemovalSet, damagedByteCount: Int) {
        let descriptor = try DiskFiles.open(path, O_RDWR | O_CREAT)
        do throws(KVStoreError) {
            let content = try DiskFiles.read(descriptor, path)
            let parsed = parse(content)
            if parsed.goodByteCount < content.count, ftruncate(descriptor, off_t(parsed.goodByteCount)) != 0 {
                throw DiskFiles.error(errno, "shorten", path)
            }
            let log = RemovalsLog(path: path, descriptor: descriptor, byteCount: parsed.goodByteCount)
            return (log, parsed.removals, parsed.damagedByteCount)
        } catch {
            Glibc.close(descriptor)
            throw error
        }
    }

    /// What the file holds.
    func read() throws(KVStoreError) -> RemovalSet { Self.parse(try DiskFiles.read(descriptor, path)).removals }

    /// Returns once the removals would survive a loss of power.
    mutating func append(_ removals: [Removal], oldestSegment: UInt32) throws(KVStoreError) {
        if byteCount > compactionThreshold {
            let content = try DiskFiles.read(descriptor, path)
            try compact(Self.parse(content).removals, oldestSegment: oldestSegment)
        }
        let bytes = removals.flatMap(Self.encoded)
        do throws(KVStoreError) {
            try DiskFiles.write(bytes, to: descriptor, at: byteCount, path)
            try DiskFiles.synchronize(descriptor, path)
        } catch {
            // Half a record must not stand before later ones. Should this fail too, the reader skips it.
            ftruncate(descriptor, off_t(byteCount))
            throw error
        }
        byteCount += bytes.count
    }

    /// Rewrites the file with only the entries that can still concern a segment from `oldestSegment` on.
    mutating func compact(_ removals: RemovalSet, oldestSegment: UInt32) throws(KVStoreError) {
        var kept = removals
        kept.dropObsolete(oldestSegment: oldestSegment)
        let bytes = kept.removals.flatMap(Self.encoded)
        if bytes.count < byteCount {
            try DiskFiles.replace(path, with: bytes)
            let newDescriptor = try DiskFiles.open(path, O_RDWR)
            Glibc.close(descriptor)
            descriptor = newDescriptor
            byteCount = bytes.count
        }
        compactionThreshold = max(Self.compactionByteCount, 2 * byteCount)
    }

    func close() { Glibc.close(descriptor) }

    private static func encoded(_ removal: Removal) -> [UInt8] {
        let zero = BlockKey(word0: 0, word1: 0, word2: 0, word3: 0)
        let (kind, identity): (UInt8, BlockIdentity) =
            switch removal.subject {
            case .block(let identity): (1, identity)
            case .namespace(let tenant, let fingerprint):
                (2, BlockIdentity(tenant: tenant, fingerprint: fingerprint, key: zero))
            case .tenant(let tenant): (3, BlockIdentity(tenant: tenant, fingerprint: zero, key: zero))
            }
        var body = ByteWriter(capacity: bodyByteCount + 4)
        body.append(UInt32(bodyByteCount + removal.extent.openSegments.count * 8))
        body.append(kind)
        body.append(UInt8(0))
        body.append(UInt16(removal.extent.openSegments.count))
        body.append(removal.extent.segmentLimit)
        body.append(identity.tenant)
        body.append(identity.fingerprint)
        body.append(identity.key)
        for open in removal.extent.openSegments {
            body.append(open.segment)
            body.append(open.ordinal)
        }
        var record = ByteWriter(capacity: headerByteCount + bodyByteCount)
        record.append(magic)
        record.append(CRC32C.checksum(body.bytes.span))
        record.append(contentsOf: body.bytes)
        return record.bytes
    }

    private static func parse(
        _ content: [UInt8]
    ) -> (removals: RemovalSet, goodByteCount: Int, damagedByteCount: Int) {
        var removals = RemovalSet()
        var offset = 0
        var goodByteCount = 0
        var damagedByteCount = 0
        while offset + headerByteCount + bodyByteCount <= content.count {
            guard let (removal, length) = record(content, at: offset) else {
                // Search on for the next whole record: one bad byte must not hide the removals behind it.
                offset += 1
                continue
            }
            removals.insert(removal)
            damagedByteCount += offset - goodByteCount
            offset += length
            goodByteCount = offset
        }
        return (removals, goodByteCount, damagedByteCount)
    }

    private static func record(_ content: [UInt8], at offset: Int) -> (removal: Removal, byteCount: Int)? {
        unsafe content.withUnsafeBytes { buffer -> (Removal, Int)? in
            // The caller checked that `offset` is inside; ByteReader checks every length.
            var reader = unsafe ByteReader(UnsafeRawBufferPointer(rebasing: buffer[offset...]))
            guard reader.word32() == magic, let checksum = reader.word32(), let length = reader.word32(),
                length >= bodyByteCount, Int(length) <= reader.remainingByteCount
            else { return nil }
            let end = offset + headerByteCount + Int(length)
            guard CRC32C.checksum(content.span.extracting(offset + 8..<end)) == checksum,
                let kind = reader.byte(), reader.byte() == 0, let openCount = reader.word16(),
                Int(length) == bodyByteCount + Int(openCount) * 8, let segmentLimit = reader.word32(),
                let tenant = reader.word64(), let fingerprint = reader.key(), let key = reader.key()
            else { return nil }
            var extent = Removal.Extent(segmentLimit: segmentLimit, openSegments: [])
            for _ in 0..<openCount {
                guard let segment = reader.word32(), let ordinal = reader.word32() else { return nil }
                extent.openSegments.append(RecordPosition(segment: segment, ordinal: ordinal))
            }
            let identity = BlockIdentity(tenant: tenant, fingerprint: fingerprint, key: key)
            switch kind {
            case 1: return (Removal(subject: .block(identity), extent: extent), end - offset)
            case 2:
                let subject = Removal.Subject.namespace(tenant: tenant, fingerprint: fingerprint)
                return (Removal(subject: subject, extent: extent), end - offset)
            case 3: return (Removal(subject: .tenant(tenant), extent: extent), end - offset)
            default: return nil
            }
        }
    }
}
