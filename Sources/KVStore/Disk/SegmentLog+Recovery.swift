/// What an open found, and what it did about it. All zero after an orderly close.
package struct RecoveryReport: Hashable, Sendable {
    /// RocksDB refused to open, or its index could not be read: a new database was made around the segment files.
    package var wasRepaired = false
    /// Why, in RocksDB's words.
    package var repairReason: String?
    /// Segment files that were taken into the database again.
    package var segmentsSalvaged = 0
    /// Files that were not segments, or too damaged to be taken, and were deleted.
    package var filesRefused = 0
    /// Segments whose rows were written anew from their footers, and how many rows that were.
    package var segmentsRebuilt = 0
    package var rowsRebuilt = 0
    /// Segments that needed new rows but had no readable footer; they were dropped.
    package var segmentsDropped = 0
    /// Segments that the index knew and that are not there.
    package var segmentsMissing = 0
    /// Rows that named a segment that is not there.
    package var rowsWithoutSegment = 0
    /// Rows and footer entries of blocks that the caller had removed.
    package var rowsRemovedAgain = 0
    /// Bytes of `removals.log` that could not be read, before the last good record.
    package var damagedRemovalByteCount = 0
    /// Unfinished segment files that were deleted.
    package var leftoversDeleted = 0

    package init() {}
}

/// The opening of a segment log, step by step. A kill at any point leaves a directory that the next run brings to the
/// same end: what is not done yet is seen from what lies in `incoming/` and `salvage/`.
struct SegmentLogOpening {
    struct Result {
        var database: RocksDatabase
        var segments: [UInt32: SegmentInfo]
        var namespaces: [NamespaceRow]
        var nextSegment: UInt32
        var removals: RemovalsLog
        var report: RecoveryReport
        /// All rows, if they were asked for.
        var rows: [IndexRow]?
        var rowScanCount: Int
    }

    /// Ids skipped after a repair, in which the highest id ever used may have been lost.
    private static let segmentGapAfterRepair: UInt32 = 4096
    private static let changesPerBatch = 1024

    private let directory: StoreDirectory
    private let options: SegmentLogOptions
    private let removals: RemovalSet
    private var report = RecoveryReport()
    /// Whether rows are missing that nothing in the index tells of, so that all footers have to be read.
    private var rebuildsAll = false
    /// Whether the index started empty, so that no row in it can be newer than one about to be written.
    private var indexIsFresh = false
    /// What the last scan left of the index, if it is to be kept.
    private var rows: [IndexRow] = []
    private var rowScanCount = 0

    static func run(in directory: StoreDirectory, options: SegmentLogOptions) throws(KVStoreError) -> Result {
        let opened = try RemovalsLog.open(directory.removalsPath)
        var opening = SegmentLogOpening(directory: directory, options: options, removals: opened.removals)
        opening.report.damagedRemovalByteCount = opened.damagedByteCount
        do throws(KVStoreError) {
            return try opening.run(opened.log)
        } catch {
            opened.log.close()
            throw error
        }
    }

    private init(directory: StoreDirectory, options: SegmentLogOptions, removals: RemovalSet) {
        self.directory = directory
        self.options = options
        self.removals = removals
    }

    private mutating func run(_ removalsLog: RemovalsLog) throws(KVStoreError) -> Result {
        try deleteLeftovers()
        var database = try openDatabase()
        var contents: Contents
        do throws(KVStoreError) {
            contents = try complete(database)
        } catch  where error.code == .corrupt {
            // The tables that hold the index are damaged. The segments do not need them.
            database.close(flushing: false)
            database = try repair(error)
            contents = try complete(database)
        }
        try deleteGuards()
        var removalsLog = removalsLog
        let ids = contents.segments.keys
        let next = max(contents.nextSegment, removals.highestSegmentLimit, (ids.max() ?? 0) + 1)
        let nextSegment = rebuildsAll ? next + Self.segmentGapAfterRepair : next
        if rebuildsAll {
            let value = IndexEncoding.nextSegmentValue(nextSegment)
            try database.apply([.put(key: IndexEncoding.nextSegmentKey, value: value)])
        }
        try removalsLog.compact(removals, oldestSegment: ids.min() ?? nextSegment)
        return Result(
            database: database,
            segments: contents.segments,
            namespaces: contents.namespaces,
            nextSegment: nextSegment,
            removals: removalsLog,
            report: report,
            rows: options.keepsRows ? rows : nil,
            rowScanCount: rowScanCount
        )
    }

    // MARK: Opening RocksDB

