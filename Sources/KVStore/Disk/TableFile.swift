import Glibc

/// A look at a table file without RocksDB: whether it can be opened, and where its blocks of data are.
///
/// RocksDB 7.8.3 goes on when it cannot read a table's properties or its first block, and then runs into an assertion,
/// or takes the file in with an empty range. So the parts that it needs for opening a table are checked here first:
/// footer, metaindex, everything that the metaindex names, and the index. The format is described in
/// https://github.com/facebook/rocksdb/wiki/Rocksdb-BlockBasedTable-Format
struct TableFile {
    private struct Handle {
        var offset: UInt64
        var byteCount: UInt64
    }

    private let descriptor: Int32
    private let byteCount: UInt64

    /// Whether the table can be opened.
    ///
    /// - Parameter includingEnds: also reads the first and the last block of data, which taking a file in needs.
    static func isIntact(_ path: String, includingEnds: Bool) throws(KVStoreError) -> Bool {
        let descriptor = try DiskFiles.open(path, O_RDONLY)
        defer { close(descriptor) }
        let end = lseek(descriptor, 0, SEEK_END)
        guard end >= SegmentFile.footerByteCount else { return false }
        return TableFile(descriptor: descriptor, byteCount: UInt64(end)).isIntact(includingEnds)
    }

    /// Where the blocks of data begin, in order, and where the last ends; nil when the index cannot be read, or the blocks
    /// do not lie side by side from the start of the file on.
    static func dataBlockOffsets(_ path: String) throws(KVStoreError) -> [UInt64]? {
        let descriptor = try DiskFiles.open(path, O_RDONLY)
        defer { close(descriptor) }
        let end = lseek(descriptor, 0, SEEK_END)
        guard end >= SegmentFile.footerByteCount else { return nil }
        let file = TableFile(descriptor: descriptor, byteCount: UInt64(end))
        guard let (_, index) = file.footer(), let block = file.block(index), let restarts = restarts(of: block) else {
            return nil
        }
        var offsets: [UInt64] = [0]
        for number in 0..<restarts.count {
            guard let handle = handle(number, ofIndex: block, restarts.offset), handle.offset == offsets.last!,
                handle.byteCount < file.byteCount
            else { return nil }
            offsets.append(handle.offset + handle.byteCount + UInt64(SegmentFile.blockTrailerByteCount))
        }
        return offsets
    }

    /// Where metaindex and index are.
    private func footer() -> (metaindex: Handle, index: Handle)? {
        guard let footer = read(at: byteCount - UInt64(SegmentFile.footerByteCount), count: SegmentFile.footerByteCount)
        else { return nil }
        var tail = Cursor(bytes: footer, offset: SegmentFile.footerByteCount - 12)
        var head = Cursor(bytes: footer)
        guard tail.word32() == SegmentFile.formatVersion, tail.word64() == SegmentFile.magic,
            head.byte() == SegmentFile.checksumXXH3, let metaindex = head.handle(), let index = head.handle()
        else { return nil }
        return (metaindex, index)
    }

    private func isIntact(_ includingEnds: Bool) -> Bool {
        guard let (metaindex, index) = footer(), let metaindexBlock = block(metaindex), let indexBlock = block(index)
        else { return false }
        guard let metaBlocks = Self.entries(ofMetaindex: metaindexBlock), !metaBlocks.isEmpty,
            metaBlocks.allSatisfy({ block($0) != nil })
        else { return false }
        guard includingEnds else { return true }
        guard let (first, last) = Self.ends(ofIndex: indexBlock) else { return false }
        return block(first) != nil && block(last) != nil
    }

    /// The content of a block, or nil when it is not what was written.
    private func block(_ handle: Handle) -> [UInt8]? {
        let limit = byteCount - UInt64(SegmentFile.footerByteCount)
        guard handle.offset <= limit, handle.byteCount <= limit - handle.offset,
            let bytes = read(at: handle.offset, count: Int(handle.byteCount) + SegmentFile.blockTrailerByteCount)
        else { return nil }
        var trailer = Cursor(bytes: bytes, offset: Int(handle.byteCount))
        // Nothing of ours is compressed, so the type is zero, with which the checksum is that of the content alone.
        guard trailer.byte() == 0, let checksum = trailer.word32() else { return nil }
        let digest = unsafe bytes.withUnsafeBytes { buffer in
            // In range: the array was read with the trailer behind the content.
            unsafe XXH3.digest(UnsafeRawBufferPointer(rebasing: buffer.dropLast(SegmentFile.blockTrailerByteCount)))
        }
        guard UInt32(truncatingIfNeeded: digest) == checksum else { return nil }
        return Array(bytes.dropLast(SegmentFile.blockTrailerByteCount))
    }

