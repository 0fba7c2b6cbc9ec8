internal import Foundation

/// What the demo found out: compares every run with one of the same prompt without a cache.
struct DemoSummary: Encodable {
    /// One kind of run, over all rounds.
    struct Row: Encodable {
        let step: String
        let runs: Int
        let promptTokens: Int
        /// Of the run that loaded least.
        let loadedTokens: Int
        let memoryBlocks: Int
        let diskBlocks: Int
        let medianFirstTokenSeconds: Double
        /// Of the time without a cache, by the median of the rounds' own ratios.
        let firstTokenShare: Double
        /// Tokens, logits bit by bit and bytes of all blocks equal those without a cache.
        let isIdentical: Bool
    }

    /// A run that must *not* be identical.
    struct Control: Encodable {
        let step: String
        let tokensDiffer: Bool
        let logitsDiffer: Bool
        /// Numbers of the blocks whose bytes differ.
        let differingBlocks: [Int]
        var isNoticed: Bool { !differingBlocks.isEmpty }
    }

    let rows: [Row]
    let controls: [Control]
    /// Time of whole requests with an empty cache over that without one, less 1; median of the rounds.
    let overhead: Double
    /// The same of the processor's time, the store's own threads included: what others do beside matters less.
    let processorOverhead: Double
    /// Part of the time of whole requests with an empty cache that the engine waited for the cache; median.
    let cacheShare: Double
    let durableBlocks: Int?
    let diskBytes: Int
    /// Blocks that the damaged store read, found to be something else than was stored, and did not serve.
    let corruptBlocks: Int
    let batchPages: Int?
    let batchBlocks: Int?
    let loadAverages: [Double]

    /// The step whose blocks have other content; the other control has the right blocks in wrong places.
    static let contentControl = "control: other content"

    /// Whether nothing was wrong: what the exit code says. Timings do not count.
    var isRight: Bool {
        rows.allSatisfy(\.isIdentical) && controls.allSatisfy(\.isNoticed)
            && controls.contains { $0.step == Self.contentControl && $0.logitsDiffer }
    }

    init(_ reports: [DemoReport]) {
        let runs = reports.flatMap(\.runs)
        let plain = runs.filter { $0.step == "no cache" }
        func reference(_ run: DemoRun) -> DemoRun? {
            plain.first { $0.variant == run.variant && $0.user == run.user }
        }
        var steps: [String] = []
        for run in runs where !steps.contains(run.step) { steps.append(run.step) }
        rows = steps.filter { !$0.hasPrefix("control") }.map { step in
            let here = runs.filter { $0.step == step }
            // Where a record was damaged, the run that it hit.
            let least = here.min { $0.loadedTokens < $1.loadedTokens } ?? here[0]
            return Row(
                step: step, runs: here.count, promptTokens: least.promptTokens, loadedTokens: least.loadedTokens,
                memoryBlocks: least.memoryBlocks, diskBlocks: least.diskBlocks,
                medianFirstTokenSeconds: median(here.map(\.firstTokenSeconds)),
                firstTokenShare: median(
                    here.compactMap { run in reference(run).map { run.firstTokenSeconds / $0.firstTokenSeconds } }),
                isIdentical: here.allSatisfy { run in reference(run).map(run.isIdentical) ?? false })
        }
        controls = runs.filter { $0.step.hasPrefix("control") }.compactMap { run in
            guard let right = reference(run) else { return nil }
            let blocks = run.blockDigests.indices.filter { run.blockDigests[$0] != right.blockDigests[$0] }
            return Control(
                step: run.step, tokensDiffer: run.tokens != right.tokens,
                logitsDiffer: run.logitsDigest != right.logitsDigest, differingBlocks: blocks)
        }
        let pairs = runs.filter { $0.step == "empty cache" }.compactMap { run in reference(run).map { (run, $0) } }
        overhead = median(pairs.map { $0.totalSeconds / $1.totalSeconds - 1 })
        cacheShare = median(pairs.map { $0.0.cacheSeconds / $0.0.totalSeconds })
        processorOverhead = median(pairs.map { $0.processorSeconds / $1.processorSeconds - 1 })
        durableBlocks = reports.compactMap(\.durableBlocks).first
        diskBytes = reports.map(\.diskBytes).max() ?? 0
        corruptBlocks = reports.last?.corruptBlocks ?? 0
        batchPages = reports.compactMap(\.batchPages).first
        batchBlocks = reports.compactMap(\.batchBlocks).first
        loadAverages = SignalSending.loadAverages
    }
}

/// The middle one; of an even number the upper.
private func median(_ values: [Double]) -> Double { values.isEmpty ? 0 : values.sorted()[values.count / 2] }
