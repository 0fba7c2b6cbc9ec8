/// A segment file being written: a table in RocksDB's block-based format, version 5, as its own `SstFileWriter` would
/// make it, for being taken in by an ingest. One caller at a time.
///
/// Written here because that writer goes through the page cache, copies every byte three times on the way and lets the
/// disk wait meanwhile; it took 0.3 to 0.5 ms of processor time a MiB more. Every record is a block of data of its own.
/// A test holds the bytes against those that `SstFileWriter` makes of the same records. The format:
/// https://github.com/facebook/rocksdb/wiki/Rocksdb-BlockBasedTable-Format
///
/// ```
/// block of data:  0, key length, value length (varints), key, 0x0000000000000001 (a put, sequence 0), value, restarts
/// index:          per block of data 0, key length (varints), key, handle; restarts
/// properties:     per property 0, name length, value length (varints), name, value; restarts
/// metaindex:      the same, with a handle as value
/// footer:         4 (checksums are XXH3), handle of the metaindex, of the index, zeros up to 41 bytes, version, magic
/// ```
/// A handle is offset and length as varints; restarts are the places of entries without a shared prefix, and their number.
/// After every block: 0 (not compressed), the low half of the content's XXH3.
final class SegmentFile: @unchecked Sendable {  // Its only owner keeps it under a lock.
    private let file: SequentialFile
    private let digest: XXH3.Stream
    private var index = TableBlock(capacity: 4096)
    private var count = 0
    private var keyByteCount = 0
    private var valueByteCount = 0
    /// Of the value before, which the next will be about as long as.
    private var lastValueByteCount: Int?

    static let formatVersion: UInt32 = 5
    static let checksumXXH3: UInt8 = 4
    static let magic: UInt64 = 0x88E2_41B7_85F4_CFF7
    static let footerByteCount = 53
    /// After every block: its compression, none, and its checksum.
    static let blockTrailerByteCount = 5
    /// After the value in a block of data: one restart, at 0.
    private static let restarts: [UInt8] = [0, 0, 0, 0, 1, 0, 0, 0]
    static let restartsByteCount = restarts.count
    /// A piece of a value that is hashed and then copied: the second finds it in the processor's cache.
    private static let pieceByteCount = 64 << 10
    /// A put with sequence 0, as RocksDB appends it to a key.
    private static let keySuffix: UInt64 = 1

    /// Makes the file.
    init(path: String, _ buffer: WriteBuffer) throws(KVStoreError) {
        guard let digest = XXH3.Stream() else { throw KVStoreError(.io, "no memory for writing \(path)") }
        self.digest = digest
        file = try SequentialFile(path: path, buffer: buffer)
    }

    var byteCount: Int { file.byteCount }

    /// What was waited for the disk.
    var waitNanoseconds: UInt64 { file.waitNanoseconds }

    /// Keys must ascend. After an error the file is of no use.
    func put(key: [UInt8], value: UnsafeRawBufferPointer) throws(KVStoreError) {
        let start = file.byteCount
        digest.restart()
        try append(Self.head(key: key, valueByteCount: value.count))
        for offset in stride(from: 0, to: value.count, by: Self.pieceByteCount) {
            let end = min(value.count, offset + Self.pieceByteCount)
            // The caller's buffer lives for the length of this call.
            try unsafe append(UnsafeRawBufferPointer(rebasing: value[offset..<end]))
        }
        try append(Self.restarts)
        note(key, valueByteCount: value.count, at: try endBlock(from: start))
    }

    /// As above, for a value of up to `longest` bytes that `encode` writes to its place in the file; it says how many.
    func put(
        key: [UInt8],
        longest: Int,
        _ encode: (UnsafeMutableRawBufferPointer) -> Int
    ) throws(KVStoreError) -> Int {
        let start = file.byteCount
        let headByteCount = Self.head(key: key, valueByteCount: lastValueByteCount ?? longest).count
        let endByteCount = Self.restartsByteCount + Self.blockTrailerByteCount
        let room = try unsafe file.room(Self.headByteCount(lengthByteCount: 5) + longest + endByteCount)
        // In range, as everything below: the room is for the longest value and the longest head.
        let place = headByteCount..<headByteCount + longest
        let count = unsafe encode(UnsafeMutableRawBufferPointer(rebasing: room[place]))
        precondition(count <= longest, "a value of \(count) bytes in a room for \(longest)")
        lastValueByteCount = count
        let head = Self.head(key: key, valueByteCount: count)
        if head.count != headByteCount {
            // The length of the value takes more or fewer bytes than that of the one before.
            let value = unsafe UnsafeRawBufferPointer(rebasing: room[headByteCount..<headByteCount + count])
            unsafe UnsafeMutableRawBufferPointer(rebasing: room[head.count...]).copyMemory(from: value)
        }
        unsafe room.copyBytes(from: head)
        let end = head.count + count
        unsafe UnsafeMutableRawBufferPointer(rebasing: room[end...]).copyBytes(from: Self.restarts)
        let handle = TableHandle(offset: start, byteCount: end + Self.restartsByteCount)
        let digest = unsafe XXH3.digest(UnsafeRawBufferPointer(rebasing: room[..<handle.byteCount]))
        unsafe UnsafeMutableRawBufferPointer(rebasing: room[handle.byteCount...]).copyBytes(from: Self.trailer(digest))
        try file.advance(handle.byteCount + Self.blockTrailerByteCount)
        note(key, valueByteCount: count, at: handle)
        return count
    }

