import Glibc

/// Where the records of a segment are in its file.
struct SegmentLayout: Sendable {
    let path: String
    /// Where the block of data of each record begins, by ordinal; behind them the footer's, and where that ends.
    let offsets: [UInt32]

    /// Nil for a file that this project's writer did not make, in which several records may share a block.
    init?(path: String, recordCount: Int) throws(KVStoreError) {
        guard let found = try TableFile.dataBlockOffsets(path), found.count == recordCount + 2,
            found.last! <= UInt64(UInt32.max)
        else { return nil }
        self.path = path
        offsets = found.map { UInt32($0) }
    }

    /// The block of data of a record, without what follows every block.
    func block(_ ordinal: UInt32) -> Range<Int>? {
        guard Int(ordinal) + 2 < offsets.count else { return nil }
        let end = Int(offsets[Int(ordinal) + 1]) - SegmentFile.blockTrailerByteCount
        return Int(offsets[Int(ordinal)])..<max(end, Int(offsets[Int(ordinal)]))
    }
}

/// Reads the records of one segment straight from its file, through a window of fixed size.
///
/// RocksDB reads a block into a buffer, copies it to the heap, hashes it there and lends it; a block of several MiB comes
/// in one piece, too large for the caches. Here a piece is read around the page cache, hashed and decoded while it is in
/// them, and the window is used again. Nothing is checked but that a record's head is the one that was asked for: what is
/// lent has to be proved by its own digests, and where that fails, or anything else, the record is to be read through
/// RocksDB, which says why.
///
/// @unchecked Sendable: one thread has it at a time, between which it lies in the log's pool.
@safe
final class RecordReader: @unchecked Sendable {
    /// Several records of a run at once, or some units of a large one.
    static let windowByteCount = 5 << 18

    private let window: PageBuffer
    private var descriptor: Int32 = -1
    private var layout: SegmentLayout?
    /// What of the file is in the window.
    private var held = 0..<0

    /// Nil when there is no memory.
    init?() {
        guard let window = PageBuffer(byteCount: Self.windowByteCount) else { return nil }
        self.window = window
    }

    deinit { end() }

    /// From here on records of another segment are read. False when its file cannot be opened.
    func begin(_ layout: SegmentLayout, direct: Bool) -> Bool {
        end()
        guard let opened = try? DiskFiles.openForReads(layout.path, direct: direct) else { return false }
        descriptor = opened
        self.layout = layout
        return true
    }

    func end() {
        if descriptor >= 0 { close(descriptor) }
        (descriptor, layout, held) = (-1, nil, 0..<0)
    }

    /// A record, to be lent piece by piece until the next call.
    ///
    /// - Parameter lastOrdinal: the last record that will be asked for; as many as fit the window are read at once.
    func record(_ position: RecordPosition, until lastOrdinal: UInt32) -> RecordInFile? {
        guard lastOrdinal >= position.ordinal, let block = layout?.block(position.ordinal),
            let last = layout?.block(lastOrdinal)
        else { return nil }
        if !held.contains(block.lowerBound) || held.upperBound < block.upperBound {
            let end = min(last.upperBound, block.lowerBound / pageByteCount * pageByteCount + Self.windowByteCount)
            guard fill(block.lowerBound..<end) else { return nil }
        }
        // The value begins behind a head that follows from its length, and there is only one length that fits.
        for byteCountOfLength in 1...5 {
            let headByteCount = SegmentFile.headByteCount(lengthByteCount: byteCountOfLength)
            let valueByteCount = block.count - headByteCount - SegmentFile.restartsByteCount
            guard valueByteCount > 0 else { return nil }
            let head = SegmentFile.head(key: IndexEncoding.recordKey(position), valueByteCount: valueByteCount)
            guard head.count == headByteCount else { continue }
            let start = block.lowerBound + headByteCount
            guard let found = unsafe lend(block.lowerBound..<start), unsafe found.elementsEqual(head) else {
                return nil
            }
            return RecordInFile(reader: self, range: start..<start + valueByteCount)
        }
        return nil
    }

    func heldByteCount(from offset: Int) -> Int { held.contains(offset) ? held.upperBound - offset : 0 }

    /// Lends a part of the file until the next call.
    func lend(_ range: Range<Int>) -> UnsafeRawBufferPointer? {
        if range.lowerBound < held.lowerBound || range.upperBound > held.upperBound {
            guard fill(range) else { return nil }
        }
        let start = range.lowerBound - held.lowerBound
        // In range: the window holds `held`, of which `range` is a part.
        return unsafe UnsafeRawBufferPointer(rebasing: window.bytes[start..<start + range.count])
    }

    /// Reads the pages that `range` is on. False when they cannot be read or do not fit.
    private func fill(_ range: Range<Int>) -> Bool {
        let start = range.lowerBound / pageByteCount * pageByteCount
        let byteCount = roundUp(range.upperBound - start, to: pageByteCount)
        held = 0..<0
        guard byteCount <= Self.windowByteCount else { return false }
        // In range by the line above.
        let pages = unsafe UnsafeMutableRawBufferPointer(rebasing: window.bytes[..<byteCount])
        guard let count = unsafe DiskFiles.read(descriptor, into: pages, at: start) else { return false }
        held = start..<start + count
        return range.upperBound <= held.upperBound
    }
}

/// A record in the file of its segment.
struct RecordInFile: RecordSource {
    let reader: RecordReader
    let range: Range<Int>

    var byteCount: Int { range.count }
    /// What fits wherever on a page it begins.
    var windowByteCount: Int { RecordReader.windowByteCount - pageByteCount }

    func heldByteCount(from offset: Int) -> Int { reader.heldByteCount(from: range.lowerBound + offset) }

    func lend(_ part: Range<Int>) -> UnsafeRawBufferPointer? {
        guard part.lowerBound >= 0, part.upperBound <= range.count else { return nil }
        // Lent on under the same rule.
        return unsafe reader.lend(range.lowerBound + part.lowerBound..<range.lowerBound + part.upperBound)
    }
}
