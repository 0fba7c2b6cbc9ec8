import KVStore
import KVStoreIPC

extension DaemonStatistics {
    /// The statistics for people. Its text is held by golden files, see Tests/KVStoreCLITests/Golden.
    var table: String {
        var text = headline + "\n" + tierTable + "\n" + lookupTable + "\n"
        if operations.values.contains(where: { $0.count > 0 }) { text += operationTable + "\n" }
        text += diskTable
        if !tenants.isEmpty { text += "\n" + tenantTable }
        if daemon.isDraining { text += "\nThe daemon is draining: it takes no new blocks and will end.\n" }
        return text
    }

    private var headline: String {
        let peers = daemon.connections == 1 ? "1 client" : "\(grouped(daemon.connections)) clients"
        var text = "kvstore \(daemon.version), "
        // Who is no operator is told of its own part only.
        if daemon.processID > 0 { text += "process \(daemon.processID), " }
        text += "up \(secondsText(daemon.uptimeSeconds))"
        if daemon.connectionsTotal > 0 {
            text += ", \(peers) (\(grouped(daemon.connectionsTotal)) since the start), "
            text += "\(grouped(daemon.requests)) requests"
        }
        text += "\ndisk: \(diskState)\n"
        let troubles = [
            (daemon.refusedConnections, "refused connections"), (daemon.protocolErrors, "protocol errors"),
            (daemon.expiredLeases, "expired leases"), (daemon.diedClients, "clients that died holding blocks"),
        ]
        let seen = troubles.filter { $0.0 > 0 }.map { "\(grouped($0.0)) \($0.1)" }
        if !seen.isEmpty { text += seen.joined(separator: ", ") + "\n" }
        return text
    }

    private var diskState: String {
        if let problem = store.diskProblem { return "NOT WORKING: \(problem)" }
        if store.disk.capacityBytes == 0 { return "none" }
        if store.isWarming { return "loading its index; misses meanwhile are counted as warming" }
        if store.warmUp.isRunning {
            return "working; reading the most used blocks into memory, \(grouped(store.warmUp.blocks)) of "
                + "\(grouped(store.warmUp.plannedBlocks))"
        }
        return "working"
    }

    private var hasDisk: Bool { store.disk.capacityBytes > 0 }

    private var tierTable: String {
        var table = TextTable(header: ["", "memory"] + (hasDisk ? ["disk", "both"] : []))
        func add(_ name: String, _ memory: String, _ disk: String, _ both: String = "") {
            table.add([name, memory] + (hasDisk ? [disk, both] : []))
        }
        func addCounts(_ name: String, _ field: KeyPath<TierStatistics, Int>, sum: Bool = false) {
            let (memory, disk) = (store.memory[keyPath: field], store.disk[keyPath: field])
            add(name, grouped(memory), grouped(disk), sum ? grouped(memory + disk) : "")
        }
        func share(_ part: Int, _ whole: Int) -> String {
            decimal(whole == 0 ? 0 : Double(part) / Double(whole), digits: 4)
        }
        let (blocks, tokens) = (store.requestedBlocks, store.requestedTokens)
        add(
            "hit ratio by block",
            share(store.memory.hitBlocks, blocks),
            share(store.disk.hitBlocks, blocks),
            share(store.memory.hitBlocks + store.disk.hitBlocks, blocks)
        )
        add(
            "hit ratio by token",
            share(store.memory.hitTokens, tokens),
            share(store.disk.hitTokens, tokens),
            share(store.memory.hitTokens + store.disk.hitTokens, tokens)
        )
        addCounts("hit blocks", \.hitBlocks, sum: true)
        addCounts("hit tokens", \.hitTokens, sum: true)
        addCounts("blocks held", \.blocks)
        add("bytes held", size(store.memory.bytes), size(store.disk.bytes))
        add("  of these without a block", size(store.unusedBytes), "")
        add("capacity", size(store.memory.capacityBytes), size(store.disk.capacityBytes))
        addCounts("evicted blocks", \.evictedBlocks)
        let (memoryAge, diskAge) = (store.memory.ageAtEviction, store.disk.ageAtEviction)
        add("age at eviction, p50", age(memoryAge, memoryAge.p50Seconds), age(diskAge, diskAge.p50Seconds))
        add("age at eviction, p99", age(memoryAge, memoryAge.p99Seconds), age(diskAge, diskAge.p99Seconds))
        addCounts("damaged, found by scrub", \.scrub.damagedBlocks)
        return table.text
    }

    private func age(_ ages: AgeSummary, _ seconds: Int) -> String {
        ages.count == 0 ? "-" : secondsText(Double(seconds))
    }

