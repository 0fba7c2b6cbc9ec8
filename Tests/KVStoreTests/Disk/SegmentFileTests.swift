// The only file of this target that imports RocksDB: its own writer of table files is what ours is held against.
import CRocksDB
import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("Segment files") struct SegmentFileTests {
    /// Keys and values of one file, keys as records have them.
    private typealias Records = [(key: [UInt8], value: [UInt8])]

    /// - Parameter lengths: one value each.
    private static func records(_ lengths: [Int]) -> Records {
        lengths.enumerated().map { number, length in
            let isLast = number == lengths.count - 1
            let ordinal = isLast ? IndexEncoding.footerOrdinal : UInt32(number)
            let key = IndexEncoding.recordKey(RecordPosition(segment: 5, ordinal: ordinal))
            return (key, DiskSample.record(number, byteCount: length))
        }
    }

    /// Lengths around everything that is cut somewhere: pages, pieces that are hashed, chunks that are written.
    private static func lengths(_ random: inout SeededRandom, least: Int) -> [Int] {
        let edges = [4096, 1 << 14, 64 << 10, SequentialFile.chunkByteCount, 2 * SequentialFile.chunkByteCount]
        return (0..<Int.random(in: 1...12, using: &random)).map { _ in
            let near = edges.randomElement(using: &random)! + Int.random(in: -80...80, using: &random)
            return max(least, Bool.random(using: &random) ? near : Int.random(in: 0...200_000, using: &random))
        }
    }

    /// - Parameter spare: For each value, how much more room it is given than it needs, to be written there in place; nil
    ///   for one that is copied.
    private static func writeOurs(
        _ records: Records,
        _ path: String,
        _ buffer: WriteBuffer,
        spare: () -> Int?
    ) throws -> Int {
        let file = try SegmentFile(path: path, buffer)
        for (key, value) in records {
            if let spare = spare() {
                let longest = value.count + spare
                let count = try file.put(key: key, longest: longest) { room in
                    room.copyBytes(from: value)
                    return value.count
                }
                #expect(count == value.count)
                continue
            }
            let outcome = value.withUnsafeBytes { buffer in
                Result { () throws(KVStoreError) in try file.put(key: key, value: buffer) }
            }
            try outcome.get()
        }
        try file.finish()
        return file.byteCount
    }

    /// With what `SstFileWriter` was given before this project wrote its own files.
    private static func writeTheirs(_ records: Records, _ path: String) throws {
        let options = rocksdb_options_create()
        let tables = rocksdb_block_based_options_create()
        let environment = rocksdb_envoptions_create()
        rocksdb_options_set_compression(options, Int32(rocksdb_no_compression))
        rocksdb_block_based_options_set_checksum(tables, CChar(SegmentFile.checksumXXH3))
        rocksdb_block_based_options_set_format_version(tables, Int32(SegmentFile.formatVersion))
        rocksdb_options_set_block_based_table_factory(options, tables)
        let writer = rocksdb_sstfilewriter_create(environment, options)
        defer {
            rocksdb_sstfilewriter_destroy(writer)
            rocksdb_envoptions_destroy(environment)
            rocksdb_block_based_options_destroy(tables)
            rocksdb_options_destroy(options)
        }
        var failure: UnsafeMutablePointer<CChar>?
        rocksdb_sstfilewriter_open(writer, path, &failure)
        for (key, value) in records {
            key.withUnsafeBytes { key in
                value.withUnsafeBytes { value in
                    rocksdb_sstfilewriter_put(
                        writer, key.baseAddress!.assumingMemoryBound(to: CChar.self), key.count,
                        value.baseAddress!.assumingMemoryBound(to: CChar.self), value.count, &failure
                    )
                }
            }
        }
        rocksdb_sstfilewriter_finish(writer, &failure)
        try #require(failure == nil)
    }

    private static func varint(_ bytes: [UInt8]) -> Int {
        bytes.reversed().reduce(0) { $0 << 7 | Int($1 & 0x7F) }
    }

    /// The properties of a table file, found without the code under test: RocksDB shares prefixes of names, we do not.
    private static func properties(_ file: [UInt8]) -> [String: [UInt8]] {
        func varint(_ at: inout Int) -> Int {
            var (result, shift) = (0, 0)
            while true {
                defer { at += 1 }
                result |= Int(file[at] & 0x7F) << shift
                if file[at] < 0x80 { return result }
                shift += 7
            }
        }
        func entries(offset: Int, byteCount: Int) -> [String: [UInt8]] {
            let content = offset + byteCount
            let restarts = (0..<4).reduce(0) { $0 | Int(file[content - 4 + $1]) << (8 * $1) }
            var (at, name, found) = (offset, [UInt8](), [String: [UInt8]]())
            while at < content - 4 - 4 * restarts {
                let (shared, own, length) = (varint(&at), varint(&at), varint(&at))
                name = Array(name.prefix(shared)) + Array(file[at..<at + own])
                found[String(decoding: name, as: UTF8.self)] = Array(file[at + own..<at + own + length])
                at += own + length
            }
            return found
        }
        var at = file.count - SegmentFile.footerByteCount + 1
        let metaindex = entries(offset: varint(&at), byteCount: varint(&at))
        let handle = metaindex["rocksdb.properties"]!
        var (place, values) = (0, [Int]())
        while place < handle.count {
            var (value, shift) = (0, 0)
            repeat {
                value |= Int(handle[place] & 0x7F) << shift
                (shift, place) = (shift + 7, place + 1)
            } while handle[place - 1] >= 0x80
            values.append(value)
        }
        return entries(offset: values[0], byteCount: values[1])
    }

    @Test func `A file holds what RocksDB's own writer makes of the same records`() throws {
        let scratch = DiskScratch()
        let buffer = WriteBuffer()
        for seed in TestScale.seeds(default: 12, full: 200) {
            var random = SeededRandom(seed: seed)
            // Smaller records would share a block of theirs; of ours each has its own.
            let records = Self.records(Self.lengths(&random, least: 4200))
            let byteCount = try Self.writeOurs(records, scratch.path + "/ours", buffer) {
                Bool.random(using: &random) ? Int.random(in: 0...3000, using: &random) : nil
            }
            try Self.writeTheirs(records, scratch.path + "/theirs")
            let ours = [UInt8](try Data(contentsOf: URL(filePath: scratch.path + "/ours")))
            let theirs = [UInt8](try Data(contentsOf: URL(filePath: scratch.path + "/theirs")))
            #expect(ours.count == byteCount)
            let (found, expected) = (Self.properties(ours), Self.properties(theirs))
            // All blocks of data, of which both say the same length below.
            let dataByteCount = Self.varint(try #require(found["rocksdb.data.size"]))
            #expect(dataByteCount > records.reduce(0) { $0 + $1.value.count })
            #expect(ours.prefix(dataByteCount) == theirs.prefix(dataByteCount), "seed \(seed)")
            // Their index is shorter, it keeps only as much of a key as tells it from the next; a session is one file's.
            let differs: Set = ["rocksdb.index.size", "rocksdb.creating.session.identity"]
            #expect(Set(found.keys).isSubset(of: expected.keys), "seed \(seed)")
            for (name, value) in found where !differs.contains(name) {
                #expect(value == expected[name], "\(name), seed \(seed)")
            }
            let missing = Set(expected.keys).subtracting(found.keys)
            let optional: Set = [
                "rocksdb.compression_options", "rocksdb.creating.host.identity", "rocksdb.creation.time",
                "rocksdb.oldest.key.time",
            ]
            #expect(missing.subtracting(optional) == [], "seed \(seed)")
            #expect(try TableFile.isIntact(scratch.path + "/ours", includingEnds: true), "seed \(seed)")
        }
    }

    @Test func `Records of any length come back through RocksDB and past it`() throws {
        for seed in TestScale.seeds(default: 12, full: 200) {
            let scratch = DiskScratch()
            let log = try scratch.open()
            var random = SeededRandom(seed: seed)
            var expected: [UInt32: [Int]] = [:]
            for _ in 0..<3 {
                let lengths = Self.lengths(&random, least: 0)
                let writer = try log.beginSegment()
                for (number, length) in lengths.enumerated() {
                    try writer.append(DiskSample.row(number), DiskSample.record(number, byteCount: length))
                }
                expected[try writer.seal().info.id] = lengths
            }
            for (segment, lengths) in expected {
                for (number, length) in lengths.enumerated() {
                    let bytes = try log.read(segment: segment, ordinal: UInt32(number)) { Array($0) }
                    #expect(bytes == DiskSample.record(number, byteCount: length), "seed \(seed)")
                }
                let all = lengths.enumerated().map { DiskSample.record($0, byteCount: $1) }
                let part = Int.random(in: 1 << 12...RecordReader.windowByteCount - pageByteCount, using: &random)
                let found = try #require(try log.straight(segment, 0..<UInt32(lengths.count), part: part))
                for (record, expected) in zip(found, all) where !expected.isEmpty {
                    #expect(record == expected, "\(expected.count) bytes, seed \(seed)")
                }
            }
            #expect(!log.isBroken)
        }
    }

    @Test func `Another file under the name of a segment is found out at the next open`() throws {
        let scratch = DiskScratch()
        let log = try scratch.open()
        // The same records, so that only the files' own ids differ.
        let first = try log.write(0..<3)
        let second = try log.write(0..<3)
        let (firstPath, secondPath) = (try scratch.table(of: first, in: log), try scratch.table(of: second, in: log))
        log.close()
        try scratch.delete([firstPath])
        try FileManager.default.copyItem(atPath: secondPath, toPath: firstPath)
        let again = try scratch.open()
        #expect(again.recovery.wasRepaired)
        #expect(again.segments().map(\.id) == [second])
    }

    @Test func `A buffer grows with the longest record and is used again`() throws {
        let scratch = DiskScratch()
        let buffer = WriteBuffer()
        #expect(buffer.byteCount == 0)
        for (number, lengths) in [[5000, 5 << 20, 100], [3 << 20, 5 << 20, 3 << 20, 3]].enumerated() {
            let path = scratch.path + "/\(number)"
            _ = try Self.writeOurs(Self.records(lengths), path, buffer) { 0 }
            // The record with its head takes a sixth chunk; one is not full, one on its way.
            #expect(buffer.byteCount == 8 << 20)
            #expect(try TableFile.isIntact(path, includingEnds: true))
        }
    }

    @Test func `A writer that is abandoned in the middle leaves nothing`() throws {
        let scratch = DiskScratch()
        let log = try scratch.open()
        for count in [0, 1, 5, 9] {
            let writer = try log.beginSegment()
            for number in 0..<count {
                try writer.append(DiskSample.row(number), DiskSample.record(number, byteCount: 1 << 20))
            }
            writer.abandon()
            #expect(scratch.files("incoming").isEmpty)
        }
    }
}
