extension ReplayReport {
    /// The report for people. Its text is held by golden files, see Tests/KVStoreCLITests/Golden.
    var table: String {
        let wait = waitedForSpill ? "" : ", not waiting for the spill queue"
        var text = """
            \(trace): \(grouped(requests)) requests, \(grouped(blocks)) blocks of \(grouped(blockTokens)) tokens, \
            \(ByteSize(blockBytes)) each
            policy \(policy)\(wait), \(durationText(microseconds: seconds * 1_000_000))\(isInterrupted ? ", interrupted" : "")


            """
        text += tierTable
        if memory.refusedBlocks > 0 {
            text += "\(grouped(memory.refusedBlocks)) blocks found no room in memory and were not stored\n"
        }
        if let disk { text += "\n" + Self.diskTable(disk) }
        if let restart { text += "\n" + restartText(restart) }
        text += "\n" + verdict
        return text
    }

    private var tierTable: String {
        var table = TextTable(header: ["", "memory"] + (disk == nil ? [] : ["disk", "both"]))
        func add(_ name: String, _ memory: String, _ disk: String?, _ both: String = "") {
            table.add([name, memory] + (disk.map { [$0, both] } ?? []))
        }
        func ratio(_ value: Double) -> String { decimal(value, digits: 4) }
        func size(_ value: Int) -> String { String(describing: ByteSize(value)) }
        func latency(_ value: Double?) -> String { value.map { durationText(microseconds: $0) } ?? "-" }
        add(
            "hit ratio by block",
            ratio(memory.hitRatioBlocks),
            (disk?.hitRatioBlocks).map(ratio),
            ratio(hitRatioBlocks)
        )
        add(
            "hit ratio by token",
            ratio(memory.hitRatioTokens),
            (disk?.hitRatioTokens).map(ratio),
            ratio(hitRatioTokens)
        )
        add(
            "hit blocks",
            grouped(memory.hitBlocks),
            (disk?.hitBlocks).map(grouped),
            grouped(memory.hitBlocks + (disk?.hitBlocks ?? 0))
        )
        add("acquire, p50", latency(memory.acquireP50Microseconds), disk.map { latency($0.acquireP50Microseconds) })
        add("acquire, p99", latency(memory.acquireP99Microseconds), disk.map { latency($0.acquireP99Microseconds) })
        add("evicted blocks", grouped(memory.evictedBlocks), (disk?.evictedBlocks).map(grouped))
        add("blocks held", grouped(memory.blocks), (disk?.blocks).map(grouped))
        add("bytes held", size(memory.bytes), (disk?.bytes).map(size))
        add("capacity", size(memory.capacityBytes), (disk?.capacityBytes).map(size))
        return table.text
    }

    private static func diskTable(_ disk: Disk) -> String {
        func factor(_ value: Double?) -> String { value.map { decimal($0, digits: 2) + " ×" } ?? "-" }
        var table = TextTable()
        table.add("spilled blocks (memory to disk)", grouped(disk.spilledBlocks))
        table.add("promoted blocks (disk to memory)", grouped(disk.promotedBlocks))
        table.add("dropped blocks (lost without a disk copy)", grouped(disk.droppedBlocks))
        if disk.corruptBlocks > 0 {
            table.add("corrupt blocks (refused, counted as misses)", grouped(disk.corruptBlocks))
        }
        table.add("compression ratio (raw / stored)", factor(disk.compressionRatio))
        table.add("write amplification", factor(disk.writeAmplification))
        return table.text + (disk.problem.map { "the disk tier is not working: \($0)\n" } ?? "")
    }

    private func restartText(_ restart: Restart) -> String {
        var text = """
            kill -9 after request \(grouped(restart.killedAfterRequests)): reopened in \
            \(decimal(restart.reopenSeconds, digits: 2)) s with \(grouped(restart.indexedBlocks)) blocks on disk;
            \(grouped(restart.reachedBlocks)) of them found again by their requests, \
            \(ByteSize(restart.verifiedBytes)) compared, \(grouped(restart.wrongBytes)) wrong bytes.
            The table counts the requests after the kill; percentiles include the check.

            """
        if restart.indexedBlocks == 0 {
            text += "Nothing had reached the disk yet: take a longer trace, or --write-back 0.05.\n"
        }
        return text
    }

    private var verdict: String {
        var text = """
            A cache without limits would hit \(decimal(traceSummary.endlessHitRatioBlocks, digits: 4)) of the blocks \
            (\(grouped(traceSummary.uniqueBlocks)) different ones).
            wrong bytes: \(grouped(wrongBytes)) of \(ByteSize(verifiedBytes)) compared

            """
        if wrongBytes > 0 {
            text += "WRONG BYTES in \(grouped(wrongBlocks)) blocks, the first of them:\n"
            for fault in faults { text += "  \(fault)\n" }
        }
        return text
    }
}