    private func note(_ key: [UInt8], valueByteCount: Int, at handle: TableHandle) {
        index.append(key: key, handle: handle)
        count += 1
        keyByteCount += key.count + 8
        self.valueByteCount += valueByteCount
    }

    /// What is before the value in a block of data.
    static func head(key: [UInt8], valueByteCount: Int) -> [UInt8] {
        var head = ByteWriter(capacity: 32)
        head.append(varint: 0)
        head.append(varint: key.count + 8)
        head.append(varint: valueByteCount)
        head.append(contentsOf: key)
        head.append(keySuffix)
        return head.bytes
    }

    /// The length of a record's `head`, by that of the value's length.
    static func headByteCount(lengthByteCount: Int) -> Int {
        2 + lengthByteCount + IndexEncoding.recordKeyByteCount + 8
    }

    /// Writes index, properties and footer, and syncs the file.
    func finish() throws(KVStoreError) {
        let dataByteCount = file.byteCount
        let indexHandle = try append(index)
        let properties = try append(self.properties(dataByteCount, file.byteCount - dataByteCount))
        var metaindex = TableBlock(capacity: 64)
        metaindex.append(name: "rocksdb.properties", value: properties.bytes)
        let metaindexHandle = try append(metaindex)
        var footer = ByteWriter(capacity: Self.footerByteCount)
        footer.append(Self.checksumXXH3)
        footer.append(contentsOf: metaindexHandle.bytes)
        footer.append(contentsOf: indexHandle.bytes)
        while footer.bytes.count < Self.footerByteCount - 12 { footer.append(0 as UInt8) }
        footer.append(Self.formatVersion)
        footer.append(Self.magic)
        try append(footer.bytes)
        try file.finish()
    }

    /// What a reader and an ingest want to know, in the order of the names. Numbers are varints if not said otherwise.
    private func properties(_ dataByteCount: Int, _ indexByteCount: Int) -> TableBlock {
        func number(_ value: Int) -> [UInt8] {
            var bytes = ByteWriter(capacity: 10)
            bytes.append(varint: value)
            return bytes.bytes
        }
        func fixed(_ value: some FixedWidthInteger & BitwiseCopyable) -> [UInt8] {
            var bytes = ByteWriter(capacity: 8)
            bytes.append(value)
            return bytes.bytes
        }
        var block = TableBlock(capacity: 1024)
        // Binary search.
        block.append(name: "rocksdb.block.based.table.index.type", value: fixed(UInt32(0)))
        block.append(name: "rocksdb.block.based.table.prefix.filtering", value: Array("0".utf8))
        block.append(name: "rocksdb.block.based.table.whole.key.filtering", value: Array("1".utf8))
        // Any.
        block.append(name: "rocksdb.column.family.id", value: number(Int(Int32.max)))
        block.append(name: "rocksdb.comparator", value: Array("leveldb.BytewiseComparator".utf8))
        block.append(name: "rocksdb.compression", value: Array("NoCompression".utf8))
        // Together with the original number they make the file's unique id, which RocksDB notes at the ingest and compares
        // when it opens the file: another file under this one's name is found out.
        block.append(name: "rocksdb.creating.db.identity", value: Array("SST Writer".utf8))
        block.append(name: "rocksdb.creating.session.identity", value: Self.newSessionIdentity())
        block.append(name: "rocksdb.data.size", value: number(dataByteCount))
        block.append(name: "rocksdb.deleted.keys", value: number(0))
        block.append(name: "rocksdb.external_sst_file.global_seqno", value: fixed(UInt64(0)))
        block.append(name: "rocksdb.external_sst_file.version", value: fixed(UInt32(2)))
        block.append(name: "rocksdb.filter.size", value: number(0))
        block.append(name: "rocksdb.fixed.key.length", value: number(0))
        block.append(name: "rocksdb.format.version", value: number(0))
        block.append(name: "rocksdb.index.key.is.user.key", value: number(1))
        block.append(name: "rocksdb.index.size", value: number(indexByteCount))
        block.append(name: "rocksdb.index.value.is.delta.encoded", value: number(1))
        block.append(name: "rocksdb.merge.operands", value: number(0))
        block.append(name: "rocksdb.merge.operator", value: Array("nullptr".utf8))
        block.append(name: "rocksdb.num.data.blocks", value: number(count))
        block.append(name: "rocksdb.num.entries", value: number(count))
        block.append(name: "rocksdb.num.filter_entries", value: number(0))
        block.append(name: "rocksdb.num.range-deletions", value: number(0))
        block.append(name: "rocksdb.original.file.number", value: number(1))
        block.append(name: "rocksdb.prefix.extractor.name", value: Array("nullptr".utf8))
        block.append(name: "rocksdb.property.collectors", value: Array("[]".utf8))
        block.append(name: "rocksdb.raw.key.size", value: number(keyByteCount))
        block.append(name: "rocksdb.raw.value.size", value: number(valueByteCount))
        // The whole block is searched from its start.
        block.keepFirstRestart()
        return block
    }