    private func size(_ byteCount: Int) -> String { String(describing: ByteSize(byteCount)) }

    private var lookupTable: String {
        var table = TextTable()
        table.add("lookups", grouped(store.lookups))
        table.add("blocks asked for", grouped(store.requestedBlocks))
        table.add("tokens asked for", grouped(store.requestedTokens))
        table.add("lookups that ended early: next block not stored", grouped(store.missesAbsent))
        table.add("  being stored or read by somebody else", grouped(store.missesInProgress))
        table.add("  no memory free to read it into", grouped(store.missesWithoutSlot))
        table.add("  damaged", grouped(store.missesCorrupt))
        table.add("  index of the disk still loading", grouped(store.missesWarming))
        table.add("blocks stored", grouped(store.committedBlocks))
        table.add("blocks that found no room", grouped(store.refusedBlocks))
        table.add("blocks removed", grouped(store.removedBlocks))
        table.add("leases, reservations open", "\(grouped(store.leases)), \(grouped(store.reservations))")
        return table.text
    }

    private static let operationNames = ["acquire.memory", "acquire.disk", "promote", "reserve", "commit"]

    private var operationTable: String {
        var table = TextTable(header: ["operation", "calls", "mean", "p50", "p99", "p99.9"])
        let others = operations.keys.filter { !Self.operationNames.contains($0) }.sorted()
        for name in Self.operationNames + others {
            guard let operation = operations[name] else { continue }
            func time(_ nanoseconds: Int) -> String {
                operation.count == 0 ? "-" : durationText(microseconds: Double(nanoseconds) / 1000)
            }
            table.add(
                name,
                grouped(operation.count),
                time(operation.sumNanoseconds / max(1, operation.count)),
                time(operation.p50Nanoseconds),
                time(operation.p99Nanoseconds),
                time(operation.p999Nanoseconds)
            )
        }
        return table.text
    }

    private var diskTable: String {
        var table = TextTable()
        table.add("only in memory: what a kill would lose", "\(grouped(store.unwrittenBlocks)) blocks")
        if hasDisk {
            table.add(
                "spill queue",
                "\(grouped(store.queuedBlocks)) blocks, \(size(store.queuedBytes))"
            )
            table.add("spilled (memory to disk)", "\(grouped(store.spilledBlocks)) blocks")
            table.add("promoted (disk to memory)", "\(grouped(store.promotedBlocks)) blocks")
            table.add("dropped (evicted without a disk copy)", "\(grouped(store.droppedBlocks)) blocks")
            table.add("kept off the disk by a quota", "\(grouped(store.quotaRefusedBlocks)) blocks")
            table.add("compression ratio (raw / stored)", decimal(store.compressionRatio, digits: 2) + " ×")
            table.add("write amplification", decimal(store.writeAmplification, digits: 2) + " ×")
            table.add("segments, records in them", "\(grouped(store.segments)), \(grouped(store.diskRecords))")
            table.add("errors that paused the disk", grouped(store.diskErrors))
        }
        return table.text
    }

    private var tenantTable: String {
        var table = TextTable(
            header: [
                "tenant", "hit ratio", "lookups", "in memory", "quota", "blocks", "on disk", "quota", "blocks",
                "leases",
            ]
        )
        for tenant in tenants {
            let hits = tenant.memoryHitBlocks + tenant.diskHitBlocks
            table.add(
                tenantText(tenant.name),
                tenant.requestedBlocks == 0 ? "-" : decimal(Double(hits) / Double(tenant.requestedBlocks), digits: 4),
                grouped(tenant.lookups),
                size(tenant.memoryBytes),
                tenant.memoryQuotaBytes.map(size) ?? "-",
                grouped(tenant.memoryBlocks),
                size(tenant.diskBytes),
                tenant.diskQuotaBytes.map(size) ?? "-",
                grouped(tenant.diskBlocks),
                grouped(tenant.leases)
            )
        }
        return table.text
    }
}

/// A tenant's name as shown: control characters, which could do things to a terminal, become `?`; no name is `(public)`.
func tenantText(_ name: String) -> String { name.isEmpty ? "(public)" : printable(name, limit: 32) }

/// Text of others as shown: no control characters, and not longer than `limit`.
func printable(_ text: String, limit: Int) -> String {
    let safe = String(text.map { $0.isPrintable ? $0 : "?" })
    return safe.count <= limit ? safe : safe.prefix(limit - 1) + "…"
}

extension Character {
    fileprivate var isPrintable: Bool {
        unicodeScalars.allSatisfy { scalar in
            switch scalar.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .unassigned, .privateUse: false
            default: true
            }
        }
    }
}