    private mutating func openDatabase() throws(KVStoreError) -> RocksDatabase {
        let names = try DiskFiles.list(directory.databasePath) ?? []
        let hasTables = names.contains(where: Self.isTable)
        if try hasSalvage() { rebuildsAll = true }
        if hasTables, !names.contains("CURRENT") {
            // RocksDB would take this for a new database and delete the tables as strangers.
            return try repair(KVStoreError(.corrupt, "\(directory.databasePath) has tables but no file CURRENT"))
        }
        try guardTables(names)
        for name in names where Self.isTable(name) {
            let path = directory.databasePath + "/" + name
            guard try !TableFile.isIntact(path, includingEnds: false) else { continue }
            return try repair(KVStoreError(.corrupt, "\(path) is damaged"))
        }
        let isNew = !names.contains(where: Self.isRocksDBFile)
        do throws(KVStoreError) {
            if isNew { indexIsFresh = true }
            return try makeDatabase(create: isNew)
        } catch  where error.code == .corrupt {
            return try repair(error)
        }
    }

    private func makeDatabase(create: Bool) throws(KVStoreError) -> RocksDatabase {
        let rocksOptions = RocksDatabaseOptions(
            maxOpenFileCount: options.maxOpenFileCount,
            usesDirectReads: options.usesDirectReads ?? false
        )
        return try RocksDatabase(path: directory.databasePath, options: rocksOptions, create: create)
    }

    /// Moves the tables aside and makes a new, empty database. The tables are taken in by `ingestSalvage`.
    private mutating func repair(_ reason: KVStoreError) throws(KVStoreError) -> RocksDatabase {
        report.wasRepaired = true
        report.repairReason = reason.message
        rebuildsAll = true
        indexIsFresh = true
        let path = directory.databasePath
        try DiskFiles.makeDirectory(directory.salvagePath)
        // First: from here on RocksDB cannot open what is left, and a kill leads back here.
        try DiskFiles.remove(path + "/CURRENT")
        for name in try DiskFiles.list(path) ?? [] where Self.isTable(name) {
            try moveToSalvage(path + "/" + name, name)
        }
        for name in try guardNames() {
            try moveToSalvage(directory.incomingPath + "/" + name, String(name.dropFirst(Self.guardPrefix.count)))
        }
        for name in try DiskFiles.list(path) ?? [] where Self.isRocksDBFile(name) {
            try DiskFiles.remove(path + "/" + name)
        }
        return try makeDatabase(create: true)
    }

    private func moveToSalvage(_ path: String, _ name: String) throws(KVStoreError) {
        let inode = DiskFiles.status(path)?.inode
        var target = directory.salvagePath + "/" + name
        var attempt = 0
        while let present = DiskFiles.status(target) {
            // Another name of the same file: a guard, or a move that was interrupted.
            if present.inode == inode { return try DiskFiles.remove(path) }
            attempt += 1
            target = directory.salvagePath + "/\(attempt)-" + name
        }
        try DiskFiles.rename(path, to: target)
    }

    private static func isTable(_ name: String) -> Bool {
        name.hasSuffix(".sst") && name.count > 4 && name.dropLast(4).allSatisfy(\.isNumber)
    }

    private static func isRocksDBFile(_ name: String) -> Bool {
        let isLog = name.hasSuffix(".log") && name.count > 4 && name.dropLast(4).allSatisfy(\.isNumber)
        return isTable(name) || isLog || ["CURRENT", "IDENTITY", "LOCK", "LOG"].contains(name)
            || name.hasPrefix("MANIFEST-") || name.hasPrefix("OPTIONS-") || name.hasPrefix("LOG.old.")
            || name.hasSuffix(".dbtmp")
    }

    // MARK: Guards. When its MANIFEST lost its end, RocksDB opens without a word at an earlier state and deletes the
    // tables that were added since. So every table gets a second name before an open.

    private static let guardPrefix = "guard-"

    private func guardNames() throws(KVStoreError) -> [String] {
        try (DiskFiles.list(directory.incomingPath) ?? []).filter {
            $0.hasPrefix(Self.guardPrefix) && $0.hasSuffix(".sst")
        }
    }

    private func guardTables(_ names: [String]) throws(KVStoreError) {
        for name in names where Self.isTable(name) {
            let path = directory.databasePath + "/" + name
            var target = directory.incomingPath + "/" + Self.guardPrefix + name
            if let present = DiskFiles.status(target) {
                if present.inode == DiskFiles.status(path)?.inode { continue }
                // Left by an open that was killed; both are looked at.
                target = directory.incomingPath + "/" + Self.guardPrefix + "again-" + name
                try DiskFiles.remove(target)
            }
            guard try DiskFiles.link(path, to: target) else { return }
        }
    }

    private func deleteGuards() throws(KVStoreError) {
        for name in try guardNames() { try DiskFiles.remove(directory.incomingPath + "/" + name) }
    }

