import ArgumentParser
import KVStore

/// `kvstore verify`: reads every record of a directory that no store has open.
struct VerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Check every record of a disk tier: lengths, identity, digests.",
        discussion: """
            The directory must not be in use. What a crash left half done is completed first, as a store would do it; \
            beyond that nothing is changed. A bad record is never served anyway: the store treats it as a miss. This \
            command finds such records before a lookup does.

            Exit codes: 0 every record is good; 1 bad records were found; 2 the directory cannot be opened.

            Examples:
              kvstore verify /var/lib/kvstore
              kvstore verify /var/lib/kvstore --json | jq .badRecords
            """
    )

    @Argument(help: "Directory of the disk tier.")
    var path: String
    @Flag(help: "Print one JSON object instead of text.")
    var json = false
    @Flag(help: "No progress on standard error.")
    var quiet = false

    func run() throws {
        do {
            var progress = ProgressBar("verify", total: 0, mode: .fitting(isQuiet: quiet))
            let found = try OfflineVerifier(path: path).run { done, total in progress.update(done, of: total) }
            progress.finish()
            let report = VerifyReport(
                path: path,
                segments: found.segments,
                records: found.records,
                badRecords: found.bad.map {
                    .init(segment: Int($0.segment), ordinal: Int($0.ordinal), reason: "\($0.reason)")
                },
                orphanedRows: found.orphanedRows,
                repair: found.repair
            )
            Terminal.print(json ? try JSONText.encode(report) : report.text)
            if !report.badRecords.isEmpty { throw ExitCode(1) }
        } catch let error as KVStoreError {
            Terminal.printError("kvstore verify: \(error.message)\n")
            throw ExitCode(2)
        }
    }
}

/// What a scrub found.
struct VerifyReport: Codable, Hashable, Sendable {
    struct BadRecord: Codable, Hashable, Sendable {
        var segment: Int
        var ordinal: Int
        var reason: String
    }

    var path: String
    var segments: Int
    var records: Int
    var badRecords: [BadRecord]
    /// Index rows that no lookup can reach.
    var orphanedRows: Int
    /// What opening the directory had to repair; null when nothing.
    @ExplicitNull var repair: String?

    private static let shownLimit = 50

    var text: String {
        var text = "\(path): \(grouped(records)) records in \(grouped(segments)) segments\n"
        if let repair { text += "\(repair)\n" }
        if orphanedRows > 0 {
            text += "\(grouped(orphanedRows)) index rows that no lookup can reach\n"
        }
        guard !badRecords.isEmpty else { return text + "all good\n" }
        text += "\(grouped(badRecords.count)) BAD, each served as a miss:\n"
        var table = TextTable(header: ["  segment", "ordinal", "reason"], leftColumns: [2])
        for bad in badRecords.prefix(Self.shownLimit) { table.add("  \(bad.segment)", "\(bad.ordinal)", bad.reason) }
        text += table.text
        if badRecords.count > Self.shownLimit {
            text += "  and \(grouped(badRecords.count - Self.shownLimit)) more; --json lists them all\n"
        }
        return text
    }
}
