internal import Glibc

/// `scrub.cursor`: where the scrub of the disk goes on after a restart. Losing it costs a pass from the beginning.
///
/// ```
/// magic(4) CRC-32C of the rest(4) version(4) zero(4) segment(4) ordinal(4)
/// ```
struct ScrubCursor: Sendable {
    private static let magic: UInt32 = 0x4353_564B  // "KVSC"
    private static let version: UInt32 = 1
    private static let byteCount = 24

    let path: String

    /// - Parameter directory: the store's.
    init(directory: String) { path = directory + "/scrub.cursor" }

    /// The position that was written last; nil when there is none that can be trusted.
    func load() -> RecordPosition? {
        guard let descriptor = try? DiskFiles.open(path, O_RDONLY) else { return nil }
        defer { close(descriptor) }
        guard let bytes = try? DiskFiles.read(descriptor, path) else { return nil }
        return Self.decode(bytes)
    }

    /// Replaces the file. A failure is nobody's concern: the old position is as good, only older.
    func save(_ position: RecordPosition) { try? DiskFiles.replace(path, with: Self.encode(position)) }

    static func encode(_ position: RecordPosition) -> [UInt8] {
        var body = ByteWriter(capacity: byteCount)
        body.append(version)
        body.append(UInt32(0))
        body.append(position.segment)
        body.append(position.ordinal)
        var file = ByteWriter(capacity: byteCount)
        file.append(magic)
        file.append(CRC32C.checksum(body.bytes.span))
        file.append(contentsOf: body.bytes)
        return file.bytes
    }

    static func decode(_ bytes: [UInt8]) -> RecordPosition? {
        guard bytes.count == byteCount else { return nil }
        return unsafe bytes.withUnsafeBytes { buffer -> RecordPosition? in
            // ByteReader checks every length.
            var reader = unsafe ByteReader(buffer)
            guard reader.word32() == magic, reader.word32() == CRC32C.checksum(bytes.span.extracting(8...)),
                reader.word32() == version, reader.word32() == 0,
                let segment = reader.word32(), let ordinal = reader.word32()
            else { return nil }
            return RecordPosition(segment: segment, ordinal: ordinal)
        }
    }
}
