import FoundationEssentials
import KVStore

/// A replay from the first request to the report.
struct ReplaySession {
    private let settings: ReplaySettings
    static let syntheticRequestCount = 5000

    init(_ settings: ReplaySettings) { self.settings = settings }

    /// Reads, replays, verifies; a temporary disk directory is gone afterwards.
    func run() throws -> ReplayReport {
        let (trace, payloads) = try prepare()
        guard settings.disk != nil else { return try run(trace, payloads, diskPath: nil) }
        if let path = settings.diskPath { return try run(trace, payloads, diskPath: path) }
        let path = try makeTemporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: path) }
        // The store makes its own directory, so that it never sees one that it would have to call foreign.
        return try run(trace, payloads, diskPath: path + "/store")
    }

    private func prepare() throws(StartError) -> (Trace, PayloadSource) {
        let trace =
            if settings.traces.isEmpty {
                SyntheticTrace.trace(
                    seed: settings.seed,
                    requests: settings.limit ?? Self.syntheticRequestCount,
                    blockTokens: settings.blockTokens
                )
            } else {
                try TraceReader.read(paths: settings.traces, limit: settings.limit)
            }
        var origin = PayloadSource.Origin.generated
        if let directory = settings.payloadDirectory { origin = .bytes(try PayloadDirectory.read(directory)) }
        let payloads = PayloadSource(blockByteCount: settings.blockByteCount, seed: settings.seed, origin: origin)
        return (trace, payloads)
    }

    private func run(_ trace: Trace, _ payloads: PayloadSource, diskPath: String?) throws -> ReplayReport {
        let start = ContinuousClock.now
        var first = 0
        var restart: ReplayReport.Restart?
        var runner: ReplayRunner
        var baseline = StoreCounts()
        if settings.verifiesRestart, let diskPath {
            let trial = RestartTrial(settings: settings, diskPath: diskPath, trace: trace, payloads: payloads)
            first = try trial.runChildAndKill()
            (runner, restart) = try trial.reopenAndVerify(reached: first)
            baseline = runner.counts
        } else {
            runner = try ReplayRunner(settings, diskPath: diskPath, trace: trace, payloads: payloads)
            try runner.waitUntilWarm()
        }
        let verifiedBefore = runner.verification.verifiedBytes
        let done = replay(trace.requests, from: first, with: &runner)
        let counts = runner.counts.since(baseline)
        let verification = runner.verification
        runner.close()
        var report = ReplayReport(
            trace: trace.name,
            traceSummary: TraceSummary(trace.requests.prefix(done)),
            policy: settings.policy.rawValue,
            blockBytes: settings.blockByteCount,
            blockTokens: settings.blockTokens,
            waitedForSpill: settings.waitsForSpill,
            isInterrupted: done < trace.requests.count,
            seconds: (ContinuousClock.now - start) / .seconds(1),
            counts: counts,
            hasDisk: diskPath != nil,
            verification: verification,
            restart: restart
        )
        report.verifiedBytes -= verifiedBefore
        return report
    }

    /// Returns the number of the first request that was not replayed.
    private func replay(_ requests: [TraceRequest], from first: Int, with runner: inout ReplayRunner) -> Int {
        var progress = ProgressBar("replay", total: requests.count, mode: .fitting(isQuiet: settings.isQuiet))
        defer { progress.finish() }
        for number in first..<requests.count {
            if Interruption.isRequested { return number }
            runner.replay(requests[number], number: number)
            progress.update(number + 1) { [runner] in Self.note(runner.counts) }
        }
        return requests.count
    }

    private static func note(_ counts: StoreCounts) -> String {
        guard counts.blocks > 0 else { return "" }
        let hits = Double(counts.memory.hitBlocks + counts.disk.hitBlocks) / Double(counts.blocks)
        return "hit \(decimal(hits, digits: 3)) of blocks"
    }

    /// The process that `--verify-restart` kills: replays, and says after each request that it is done.
    func runAsRestartChild(diskPath: String) throws {
        var settings = settings
        settings.writeBackSeconds = settings.writeBackSeconds ?? RestartTrial.writeBackSeconds
        let (trace, payloads) = try prepare()
        var runner = try ReplayRunner(settings, diskPath: diskPath, trace: trace, payloads: payloads)
        try runner.waitUntilWarm()
        for (number, request) in trace.requests.enumerated() where !Interruption.isRequested {
            runner.replay(request, number: number)
            Terminal.print("done \(number) \(runner.verification.wrongBytes)\n")
        }
        runner.close()
    }
}
