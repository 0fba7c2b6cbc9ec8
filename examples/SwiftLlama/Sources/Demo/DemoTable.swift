internal import Foundation

/// The summary for people.
struct DemoTable {
    let summary: DemoSummary

    var text: String {
        var lines = [
            "| run | prompt | loaded | from | first token | of cold | identical |", "|---|---|---|---|---|---|---|",
        ]
        for row in summary.rows {
            let from = [(row.memoryBlocks, "memory"), (row.diskBlocks, "disk")].filter { $0.0 > 0 }
                .map { "\($0.0) blocks \($0.1)" }.joined(separator: ", ")
            lines.append(
                "| \(row.step) | \(row.promptTokens) | \(row.loadedTokens) | \(from) "
                    + "| \(milliseconds(row.medianFirstTokenSeconds)) | \(percent(row.firstTokenShare)) "
                    + "| \(row.isIdentical ? "tokens, logits, bytes" : "NO") |")
        }
        lines.append("")
        lines.append(
            "overhead of an empty cache on whole requests: \(percent(summary.overhead)) of the time, "
                + "\(percent(summary.processorOverhead)) of the processor's time (goal: at most 3 %), "
                + "\(percent(summary.cacheShare)) in calls of the cache")
        for (step, goal) in [("memory", 25), ("disk", 35)] {
            guard let row = summary.rows.first(where: { $0.step == step }) else { continue }
            lines.append("first token from \(step): \(percent(row.firstTokenShare)) of cold (goal: at most \(goal) %)")
        }
        if let pages = summary.batchPages, let blocks = summary.batchBlocks {
            lines.append(
                "batch: tables of \(blocks) blocks; \(pages) are pages of the engine, the others the store's slots"
            )
        }
        if let durable = summary.durableBlocks {
            lines.append(
                "flushed before the kill: \(durable) blocks, \(summary.diskBytes >> 20) MiB on disk in the end")
        }
        if summary.rows.contains(where: { $0.step == "damaged record" }) {
            lines.append("damaged record: the store noticed \(summary.corruptBlocks) bad blocks and served none")
        }
        for control in summary.controls { lines.append(sentence(control)) }
        let loads = summary.loadAverages.map { String(format: "%.2f", $0) }.joined(separator: " ")
        lines.append("load averages at the end: \(loads)")
        return lines.joined(separator: "\n")
    }

    private func sentence(_ control: DemoSummary.Control) -> String {
        func differ(_ flag: Bool) -> String { flag ? "differ" : "are the same" }
        let blocks = control.differingBlocks.prefix(4).map(String.init).joined(separator: ", ")
        let count = control.differingBlocks.count
        return "\(control.step): tokens \(differ(control.tokensDiffer)), logits \(differ(control.logitsDiffer)), "
            + "bytes of \(count) blocks differ (\(blocks)\(count > 4 ? ", …" : ""))"
            + (control.isNoticed ? "" : " — NOT NOTICED")
    }

    private func milliseconds(_ seconds: Double) -> String { String(format: "%.0f ms", seconds * 1000) }
    private func percent(_ share: Double) -> String { String(format: "%.1f %%", share * 100) }
}
