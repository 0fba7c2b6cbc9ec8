internal import Glibc

/// What a scrub of a closed disk tier found.
public struct VerificationReport: Sendable {
    /// One record that is not what was written.
    public struct BadRecord: Sendable, Hashable {
        /// Segment and place in it.
        public let segment: UInt32
        /// Place in the segment.
        public let ordinal: UInt32
        /// Why, in a few words.
        public let reason: String
    }
    /// Segments read.
    public var segments = 0
    /// Records read, dead ones included.
    public var records = 0
    /// Records that are not what was written.
    public var bad: [BadRecord] = []
    /// Index rows that no chain from a root reaches, or that name another record than the one that is there.
    public var orphanedRows = 0
    /// What opening the directory had to repair, nil when nothing.
    public var repair: String?
}

/// Reads every record of a disk tier that no store has open, and checks every length, identity and digest.
///
/// Opening the directory completes or repairs it exactly as a store would (a crash may have left something to complete);
/// beyond that nothing is changed, and a bad record stays where it is: a store answers it with a miss.
public struct OfflineVerifier {
    private let path: String

    /// - Parameter path: a directory that a store's disk tier made.
    public init(path: String) { self.path = path }

    /// - Parameter progress: records checked so far, and how many there are.
    /// - Throws: when the directory is not one of ours, is in use, or cannot be read.
    public func run(progress: (Int, Int) -> Void) throws(KVStoreError) -> VerificationReport {
        // Opening makes a directory where there is none; a mistyped path must not.
        guard unsafe access(path + "/FORMAT", F_OK) == 0 else {
            throw KVStoreError(
                .foreignDirectory,
                "\(path) is not the directory of a kvstore disk tier (it has no FORMAT file)"
            )
        }
        let log = try SegmentLog(directory: path)
        defer { log.close() }
        var report = VerificationReport()
        if log.recovery.wasRepaired {
            report.repair =
                "the database was rebuilt: \(log.recovery.segmentsSalvaged) segments kept, "
                + "\(log.recovery.filesRefused) files refused"
        }
        var rows: [RecordPosition: IndexRow] = [:]
        try log.forEachRow { row in
            rows[row.position] = row
            return true
        }
        report.orphanedRows = Self.countUnreachable(Array(rows.values))
        var counts: [UInt32: Int] = [:]
        for segment in log.segments() { counts[segment.id] = segment.recordCount }
        for position in rows.keys {
            counts[position.segment] = max(counts[position.segment] ?? 0, Int(position.ordinal) + 1)
        }
        report.segments = counts.count
        let total = counts.values.reduce(0, +)
        for segment in counts.keys.sorted() {
            for ordinal in 0..<UInt32(counts[segment]!) {
                let row = rows[RecordPosition(segment: segment, ordinal: ordinal)]
                if let reason = try Self.check(log, segment: segment, ordinal: ordinal, row: row) {
                    report.bad.append(.init(segment: segment, ordinal: ordinal, reason: reason))
                }
                report.records += 1
                progress(report.records, total)
            }
        }
        return report
    }

    private static func check(
        _ log: SegmentLog,
        segment: UInt32,
        ordinal: UInt32,
        row: IndexRow?
    ) throws(KVStoreError) -> String? {
        let position = RecordPosition(segment: segment, ordinal: ordinal)
        let expected = row.map { ExpectedRecord(key: $0.key, parent: $0.parent, fingerprint: $0.fingerprint) }
        switch try RecordCheck.run(log, at: position, expecting: expected) {
        case .good: return nil
        case .damaged(let reason): return reason
        case .missing: return "the record is missing"
        case .notChecked: return RecordDamage.noMemory.description
        }
    }

    private static func countUnreachable(_ rows: [IndexRow]) -> Int {
        var children: [BlockKey: [BlockKey]] = [:]
        var reached = 0
        var frontier: [BlockKey] = []
        for row in rows {
            if row.parent == row.fingerprint {
                frontier.append(row.key)
            } else {
                children[row.parent, default: []].append(row.key)
            }
        }
        while let key = frontier.popLast() {
            reached += 1
            frontier.append(contentsOf: children[key] ?? [])
        }
        return rows.count - reached
    }
}