    private mutating func deleteLeftovers() throws(KVStoreError) {
        for name in try DiskFiles.list(directory.incomingPath) ?? []
        where name.hasPrefix("segment-") && name.hasSuffix(".sst") {
            try DiskFiles.remove(directory.incomingPath + "/" + name)
            report.leftoversDeleted += 1
        }
    }

    // MARK: Taking tables in again

    private func hasSalvage() throws(KVStoreError) -> Bool {
        try (DiskFiles.list(directory.salvagePath) ?? []).contains { $0.hasSuffix(".sst") }
    }

    private mutating func ingestSalvage(_ database: RocksDatabase) throws(KVStoreError) {
        let names = try DiskFiles.list(directory.salvagePath) ?? []
        try ingest(names.filter { $0.hasSuffix(".sst") }.map { directory.salvagePath + "/" + $0 }, database)
        // Fails if somebody put a file there; that is theirs and harmless.
        DiskFiles.removeEmptyDirectory(directory.salvagePath)
    }

    private mutating func ingestLostTables(_ database: RocksDatabase) throws(KVStoreError) {
        try ingest(guardNames().map { directory.incomingPath + "/" + $0 }, database)
    }

    private mutating func ingest(_ paths: [String], _ database: RocksDatabase) throws(KVStoreError) {
        if paths.isEmpty { return }
        let live = Set(
            database.liveTables().compactMap { DiskFiles.status(directory.databasePath + "/" + $0.name)?.inode }
        )
        for path in paths {
            guard let status = DiskFiles.status(path), !live.contains(status.inode) else {
                try DiskFiles.remove(path)
                continue
            }
            guard try TableFile.isIntact(path, includingEnds: true) else {
                try DiskFiles.remove(path)
                report.filesRefused += 1
                continue
            }
            do throws(KVStoreError) {
                try database.ingest(path)
                report.segmentsSalvaged += 1
            } catch  where error.code == .corrupt || error.code == .invalidArgument {
                // A table of the index, or a segment that is there already.
                try DiskFiles.remove(path)
                report.filesRefused += 1
            }
        }
    }

    // MARK: Completing the index

    private struct Contents {
        var segments: [UInt32: SegmentInfo] = [:]
        var namespaces: [NamespaceRow] = []
        var nextSegment: UInt32 = 1
    }

    private mutating func complete(_ database: RocksDatabase) throws(KVStoreError) -> Contents {
        try ingestSalvage(database)
        try ingestLostTables(database)
        var contents = Contents()
        let known = try readSegmentRows(database)
        for table in database.liveTables() {
            guard let id = table.segment else { continue }
            contents.segments[id] = SegmentInfo(
                id: id,
                recordCount: known[id] ?? 0,
                fileByteCount: table.byteCount
            )
        }
        contents.nextSegment = try readNextSegment(database)
        let missing = known.keys.filter { contents.segments[$0] == nil }
        report.segmentsMissing += missing.count
        contents.nextSegment = max(contents.nextSegment, (known.keys.max() ?? 0) + 1)
        try database.apply(missing.map { .delete(key: IndexEncoding.segmentKey($0)) })
        // Ascending, so that of several records of a block the newest is written last.
        for id in contents.segments.keys.sorted() where rebuildsAll || known[id] == nil {
            try rebuildRows(of: contents.segments[id]!, &contents, database)
        }
        contents.namespaces = try readNamespaces(database)
        try dropRows(unlessIn: contents.segments, database)
        return contents
    }

    /// Writes the rows of one segment from its footer, or drops the segment if there is none to be read.
    private mutating func rebuildRows(
        of info: SegmentInfo,
        _ contents: inout Contents,
        _ database: RocksDatabase
    ) throws(KVStoreError) {
        guard let footer = try readFooter(of: info.id, database) else {
            try database.dropSegment(info.id)
            contents.segments[info.id] = nil
            contents.nextSegment = max(contents.nextSegment, info.id + 1)
            report.segmentsDropped += 1
            return
        }
        var info = info
        info.recordCount = footer.entries.count
        contents.segments[info.id] = info
        var changes: [IndexChange] = []
        for entry in footer.entries {
            let identity = entry.row.identity
            if removals.covers(identity, at: entry.origin ?? entry.row.position) {
                report.rowsRemovedAgain += 1
                continue
            }
            if !indexIsFresh, let present = try database.row(of: identity),
                present.position >= entry.row.position, contents.segments[present.segment] != nil
            {
                continue
            }
            changes.append(.put(key: IndexEncoding.blockKey(identity), value: IndexEncoding.rowValue(entry.row)))
        }
        report.rowsRebuilt += changes.count
        report.segmentsRebuilt += 1
        for namespace in footer.namespaces {
            let key = IndexEncoding.namespaceKey(tenant: namespace.tenant, fingerprint: namespace.fingerprint)
            changes.append(.put(key: key, value: namespace.description))
        }
        changes.append(.put(key: IndexEncoding.segmentKey(info.id), value: IndexEncoding.segmentValue(info)))
        try database.apply(changes)
    }

