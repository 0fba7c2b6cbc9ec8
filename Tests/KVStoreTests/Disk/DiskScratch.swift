import Foundation
import Testing

@testable import KVStore

/// A directory of a test's own, deleted when the test lets go of it.
final class DiskScratch: Sendable {
    let path: String

    init() {
        var template = Array((NSTemporaryDirectory() + "/kvstore-disk-XXXXXX").utf8CString)
        path = String(cString: mkdtemp(&template)!)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// Where tests keep the store's directory.
    var store: String { path + "/store" }

    func open(_ options: SegmentLogOptions = SegmentLogOptions()) throws(KVStoreError) -> SegmentLog {
        try SegmentLog(directory: store, options: options)
    }

    /// A copy of the directory as it is now, while the store has it open: what a `kill -9` would leave behind.
    func afterKill() throws -> DiskScratch {
        let copy = DiskScratch()
        try FileManager.default.copyItem(atPath: store, toPath: copy.store)
        return copy
    }

    func files(_ folder: String = "db", suffix: String = "") -> [String] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: store + "/" + folder)) ?? []
        return names.filter { $0.hasSuffix(suffix) }.sorted().map { store + "/" + folder + "/" + $0 }
    }

    func files(prefix: String) -> [String] {
        files().filter { $0.split(separator: "/").last!.hasPrefix(prefix) }
    }

    func delete(_ paths: [String]) throws {
        for path in paths { try FileManager.default.removeItem(atPath: path) }
    }

    func exists(_ name: String) -> Bool { FileManager.default.fileExists(atPath: store + "/" + name) }

    /// The table file of a segment, found by its record's bytes being in it.
    func table(of segment: UInt32, in log: SegmentLog) throws -> String {
        let table = try #require(try log.liveTables().first { $0.segment == segment })
        return store + "/db/" + table.name
    }
}

extension DiskScratch {
    /// Changes bytes of a file in place.
    static func damage(_ path: String, at offset: Int, with bytes: [UInt8] = [0xDE, 0xAD, 0xBE, 0xEF]) throws {
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        defer { try? file.close() }
        try file.seek(toOffset: UInt64(offset))
        try file.write(contentsOf: bytes)
    }

    static func fileSize(_ path: String) throws -> Int {
        try #require(try FileManager.default.attributesOfItem(atPath: path)[.size] as? Int)
    }

    static func shorten(_ path: String, to byteCount: Int) throws {
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        defer { try? file.close() }
        try file.truncate(atOffset: UInt64(byteCount))
    }
}

/// Blocks to write; each can be told from all others by its bytes.
enum DiskSample {
    /// A key that says which number it was made from.
    static func key(_ number: Int, kind: UInt64 = 7) -> BlockKey {
        let word = UInt64(bitPattern: Int64(number))
        return BlockKey(word0: word, word1: kind, word2: word &* 0x9E37_79B9_7F4A_7C15, word3: 1)
    }

    static let namespaceA = DiskSample.key(1, kind: 100)
    static let namespaceB = DiskSample.key(2, kind: 100)

    static func identity(_ number: Int, tenant: UInt64 = 1, fingerprint: BlockKey = DiskSample.namespaceA)
        -> BlockIdentity
    {
        BlockIdentity(tenant: tenant, fingerprint: fingerprint, key: DiskSample.key(number))
    }

    static func row(_ number: Int, tenant: UInt64 = 1, fingerprint: BlockKey = DiskSample.namespaceA) -> IndexRow {
        IndexRow(
            key: DiskSample.key(number),
            parent: DiskSample.key(number - 1),
            fingerprint: fingerprint,
            tenant: tenant,
            rawByteCount: 4096,
            uses: UInt32(number),
            sequence: UInt64(number) * 10
        )
    }

    /// The record of a block: its number in front, then bytes that depend on it.
    static func record(_ number: Int, byteCount: Int = 4096) -> [UInt8] {
        var state = UInt64(number) &* 2 &+ 1
        var bytes = [UInt8]()
        bytes.reserveCapacity(byteCount)
        for _ in 0..<byteCount {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            bytes.append(UInt8(truncatingIfNeeded: state >> 56))
        }
        return bytes
    }
}

extension SegmentWriter {
    func append(_ row: IndexRow, _ record: [UInt8], carriedFrom origin: RecordPosition? = nil) throws {
        let result = record.withUnsafeBytes { buffer in
            Result { () throws(KVStoreError) in try append(row, record: buffer, carriedFrom: origin) }
        }
        _ = try result.get()
    }
}

extension SegmentLog {
    /// Writes one segment with these blocks and returns its id.
    @discardableResult
    func write(
        _ numbers: some Sequence<Int>,
        tenant: UInt64 = 1,
        fingerprint: BlockKey = DiskSample.namespaceA,
        byteCount: Int = 4096
    ) throws -> UInt32 {
        let writer = try beginSegment()
        for number in numbers {
            try writer.append(
                DiskSample.row(number, tenant: tenant, fingerprint: fingerprint),
                DiskSample.record(number, byteCount: byteCount)
            )
        }
        return try writer.seal().info.id
    }

    /// The blocks that the index has and whose records read back as written. A wrong byte fails the test.
    func blocks(tenant: UInt64? = nil, byteCount: Int = 4096) throws -> Set<Int> {
        var rows: [IndexRow] = []
        try forEachRow { found in
            if tenant == nil || found.tenant == tenant { rows.append(found) }
            return true
        }
        var numbers: Set<Int> = []
        for found in rows {
            let number = Int(found.key.word0)
            do {
                let bytes = try read(segment: found.segment, ordinal: found.ordinal) { Array($0) }
                #expect(bytes == DiskSample.record(number, byteCount: byteCount), "wrong bytes of block \(number)")
                numbers.insert(number)
            } catch {
                #expect(error.code == .corrupt)
            }
        }
        return numbers
    }
}

extension SegmentLog {
    /// Records of a segment straight from its file, lent in parts of `part` bytes; nil for those that cannot be had.
    func straight(_ segment: UInt32, _ ordinals: some Sequence<UInt32>, part: Int = 700_001) throws -> [[UInt8]?]? {
        let ordinals = Array(ordinals)
        return try withReader(of: segment) { reader in
            ordinals.map { ordinal in
                let position = RecordPosition(segment: segment, ordinal: ordinal)
                return reader.record(position, until: ordinals.last!).flatMap { Self.bytes($0, part: part) }
            }
        }
    }

    private static func bytes(_ record: RecordInFile, part: Int) -> [UInt8]? {
        var bytes: [UInt8] = []
        while bytes.count < record.byteCount {
            guard let lent = record.lend(bytes.count..<min(record.byteCount, bytes.count + part)) else { return nil }
            bytes.append(contentsOf: lent)
        }
        return bytes
    }
}
