import Testing

@testable import KVStoreCLI

@Suite("What a replay reports")
struct ReportTests {
    private static let counts = StoreCounts(
        requests: 12_031,
        blocks: 288_500,
        tokens: 144_793_085,
        memory: .init(
            hitBlocks: 18_839,
            hitTokens: 9_645_568,
            blocks: 3000,
            bytes: 196_608_000,
            capacityBytes: 610_279_424,
            evictedBlocks: 215_003,
            acquireP50Microseconds: 4.25,
            acquireP99Microseconds: 96.1
        ),
        disk: .init(
            hitBlocks: 48_871,
            hitTokens: 25_021_952,
            blocks: 10_000,
            bytes: 498_073_600,
            capacityBytes: 1_073_741_824,
            evictedBlocks: 150_321,
            acquireP50Microseconds: 812.5,
            acquireP99Microseconds: 14_250
        ),
        spilledBlocks: 160_321,
        promotedBlocks: 48_871,
        droppedBlocks: 12,
        spilledRawBytes: 10_506_797_056,
        spilledStoredBytes: 7_899_847_000,
        carriedStoredBytes: 1_200_000_000
    )

    private static let summary = TraceSummary([
        TraceRequest(arrivalMilliseconds: 0, inputTokens: 1024, outputTokens: 1, blocks: [1, 2]),
        TraceRequest(arrivalMilliseconds: 0, inputTokens: 1024, outputTokens: 1, blocks: [1, 3]),
    ])

    private func report(
        counts: StoreCounts = Self.counts,
        hasDisk: Bool = true,
        verification: PayloadVerification = .init(),
        restart: ReplayReport.Restart? = nil,
        isInterrupted: Bool = false
    ) -> ReplayReport {
        ReplayReport(
            trace: "chats.jsonl.gz",
            traceSummary: Self.summary,
            policy: "leaf-lru",
            blockBytes: 65_536,
            blockTokens: 512,
            waitedForSpill: true,
            isInterrupted: isInterrupted,
            seconds: 83.4,
            counts: counts,
            hasDisk: hasDisk,
            verification: verification,
            restart: restart
        )
    }

    @Test func looksLikeTheGoldenFiles() throws {
        try expectGolden("replay", report().table)
        try expectGolden("replay-memory-only", report(hasDisk: false, isInterrupted: true).table)
        try expectGolden("replay-nothing-yet", report(counts: StoreCounts()).table)
        try expectGolden("replay-json", try JSONText.encode(report()))
        try expectGolden("replay-json-memory-only", try JSONText.encode(report(counts: StoreCounts(), hasDisk: false)))
    }

    @Test func showsARestart() throws {
        let restart = ReplayReport.Restart(
            killedAfterRequests: 2500,
            reopenSeconds: 0.137,
            indexedBlocks: 5120,
            reachedBlocks: 5118,
            verifiedBytes: 700_000_000,
            wrongBytes: 0
        )
        try expectGolden("replay-restart", report(restart: restart).table)
    }

    @Test func showsWrongBytesLoudly() throws {
        var verification = PayloadVerification()
        verification.record(nil, byteCount: 65_536) { "never made" }
        verification.record(PayloadFault(wrongBytes: 4096, firstOffset: 8192, foundBlock: 77), byteCount: 65_536) {
            "request 12, block 3 of 9, from disk"
        }
        for number in 0..<20 {
            verification.record(PayloadFault(wrongBytes: 1, firstOffset: 5), byteCount: 65_536) { "request \(number)" }
        }
        #expect(verification.wrongBytes == 4116)
        #expect(verification.wrongBlocks == 21)
        var counts = Self.counts
        counts.corruptBlocks = 3
        counts.refusedBlocks = 40
        counts.diskProblem = "no space left on device"
        try expectGolden("replay-wrong-bytes", report(counts: counts, verification: verification).table)
    }

    @Test func showsWhatAScrubFound() throws {
        var report = VerifyReport(
            path: "/var/lib/kvstore",
            segments: 12,
            records: 1536,
            badRecords: [],
            orphanedRows: 0,
            repair: nil
        )
        try expectGolden("verify-clean", report.text)
        report.orphanedRows = 2
        report.repair = "the database was rebuilt: 12 segments kept, 1 files refused"
        report.badRecords = (0..<52).map {
            .init(segment: 7, ordinal: $0 * 3, reason: "the digest of the stored bytes differs")
        }
        try expectGolden("verify-bad", report.text)
        report.badRecords = Array(report.badRecords.prefix(1))
        try expectGolden("verify-json", try JSONText.encode(report))
    }

    @Test func countsOnlyWhatHappenedSinceTheBaseline() {
        var later = Self.counts
        later.requests += 10
        later.disk.hitBlocks += 4
        later.memory.evictedBlocks += 2
        later.spilledBlocks += 3
        let difference = later.since(Self.counts)
        #expect(difference.requests == 10)
        #expect(difference.disk.hitBlocks == 4)
        #expect(difference.memory.evictedBlocks == 2)
        #expect(difference.spilledBlocks == 3)
        #expect(difference.blocks == 0)
        #expect(difference.memory.capacityBytes == Self.counts.memory.capacityBytes, "a level, not a count")
    }

    @Test func progressFitsTheTerminal() {
        func line(_ columns: Int, hasBar: Bool = true) -> String {
            ProgressBar.line(
                "replay",
                3000,
                12_000,
                elapsedSeconds: 20,
                note: "hit 0.412 of blocks",
                columns: columns,
                hasBar: hasBar
            )
        }
        #expect(
            line(120)
                == "replay [#####...............] 25 %  3,000 of 12,000  hit 0.412 of blocks  1 min 0 s left"
        )
        #expect(line(40).count == 39)
        #expect(line(120, hasBar: false).hasPrefix("replay 25 %"))
        #expect(ProgressBar.line("v", 0, 0, elapsedSeconds: 0, note: "", columns: 80, hasBar: false) == "v 0 %  0 of 0")
    }
}