    private func readFooter(of segment: UInt32, _ database: RocksDatabase) throws(KVStoreError) -> SegmentFooter? {
        let position = RecordPosition(segment: segment, ordinal: IndexEncoding.footerOrdinal)
        do throws(KVStoreError) {
            let footer = try unsafe database.get(.segments, key: IndexEncoding.recordKey(position)) { bytes in
                // Valid for the length of this closure.
                unsafe SegmentFooter(decoding: bytes, segment: segment)
            }
            return footer ?? nil
        } catch  where error.code == .corrupt {
            return nil
        }
    }

    /// The segments that the index knows, with the number of their records.
    private func readSegmentRows(_ database: RocksDatabase) throws(KVStoreError) -> [UInt32: Int] {
        var counts: [UInt32: Int] = [:]
        let range = IndexEncoding.tagRange(IndexEncoding.segmentTag)
        try unsafe database.forEach(from: range.lower, to: range.upper) { key, value in
            // Valid for the length of this closure.
            if let id = unsafe IndexEncoding.segmentID(key: key) {
                counts[id] = unsafe IndexEncoding.segmentRecordCount(value: value)
            }
            return true
        }
        return counts
    }

    private func readNamespaces(_ database: RocksDatabase) throws(KVStoreError) -> [NamespaceRow] {
        var rows: [NamespaceRow] = []
        let range = IndexEncoding.tagRange(IndexEncoding.namespaceTag)
        try unsafe database.forEach(from: range.lower, to: range.upper) { key, value in
            // Valid for the length of this closure.
            if let row = unsafe IndexEncoding.namespace(key: key, value: value) { rows.append(row) }
            return true
        }
        return rows
    }

    private func readNextSegment(_ database: RocksDatabase) throws(KVStoreError) -> UInt32 {
        let next = try unsafe database.get(.index, key: IndexEncoding.nextSegmentKey) { value -> UInt32? in
            // Valid for the length of this closure.
            var reader = unsafe ByteReader(value)
            return reader.word32()
        }
        return (next ?? nil) ?? 1
    }

    /// Drops the rows that name a segment that is not there, and those that the caller had removed. Reads the whole
    /// index on the way, so damage of it shows here and not later. The rows that stay are what the index loader needs,
    /// which takes them from here: reading them a second time was an eighth of a start.
    private mutating func dropRows(
        unlessIn segments: [UInt32: SegmentInfo],
        _ database: RocksDatabase
    ) throws(KVStoreError) {
        let (removals, keepsRows) = (removals, options.keepsRows)
        var kept: [IndexRow] = []
        if keepsRows { kept.reserveCapacity(segments.values.reduce(0) { $0 + min($1.recordCount, 1 << 16) }) }
        var lastSegment: UInt32?
        var withoutSegment = 0
        var removedAgain = 0
        var doomed: [IndexChange] = []
        var failure: KVStoreError?
        rowScanCount += 1
        let range = IndexEncoding.blockRange()
        try unsafe database.forEach(from: range.lower, to: range.upper) { key, value in
            // Valid for the length of this closure.
            let row = unsafe IndexEncoding.row(key: key, value: value)
            if let row, row.segment == lastSegment || segments[row.segment] != nil {
                lastSegment = row.segment
                guard !removals.isEmpty, removals.covers(row.identity, at: row.position) else {
                    if keepsRows { kept.append(row) }
                    return true
                }
                removedAgain += 1
            } else {
                withoutSegment += 1
            }
            unsafe doomed.append(.delete(key: Array(key)))
            guard doomed.count >= Self.changesPerBatch else { return true }
            // The iterator goes on in the state of its creation.
            failure = Self.apply(&doomed, database)
            return failure == nil
        }
        if let failure = failure ?? Self.apply(&doomed, database) { throw failure }
        rows = kept
        report.rowsWithoutSegment += withoutSegment
        report.rowsRemovedAgain += removedAgain
    }

    private static func apply(_ changes: inout [IndexChange], _ database: RocksDatabase) -> KVStoreError? {
        defer { changes.removeAll(keepingCapacity: true) }
        do throws(KVStoreError) {
            if !changes.isEmpty { try database.apply(changes) }
            return nil
        } catch {
            return error
        }
    }
}
