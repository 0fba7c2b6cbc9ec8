import ArgumentParser
import KVStore

/// `--verify-restart`: a child replays the first half and is killed in the middle of a request; this process then
/// opens the same directory and checks whatever the store says it still has.
struct RestartTrial {
    let settings: ReplaySettings
    let diskPath: String
    let trace: Trace
    let payloads: PayloadSource

    /// The child writes early, unless `--write-back` says otherwise: it gets no chance to flush.
    static let writeBackSeconds = 0.2

    /// Runs the child over the first half, kills it, and returns how many requests it had finished.
    func runChildAndKill() throws -> Int {
        let half = trace.requests.count / 2
        guard half >= 1 else { throw StartError("--verify-restart needs at least 2 requests; raise --limit") }
        let child = try ChildProcess(arguments: Self.childArguments(CommandLine.arguments, diskPath: diskPath))
        var progress = ProgressBar("child", total: half, mode: .fitting(isQuiet: settings.isQuiet))
        var finished = 0
        while let line = try child.nextLine() {
            guard let message = ChildMessage(line) else { continue }
            guard message.wrongBytes == 0 else {
                child.killNow()
                _ = child.wait()
                throw StartError("the child read \(message.wrongBytes) wrong bytes before it was killed")
            }
            finished = message.request + 1
            progress.update(finished)
            // It goes on with the next request at once, so the signal finds it in the middle of one. What it has
            // finished meanwhile is still in the pipe and is read before the loop ends.
            if finished >= half || Interruption.isRequested { child.killNow() }
        }
        progress.finish()
        let (wasKilled, status) = child.wait()
        guard !Interruption.isRequested else { throw StartError("interrupted before the reopen") }
        guard wasKilled || finished == trace.requests.count else {
            throw StartError("the child ended by itself with \(status) after \(finished) requests")
        }
        return finished
    }

    /// Opens the directory as the child left it and compares all bytes of every block that is still found.
    func reopenAndVerify(reached: Int) throws -> (ReplayRunner, ReplayReport.Restart) {
        let start = ContinuousClock.now
        var runner = try ReplayRunner(settings, diskPath: diskPath, trace: trace, payloads: payloads)
        try runner.waitUntilWarm()
        let reopenSeconds = (ContinuousClock.now - start) / .seconds(1)
        let indexedBlocks = runner.counts.disk.blocks
        // The request that was cut short counts too: some of its blocks may have been written.
        let candidates = trace.requests.prefix(reached + 1)
        var found: Set<UInt64> = []
        var progress = ProgressBar("verify", total: candidates.count, mode: .fitting(isQuiet: settings.isQuiet))
        for (number, request) in candidates.enumerated() {
            let count = runner.verifyPresent(request, number: number)
            found.formUnion(request.blocks.prefix(count))
            progress.update(number + 1)
        }
        progress.finish()
        let restart = ReplayReport.Restart(
            killedAfterRequests: reached,
            reopenSeconds: reopenSeconds,
            indexedBlocks: indexedBlocks,
            reachedBlocks: found.count,
            verifiedBytes: runner.verification.verifiedBytes,
            wrongBytes: runner.verification.wrongBytes
        )
        return (runner, restart)
    }

    /// The parent's own arguments plus the hidden option, put before anything that could end the options.
    static func childArguments(_ arguments: [String], diskPath: String) -> [String] {
        var result = Array(arguments.dropFirst())
        let command = result.firstIndex(of: "replay") ?? -1
        result.insert(contentsOf: ["--restart-child", diskPath], at: command + 1)
        return result
    }
}

/// One line of the child: `done REQUEST WRONGBYTES`.
struct ChildMessage: Hashable {
    var request: Int
    var wrongBytes: Int

    init?(_ line: String) {
        let words = line.split(separator: " ")
        guard words.count == 3, words[0] == "done", let request = Int(words[1]), let wrongBytes = Int(words[2]),
            request >= 0, wrongBytes >= 0
        else { return nil }
        self.request = request
        self.wrongBytes = wrongBytes
    }
}
