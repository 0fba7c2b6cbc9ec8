import Synchronization

/// A segment being written: records go into a file of their own, which `seal` adds to the log as a whole.
///
/// Thread-safe, but records are numbered in the order of the calls, so one caller at a time makes most sense. A writer
/// that goes away unsealed leaves nothing behind.
package final class SegmentWriter: Sendable {
    /// What became of a segment when it was sealed.
    package struct Sealed: Sendable {
        package var info: SegmentInfo
        /// Rows that are now in the index.
        package var rows: [IndexRow]
        /// Rows that are not: removed while the segment was open, or carried over from a place where their block no
        /// longer was. Their records stay in the segment, unreachable.
        package var staleRows: [IndexRow]
        /// What was waited for the disk; see `WriteSpeed`.
        package var waitNanoseconds: UInt64 = 0
    }

    private struct State {
        var file: SegmentFile?
        var footer: SegmentFooter
        var recordByteCount = 0
    }

    package let segment: UInt32
    private let log: SegmentLog
    private let path: String
    private let state: Mutex<State>

    init(segment: UInt32, path: String, _ buffer: WriteBuffer, log: SegmentLog) throws(KVStoreError) {
        self.segment = segment
        self.path = path
        self.log = log
        state = Mutex(State(file: nil, footer: SegmentFooter(segment: segment)))
        do throws(KVStoreError) {
            let file = try SegmentFile(path: path, buffer)
            state.withLock { $0.file = file }
        } catch {
            abandon()
            throw error
        }
    }

    deinit { abandon() }

    package var recordCount: Int { state.withLock { $0.footer.entries.count } }

    /// Bytes of the records appended so far; the file is slightly larger.
    package var byteCount: Int { state.withLock { $0.recordByteCount } }

    /// Adds a record. An error abandons the whole segment; the log itself stays usable.
    ///
    /// - Parameters:
    ///   - row: identity and figures of the block; segment, ordinal and stored size are filled in here.
    ///   - origin: where the record is carried over from; the row is then only rewritten if it still names that place.
    /// - Returns: the row as it will be in the index.
    @discardableResult
    package func append(
        _ row: IndexRow,
        record: UnsafeRawBufferPointer,
        carriedFrom origin: RecordPosition? = nil
    ) throws(KVStoreError) -> IndexRow {
        try append(row, origin) { file, key throws(KVStoreError) in
            // The caller's buffer lives for the length of this call.
            try unsafe file.put(key: key, value: record)
            return record.count
        }
    }

    /// Adds a record that `encode` writes where the disk takes it from.
    ///
    /// - Parameters:
    ///   - longest: The most bytes that it can have.
    ///   - encode: Writes the record to the start of its room, and says how long it is.
    func append(
        _ row: IndexRow,
        longest: Int,
        _ encode: (UnsafeMutableRawBufferPointer) -> Int
    ) throws(KVStoreError) -> IndexRow {
        try append(row, nil) { file, key throws(KVStoreError) in
            try unsafe file.put(key: key, longest: longest, encode)
        }
    }

    private func append(
        _ row: IndexRow,
        _ origin: RecordPosition?,
        _ put: (SegmentFile, [UInt8]) throws(KVStoreError) -> Int
    ) throws(KVStoreError) -> IndexRow {
        try state.withLock { state throws(KVStoreError) in
            guard let file = state.file else { throw Self.unusable(segment) }
            var row = row
            row.segment = segment
            row.ordinal = UInt32(state.footer.entries.count)
            precondition(row.ordinal < IndexEncoding.footerOrdinal, "a segment cannot hold more records")
            // Noted before the record is written: a removal from here on is also about this record.
            log.noteRecordCount(Int(row.ordinal) + 1, of: segment)
            do throws(KVStoreError) {
                let byteCount = try put(file, IndexEncoding.recordKey(row.position))
                row.storedByteCount = UInt32(clamping: byteCount)
                state.recordByteCount += byteCount
            } catch {
                drop(&state)
                throw error
            }
            state.footer.entries.append(SegmentFooter.Entry(row: row, origin: origin))
            return row
        }
    }

    /// Finishes the file, moves it into the log and writes its rows. The writer is of no further use.
    ///
    /// A full disk shows here at the latest; the file is then gone and the log as it was.
    package func seal() throws(KVStoreError) -> Sealed {
        try state.withLock { state throws(KVStoreError) in
            guard let file = state.file else { throw Self.unusable(segment) }
            precondition(!state.footer.entries.isEmpty, "a segment without records cannot be sealed")
            defer { drop(&state) }
            state.footer.namespaces = log.descriptions(for: state.footer.entries)
            let key = IndexEncoding.recordKey(RecordPosition(segment: segment, ordinal: IndexEncoding.footerOrdinal))
            let footerBytes = state.footer.encoded()
            // `put` throws KVStoreError only; closures of withUnsafeBytes lose the type, hence the detour.
            let outcome = unsafe footerBytes.withUnsafeBytes { buffer in
                Result { () throws(KVStoreError) in try unsafe file.put(key: key, value: buffer) }
            }
            try outcome.get()
            try file.finish()
            let info = SegmentInfo(
                id: segment,
                recordCount: state.footer.entries.count,
                fileByteCount: file.byteCount
            )
            var sealed = try log.add(info, file: path, entries: state.footer.entries)
            sealed.waitNanoseconds = file.waitNanoseconds
            return sealed
        }
    }

    /// Drops the segment and its file. Idempotent, and without effect after `seal`.
    package func abandon() { state.withLock { drop(&$0) } }

    private func drop(_ state: inout State) {
        state.file = nil
        // Already moved if the segment was sealed; else what cannot be deleted now is deleted at the next open.
        try? DiskFiles.remove(path)
        log.endWriting(segment)
    }

    private static func unusable(_ segment: UInt32) -> KVStoreError {
        KVStoreError(.closed, "segment \(segment) was sealed or abandoned; begin another")
    }
}