    /// 20 digits to the base of 36, which no other file has.
    private static func newSessionIdentity() -> [UInt8] {
        let digits = Array("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ".utf8)
        return (0..<20).map { _ in digits.randomElement()! }
    }

    // MARK: Bytes

    private func append(_ block: TableBlock) throws(KVStoreError) -> TableHandle {
        let start = file.byteCount
        digest.restart()
        try append(block.finished)
        return try endBlock(from: start)
    }

    /// Writes what stands after every block.
    private func endBlock(from start: Int) throws(KVStoreError) -> TableHandle {
        let handle = TableHandle(offset: start, byteCount: file.byteCount - start)
        try append(Self.trailer(digest.digest))
        return handle
    }

    /// What follows a block whose content has this digest.
    private static func trailer(_ digest: UInt64) -> [UInt8] {
        var trailer = ByteWriter(capacity: blockTrailerByteCount)
        trailer.append(0 as UInt8)
        trailer.append(UInt32(truncatingIfNeeded: digest))
        return trailer.bytes
    }

    private func append(_ bytes: [UInt8]) throws(KVStoreError) {
        // `append` throws KVStoreError only; closures of withUnsafeBytes lose the type, hence the detour.
        let outcome = unsafe bytes.withUnsafeBytes { buffer in
            Result { () throws(KVStoreError) in try unsafe append(buffer) }
        }
        try outcome.get()
    }

    private func append(_ bytes: UnsafeRawBufferPointer) throws(KVStoreError) {
        unsafe digest.append(bytes)
        try unsafe file.append(bytes)
    }
}

/// Where a block is in a table file.
private struct TableHandle {
    let offset: Int
    let byteCount: Int

    var bytes: [UInt8] {
        var bytes = ByteWriter(capacity: 20)
        bytes.append(varint: offset)
        bytes.append(varint: byteCount)
        return bytes.bytes
    }
}

/// Entries with the places where they begin; none shares a prefix with the one before it.
private struct TableBlock {
    private var entries: ByteWriter
    private var restarts: [UInt32] = []

    init(capacity: Int) { entries = ByteWriter(capacity: capacity) }

    /// An entry of an index, whose handle says itself how long it is.
    mutating func append(key: [UInt8], handle: TableHandle) {
        restarts.append(UInt32(entries.bytes.count))
        entries.append(varint: 0)
        entries.append(varint: key.count)
        entries.append(contentsOf: key)
        entries.append(contentsOf: handle.bytes)
    }

    mutating func append(name: String, value: [UInt8]) {
        restarts.append(UInt32(entries.bytes.count))
        entries.append(varint: 0)
        entries.append(varint: name.utf8.count)
        entries.append(varint: value.count)
        entries.append(contentsOf: Array(name.utf8))
        entries.append(contentsOf: value)
    }

    mutating func keepFirstRestart() { restarts = Array(restarts.prefix(1)) }

    var finished: [UInt8] {
        var result = entries
        for restart in restarts { result.append(restart) }
        result.append(UInt32(restarts.count))
        return result.bytes
    }
}

extension ByteWriter {
    /// Seven bits a byte, the lowest first; the top bit says that more come.
    fileprivate mutating func append(varint value: Int) {
        var rest = UInt64(value)
        while rest >= 0x80 {
            append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        append(UInt8(rest))
    }
}
