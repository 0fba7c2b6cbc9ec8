import Synchronization

/// Blocks on disk: a log of immutable segments, with an index of their blocks, both kept by RocksDB.
///
/// Mechanism only: what to write, to carry over and to drop is decided elsewhere. Records are opaque bytes.
/// A record is found by its position; the index says which block is where. The invariants:
///
/// 1. A segment is one table file that is added whole, never changed and never compacted, and dropped whole.
/// 2. Segment ids only grow, and a position is never used twice. So "newer" is a comparison of positions.
/// 3. A row of the index names a record that is there. The file is added before its rows and dropped after them.
/// 4. A removal is in `removals.log` before its rows are deleted, and is asked again whenever rows could come back.
/// 5. After an error of the handle nothing more is written through it (`isBroken`); reads go on.
///
/// Any number of readers, any number of open writers; changes of the database take turns.
package final class SegmentLog: Sendable {
    /// What changes of the database need to know of each other. Held for the length of a change.
    private struct WriteState {
        var removals: RemovalsLog
        /// Removals since the oldest open segment was begun: their rows may not be written when it is sealed.
        var recentRemovals = RemovalSet()
        var isClosed = false
    }

    /// What is asked all the time. Held for moments only; taken after the write state if both are needed.
    private struct Catalog {
        var segments: [UInt32: SegmentInfo]
        /// Of segments that were read; nil for those that only RocksDB can read.
        var layouts: [UInt32: SegmentLayout?] = [:]
        /// Names of segments' files, as of the last time that one was missing.
        var tableNames: [UInt32: String] = [:]
        var namespaces: [NamespaceIdentity: [UInt8]]
        /// Segments being written, with the number of their records so far.
        var openSegments: [UInt32: Int] = [:]
        var nextSegment: UInt32
        var failure: KVStoreError?
        /// What the open read, until somebody takes it or rows change.
        var openingRows: [IndexRow]?
        var rowScanCount: Int
    }

    private struct NamespaceIdentity: Hashable {
        var tenant: UInt64
        var fingerprint: BlockKey
    }

    /// What the open found and did about it.
    package let recovery: RecoveryReport

    private let directory: StoreDirectory
    private let database: RocksDatabase
    private let gate = ReaderGate()
    private let writing: Mutex<WriteState>
    private let catalog: Mutex<Catalog>
    private let usesDirectReads: Bool
    /// Readers with their windows, for whoever reads next.
    private let idleReaders = Mutex<[RecordReader]>([])
    private static let keptReaderCount = 3

    /// Opens the directory, making it if there is none and repairing what is in it if need be.
    package init(directory path: String, options: SegmentLogOptions = SegmentLogOptions()) throws(KVStoreError) {
        // Before anything in the directory is touched.
        try requireRocksThreads()
        directory = try StoreDirectory(path: path)
        var options = options
        options.usesDirectReads = options.usesDirectReads ?? directory.allowsDirectReads
        usesDirectReads = options.usesDirectReads ?? false
        let opened = try SegmentLogOpening.run(in: directory, options: options)
        database = opened.database
        recovery = opened.report
        writing = Mutex(WriteState(removals: opened.removals))
        var namespaces: [NamespaceIdentity: [UInt8]] = [:]
        for row in opened.namespaces {
            namespaces[NamespaceIdentity(tenant: row.tenant, fingerprint: row.fingerprint)] = row.description
        }
        catalog = Mutex(
            Catalog(
                segments: opened.segments,
                namespaces: namespaces,
                nextSegment: opened.nextSegment,
                openingRows: opened.rows,
                rowScanCount: opened.rowScanCount
            )
        )
    }

    deinit { close() }

    // MARK: What is there

    /// The id that the next segment will get.
    package var nextSegment: UInt32 { catalog.withLock { $0.nextSegment } }

    /// Whether a change failed in a way after which RocksDB must not be written to again. Close, and open anew later.
    package var isBroken: Bool { failure != nil }

    /// The error that broke the log.
    package var failure: KVStoreError? { catalog.withLock { $0.failure } }

    /// The sealed segments in the order of their ids.
    package func segments() -> [SegmentInfo] {
        catalog.withLock { $0.segments.values.sorted { $0.id < $1.id } }
    }

    package func namespaces() -> [NamespaceRow] {
        catalog.withLock { catalog in
            catalog.namespaces.map {
                NamespaceRow(fingerprint: $0.key.fingerprint, tenant: $0.key.tenant, description: $0.value)
            }
        }
    }

    /// Bytes that everything in the directory occupies, the open segments included.
    package func allocatedBytes() -> Int64 { directory.allocatedBytes() }

    /// Calls `body` with every row of the index until it answers false. The rows are those of the moment of the call.
    package func forEachRow(_ body: (IndexRow) -> Bool) throws(KVStoreError) {
        catalog.withLock { $0.rowScanCount += 1 }
        try withDatabase { database throws(KVStoreError) in try database.forEachRow(body) }
    }

    /// All rows. The first call after an open with `keepsRows` gets what the open has read, if no row changed since; every
    /// other reads the index.
    package func takeRows() throws(KVStoreError) -> [IndexRow] {
        let kept = catalog.withLock { catalog in
            defer { catalog.openingRows = nil }
            return catalog.openingRows
        }
        if let kept { return kept }
        var rows: [IndexRow] = []
        try forEachRow { row in
            rows.append(row)
            return true
        }
        return rows
    }

    /// For tests: how often the whole index was read, the open included.
    var rowScanCount: Int { catalog.withLock { $0.rowScanCount } }

    package func row(of identity: BlockIdentity) throws(KVStoreError) -> IndexRow? {
        try withDatabase { database throws(KVStoreError) in try database.row(of: identity) }
    }

    // MARK: Reading records

    /// Lends a record without copying it, for the length of `body`.
    ///
    /// - Returns: nil when there is no such record.
    /// - Throws: `.corrupt` when its bytes are not what was written, or its file is damaged or gone.
    package func read<Result>(
        segment: UInt32,
        ordinal: UInt32,
        _ body: (UnsafeRawBufferPointer) throws(KVStoreError) -> Result
    ) throws(KVStoreError) -> Result? {
        let key = IndexEncoding.recordKey(RecordPosition(segment: segment, ordinal: ordinal))
        return try withDatabase { database throws(KVStoreError) in
            // Lent on under the same rule.
            try unsafe database.get(.segments, key: key, body)
        }
    }

    /// Lends a reader of a segment's file, past RocksDB; see `RecordReader` for what it checks and what not.
    ///
    /// - Returns: nil when the file cannot be read that way.
    func withReader<Result>(
        of segment: UInt32,
        _ body: (RecordReader) -> Result
    ) throws(KVStoreError) -> Result? {
        try withDatabase { database throws(KVStoreError) in
            guard let layout = layout(of: segment, database),
                let reader = idleReaders.withLock({ $0.popLast() }) ?? RecordReader()
            else { return nil }
            defer {
                reader.end()
                idleReaders.withLock { if $0.count < Self.keptReaderCount { $0.append(reader) } }
            }
            return reader.begin(layout, direct: usesDirectReads) ? body(reader) : nil
        }
    }

    /// Found when a segment is first read, and kept until it is dropped: four bytes a record.
    private func layout(of segment: UInt32, _ database: RocksDatabase) -> SegmentLayout? {
        let (info, known, name) = catalog.withLock {
            ($0.segments[segment], $0.layouts[segment], $0.tableNames[segment])
        }
        guard let info else { return nil }
        if let known { return known }
        guard let name = name ?? noteTableNames(database)[segment] else { return nil }
        do throws(KVStoreError) {
            let path = directory.databasePath + "/" + name
            let found = try SegmentLayout(path: path, recordCount: info.recordCount)
            catalog.withLock { if $0.segments[segment] != nil { $0.layouts[segment] = .some(found) } }
            return found
        } catch {
            // May be read the next time.
            return nil
        }
    }

    /// RocksDB's names of the files of all segments: asked for all at once, since the answer is about all.
    private func noteTableNames(_ database: RocksDatabase) -> [UInt32: String] {
        var names: [UInt32: String] = [:]
        for table in database.liveTables() {
            if let segment = table.segment { names[segment] = table.name }
        }
        catalog.withLock { catalog in
            catalog.tableNames = names.filter { catalog.segments[$0.key] != nil }
        }
        return names
    }

    // MARK: Writing segments

    /// Starts a segment. Its records are in the log once it is sealed, and not before.
    ///
    /// - Parameter buffer: what the file is made in; nobody else's until the segment is sealed or abandoned.
    func beginSegment(_ buffer: WriteBuffer = WriteBuffer()) throws(KVStoreError) -> SegmentWriter {
        let segment = try writing.withLock { state throws(KVStoreError) in
            try ensureWritable(state)
            return catalog.withLock { catalog in
                if catalog.openSegments.isEmpty { state.recentRemovals.removeAll() }
                let segment = catalog.nextSegment
                precondition(segment < UInt32.max, "segment ids are used up")
                catalog.nextSegment += 1
                catalog.openSegments[segment] = 0
                return segment
            }
        }
        do throws(KVStoreError) {
            return try SegmentWriter(segment: segment, path: directory.incomingSegmentPath(segment), buffer, log: self)
        } catch {
            endWriting(segment)
            throw error
        }
    }

    /// Adds a finished segment: first the file, then its rows in one batch. A kill in between leaves a segment without
    /// rows, which the next open completes from the footer.
    func add(
        _ info: SegmentInfo,
        file: String,
        entries: [SegmentFooter.Entry]
    ) throws(KVStoreError) -> SegmentWriter.Sealed {
        try writing.withLock { state throws(KVStoreError) in
            try ensureWritable(state)
            return try changeRows { database throws(KVStoreError) in
                try database.ingest(file)
                catalog.withLock { $0.segments[info.id] = info }
                var sealed = SegmentWriter.Sealed(info: info, rows: [], staleRows: [])
                for entry in entries {
                    if try isStale(entry, state.recentRemovals, database) {
                        sealed.staleRows.append(entry.row)
                    } else {
                        sealed.rows.append(entry.row)
                    }
                }
                var changes = sealed.rows.map {
                    IndexChange.put(key: IndexEncoding.blockKey($0.identity), value: IndexEncoding.rowValue($0))
                }
                changes.append(
                    .put(key: IndexEncoding.segmentKey(info.id), value: IndexEncoding.segmentValue(info))
                )
                let next = IndexEncoding.nextSegmentValue(nextSegment)
                changes.append(.put(key: IndexEncoding.nextSegmentKey, value: next))
                try database.apply(changes)
                return sealed
            }
        }
    }

    private func isStale(
        _ entry: SegmentFooter.Entry,
        _ removals: RemovalSet,
        _ database: RocksDatabase
    ) throws(KVStoreError) -> Bool {
        let identity = entry.row.identity
        guard let origin = entry.origin else { return removals.covers(identity, at: entry.row.position) }
        return try database.row(of: identity)?.position != origin
    }

    func noteRecordCount(_ count: Int, of segment: UInt32) {
        catalog.withLock { $0.openSegments[segment] = count }
    }

    func endWriting(_ segment: UInt32) {
        catalog.withLock { _ = $0.openSegments.removeValue(forKey: segment) }
    }

    /// The descriptions of the namespaces that these entries belong to.
    func descriptions(for entries: [SegmentFooter.Entry]) -> [NamespaceRow] {
        let used = Set(entries.map { NamespaceIdentity(tenant: $0.row.tenant, fingerprint: $0.row.fingerprint) })
        return catalog.withLock { catalog in
            used.compactMap { identity in
                catalog.namespaces[identity].map {
                    NamespaceRow(fingerprint: identity.fingerprint, tenant: identity.tenant, description: $0)
                }
            }
        }
    }

    // MARK: Changing rows

    /// Stores a namespace's description, replacing an earlier one. Segments sealed from now on repeat it.
    package func putNamespace(_ row: NamespaceRow) throws(KVStoreError) {
        let identity = NamespaceIdentity(tenant: row.tenant, fingerprint: row.fingerprint)
        try writing.withLock { state throws(KVStoreError) in
            try ensureWritable(state)
            guard catalog.withLock({ $0.namespaces[identity] }) != row.description else { return }
            let key = IndexEncoding.namespaceKey(tenant: row.tenant, fingerprint: row.fingerprint)
            try changeDatabase { database throws(KVStoreError) in
                try database.apply([.put(key: key, value: row.description)])
            }
            catalog.withLock { $0.namespaces[identity] = row.description }
        }
    }

    /// Deletes a namespace's description; its blocks are not touched.
    package func removeNamespace(fingerprint: BlockKey, tenant: UInt64) throws(KVStoreError) {
        try writing.withLock { state throws(KVStoreError) in
            try ensureWritable(state)
            let key = IndexEncoding.namespaceKey(tenant: tenant, fingerprint: fingerprint)
            try changeDatabase { database throws(KVStoreError) in try database.apply([.delete(key: key)]) }
            catalog.withLock {
                _ = $0.namespaces.removeValue(forKey: NamespaceIdentity(tenant: tenant, fingerprint: fingerprint))
            }
        }
    }

    /// Removes blocks for good: no restart and no repair brings back a record that exists now.
    ///
    /// - Parameter includingOpenSegments: also records that are yet to be appended to segments that are open now. For a
    ///   writer that chose what to write when it began the segment.
    package func remove(_ blocks: [BlockIdentity], includingOpenSegments: Bool = false) throws(KVStoreError) {
        try remove(
            blocks.map { .block($0) },
            blocks.map { .delete(key: IndexEncoding.blockKey($0)) },
            includingOpenSegments: includingOpenSegments
        )
    }

    /// Removes all blocks of a tenant for good. Descriptions of its namespaces stay; see `removeNamespace`.
    ///
    /// - Parameter includingOpenSegments: as for `remove`.
    package func purge(tenant: UInt64, includingOpenSegments: Bool = false) throws(KVStoreError) {
        let range = IndexEncoding.blockRange(tenant: tenant)
        try remove(
            [.tenant(tenant)],
            [.deleteRange(lower: range.lower, upper: range.upper)],
            includingOpenSegments: includingOpenSegments
        )
    }

    /// Removes all blocks of a namespace for good. Its description stays; see `removeNamespace`.
    package func purge(namespace fingerprint: BlockKey, tenant: UInt64) throws(KVStoreError) {
        let range = IndexEncoding.blockRange(tenant: tenant, fingerprint: fingerprint)
        try remove(
            [.namespace(tenant: tenant, fingerprint: fingerprint)],
            [.deleteRange(lower: range.lower, upper: range.upper)]
        )
    }

    private func remove(
        _ subjects: [Removal.Subject],
        _ changes: [IndexChange],
        includingOpenSegments: Bool = false
    ) throws(KVStoreError) {
        guard !subjects.isEmpty else { return }
        try writing.withLock { state throws(KVStoreError) in
            try ensureWritable(state)
            let (extent, oldestSegment) = catalog.withLock { catalog in
                let open =
                    includingOpenSegments
                    ? [] : catalog.openSegments.map { RecordPosition(segment: $0.key, ordinal: UInt32($0.value)) }
                let extent = Removal.Extent(segmentLimit: catalog.nextSegment, openSegments: open.sorted())
                let ids = [catalog.segments.keys.min(), catalog.openSegments.keys.min(), catalog.nextSegment]
                return (extent, ids.compactMap(\.self).min()!)
            }
            let removals = subjects.map { Removal(subject: $0, extent: extent) }
            try state.removals.append(removals, oldestSegment: oldestSegment)
            for removal in removals { state.recentRemovals.insert(removal) }
            try changeRows { database throws(KVStoreError) in try database.apply(changes) }
        }
    }

    /// What was removed and may still concern a segment.
    func removals() throws(KVStoreError) -> RemovalSet {
        try writing.withLock { state throws(KVStoreError) in try state.removals.read() }
    }

    /// Deletes rows without a promise: the cache's own choice, which a repair may undo.
    package func forget(_ blocks: [BlockIdentity]) throws(KVStoreError) {
        guard !blocks.isEmpty else { return }
        try writing.withLock { state throws(KVStoreError) in
            try ensureWritable(state)
            try changeRows { database throws(KVStoreError) in
                try database.apply(blocks.map { .delete(key: IndexEncoding.blockKey($0)) })
            }
        }
    }

    /// Rewrites rows, uses and sequence above all. A row that is gone or names another place stays as it is.
    package func updateRows(_ rows: [IndexRow]) throws(KVStoreError) {
        guard !rows.isEmpty else { return }
        try writing.withLock { state throws(KVStoreError) in
            try ensureWritable(state)
            try changeRows { database throws(KVStoreError) in
                var changes: [IndexChange] = []
                for row in rows where try database.row(of: row.identity)?.position == row.position {
                    changes.append(.put(key: IndexEncoding.blockKey(row.identity), value: IndexEncoding.rowValue(row)))
                }
                if !changes.isEmpty { try database.apply(changes) }
            }
        }
    }

    /// Deletes a segment's file; its space is free at once. Rows that still name it are the caller's to forget first;
    /// any that are left are dropped at the next open. A read in flight keeps its bytes.
    package func dropSegment(_ id: UInt32) throws(KVStoreError) {
        try writing.withLock { state throws(KVStoreError) in
            try ensureWritable(state)
            guard catalog.withLock({ $0.segments[id] }) != nil else { return }
            try changeRows { database throws(KVStoreError) in
                try database.dropSegment(id)
            }
            catalog.withLock { catalog in
                catalog.segments[id] = nil
                catalog.layouts.removeValue(forKey: id)
                catalog.tableNames[id] = nil
            }
        }
    }

    // MARK: Closing

    /// Waits for readers in flight, flushes, and lets others take the directory. Idempotent. Everything called
    /// afterwards throws `.closed`. Not to be called from inside the closure of a read.
    package func close() {
        writing.withLock { state in
            guard !state.isClosed else { return }
            state.isClosed = true
            gate.closeAndWait()
            database.close(flushing: !isBroken)
            state.removals.close()
            directory.release()
        }
    }

    // MARK: Parts

    /// For tests and diagnostics: the files of RocksDB.
    func liveTables() throws(KVStoreError) -> [LiveTable] {
        try withDatabase { database throws(KVStoreError) in database.liveTables() }
    }

    private func ensureWritable(_ state: borrowing WriteState) throws(KVStoreError) {
        if state.isClosed { throw Self.closed }
        guard let failure else { return }
        throw KVStoreError(
            failure.code,
            "the disk tier stopped writing after an error and has to be reopened: \(failure.message)"
        )
    }

    /// As `changeDatabase`, for a change of blocks' rows.
    private func changeRows<Result>(
        _ body: (RocksDatabase) throws(KVStoreError) -> Result
    ) throws(KVStoreError) -> Result {
        catalog.withLock { $0.openingRows = nil }
        return try changeDatabase(body)
    }

    /// Runs a change; any error of it ends writing on this handle.
    private func changeDatabase<Result>(
        _ body: (RocksDatabase) throws(KVStoreError) -> Result
    ) throws(KVStoreError) -> Result {
        do throws(KVStoreError) {
            return try body(database)
        } catch {
            catalog.withLock { $0.failure = $0.failure ?? error }
            throw error
        }
    }

    private func withDatabase<Result>(
        _ body: (RocksDatabase) throws(KVStoreError) -> Result
    ) throws(KVStoreError) -> Result {
        guard gate.enter() else { throw Self.closed }
        defer { gate.leave() }
        return try body(database)
    }

    private static var closed: KVStoreError { KVStoreError(.closed, "the disk tier was closed") }
}