    /// Where the blocks are that a metaindex names.
    private static func entries(ofMetaindex block: [UInt8]) -> [Handle]? {
        guard let entriesEnd = restarts(of: block)?.offset else { return nil }
        var cursor = Cursor(bytes: block)
        var handles: [Handle] = []
        while cursor.offset < entriesEnd {
            guard cursor.varint() != nil, let keyByteCount = cursor.varint(), let valueByteCount = cursor.varint(),
                cursor.skip(keyByteCount)
            else { return nil }
            let valueOffset = cursor.offset
            guard let handle = cursor.handle(), UInt64(cursor.offset - valueOffset) == valueByteCount else {
                return nil
            }
            handles.append(handle)
        }
        return handles
    }

    /// Where the first and the last block of data are. Every entry of an index stands alone (restart interval 1) and
    /// has no length of its value (format version 4 and later).
    private static func ends(ofIndex block: [UInt8]) -> (first: Handle, last: Handle)? {
        guard let restarts = restarts(of: block), restarts.count > 0,
            let first = handle(0, ofIndex: block, restarts.offset),
            let last = handle(restarts.count - 1, ofIndex: block, restarts.offset)
        else { return nil }
        return (first, last)
    }

    private static func handle(_ number: Int, ofIndex block: [UInt8], _ restartsOffset: Int) -> Handle? {
        var cursor = Cursor(bytes: block, offset: restartsOffset + 4 * number)
        guard let offset = cursor.word32(), Int(offset) < restartsOffset else { return nil }
        cursor.offset = Int(offset)
        guard cursor.varint() == 0, let keyByteCount = cursor.varint(), cursor.skip(keyByteCount) else { return nil }
        return cursor.handle()
    }

    /// Where the list of restart points at the end of a block begins, and how many there are.
    private static func restarts(of block: [UInt8]) -> (offset: Int, count: Int)? {
        var cursor = Cursor(bytes: block, offset: block.count - 4)
        guard block.count >= 4, let word = cursor.word32() else { return nil }
        let count = Int(word & 0x7FFF_FFFF)  // The top bit says how a block of data is searched.
        let offset = block.count - 4 - 4 * count
        return offset >= 0 ? (offset, count) : nil
    }

    private func read(at offset: UInt64, count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        var done = 0
        while done < count {
            let result = unsafe bytes.withUnsafeMutableBytes { buffer in
                // In range: `done` is below the count.
                unsafe pread(descriptor, buffer.baseAddress! + done, count - done, off_t(offset) + off_t(done))
            }
            if result == 0 || (result < 0 && errno != EINTR) { return nil }
            done += max(0, result)
        }
        return bytes
    }

    private struct Cursor {
        let bytes: [UInt8]
        var offset = 0

        mutating func byte() -> UInt8? {
            guard offset < bytes.count else { return nil }
            defer { offset += 1 }
            return bytes[offset]
        }

        mutating func word32() -> UInt32? {
            guard offset + 4 <= bytes.count else { return nil }
            defer { offset += 4 }
            return (0..<4).reduce(0) { $0 | UInt32(bytes[offset + $1]) << UInt32(8 * $1) }
        }

        mutating func word64() -> UInt64? {
            guard let low = word32(), let high = word32() else { return nil }
            return UInt64(high) << 32 | UInt64(low)
        }

        mutating func varint() -> UInt64? {
            var result: UInt64 = 0
            for shift in stride(from: UInt64(0), to: 63, by: 7) {
                guard let byte = byte() else { return nil }
                result |= UInt64(byte & 0x7F) << shift
                if byte < 0x80 { return result }
            }
            return nil
        }

        mutating func skip(_ count: UInt64) -> Bool {
            guard count <= UInt64(bytes.count - offset) else { return false }
            offset += Int(count)
            return true
        }

        mutating func handle() -> Handle? {
            guard let offset = varint(), let byteCount = varint() else { return nil }
            return Handle(offset: offset, byteCount: byteCount)
        }
    }
}
