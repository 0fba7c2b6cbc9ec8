internal import KVStore
internal import KVStoreIPC

/// One metric: what it is called, what it means, and where its values come from.
package struct Metric: Sendable {
    /// As in the Prometheus text format, https://prometheus.io/docs/instrumenting/exposition_formats/.
    package enum Kind: String, Sendable {
        case counter
        case gauge
        case histogram
    }

    /// One series of a metric at one moment.
    struct Sample {
        var labels: [(name: String, value: String)] = []
        var value: Value
    }

    enum Value {
        case number(Double)
        /// Cumulative counts by upper bound in seconds, as text; the sum in seconds; the count of all.
        case histogram(buckets: [(bound: String, count: Int)], sum: Double, count: Int)
    }

    /// The name, without the endings that a histogram's series have.
    package let name: String
    package let kind: Kind
    /// One sentence.
    package let help: String
    /// Names of the labels that its series have.
    package let labels: [String]
    /// Whether it names tenants, so that it is left out unless tenants are asked for.
    package var namesTenants: Bool { labels.contains("tenant") }
    let samples: @Sendable (DaemonStatistics) -> [Sample]

    init(
        _ kind: Kind,
        _ name: String,
        _ help: String,
        labels: [String] = [],
        samples: @escaping @Sendable (DaemonStatistics) -> [Sample]
    ) {
        self.name = "kvstore_" + name
        self.kind = kind
        self.help = help
        self.labels = labels
        self.samples = samples
    }

    /// A metric of one series.
    private static func one(
        _ kind: Kind,
        _ name: String,
        _ help: String,
        _ value: @escaping @Sendable (DaemonStatistics) -> Int
    ) -> Metric {
        Metric(kind, name, help) { [Sample(value: .number(Double(value($0))))] }
    }

    /// A metric with a series for each tier.
    private static func tiers(
        _ kind: Kind,
        _ name: String,
        _ help: String,
        _ value: @escaping @Sendable (TierStatistics) -> Int
    ) -> Metric {
        Metric(kind, name, help, labels: ["tier"]) { statistics in
            [("memory", statistics.store.memory), ("disk", statistics.store.disk)].map { name, tier in
                Sample(labels: [("tier", name)], value: .number(Double(value(tier))))
            }
        }
    }

    /// A metric with a series for each tenant, and one more label.
    private static func tenants(
        _ kind: Kind,
        _ name: String,
        _ help: String,
        by label: String? = nil,
        _ values: @escaping @Sendable (TenantStatistics) -> [(String, Int?)]
    ) -> Metric {
        Metric(kind, "tenant_" + name, help, labels: ["tenant"] + (label.map { [$0] } ?? [])) { statistics in
            statistics.tenants.flatMap { tenant in
                values(tenant).compactMap { part, value in
                    guard let value else { return nil }
                    let labels = [("tenant", tenant.name)] + (label.map { [($0, part)] } ?? [])
                    return Sample(labels: labels, value: .number(Double(value)))
                }
            }
        }
    }

    /// Every metric there is, in the order in which they are written.
    package static let all: [Metric] = daemon + lookups + tiers + writing + levels + histograms + tenants

    private static let daemon: [Metric] = [
        Metric(.gauge, "build_info", "Always 1; the version is in the label.", labels: ["version"]) {
            [Sample(labels: [("version", $0.daemon.version)], value: .number(1))]
        },
        Metric(.gauge, "uptime_seconds", "Seconds since the daemon was started.") {
            [Sample(value: .number($0.daemon.uptimeSeconds))]
        },
        one(.gauge, "connections", "Clients connected now.") { $0.daemon.connections },
        one(.counter, "connections_total", "Connections, refused ones included.") { $0.daemon.connectionsTotal },
        one(.counter, "refused_connections_total", "Connections turned away: over a limit, unknown user, wrong token.")
        {
            $0.daemon.refusedConnections
        },
        one(.counter, "requests_total", "Requests received, refused ones included.") { $0.daemon.requests },
        one(.counter, "protocol_errors_total", "Frames that were no proper request; each ended its connection.") {
            $0.daemon.protocolErrors
        },
        one(.counter, "accept_errors_total", "Connections that the kernel could not hand over.") {
            $0.daemon.acceptErrors
        },
        one(
            .counter, "slow_clients_total",
            "Connections cut off because the client took too long over a hello, a frame or a reply."
        ) {
            $0.daemon.slowClients
        },
        one(.counter, "expired_leases_total", "Leases that ended because their client was silent for too long.") {
            $0.daemon.expiredLeases
        },
        one(
            .counter, "died_clients_total",
            "Connections that ended with leases or reservations open, as when a client is killed."
        ) {
            $0.daemon.diedClients
        },
        one(.gauge, "staging_bytes", "Memory of the connections' staging regions.") { $0.daemon.stagingBytes },
        one(
            .counter, "staging_refusals_total",
            "Reservations that got nothing because the memory for staging regions was used up."
        ) {
            $0.daemon.stagingRefusals
        },
        one(.gauge, "client_pinned_bytes", "Blocks that clients pinned, in bytes of their slots.") {
            $0.daemon.pinnedBytes
        },
        one(.gauge, "closed_shared_region_bytes", "Memory of closed regions that clients still map.") {
            $0.daemon.sharedClosedRegionBytes
        },
        one(.gauge, "draining", "1 while the daemon is about to end.") { $0.daemon.isDraining ? 1 : 0 },
    ]

    private static let lookups: [Metric] = [
        one(.counter, "lookups_total", "Lookups.") { $0.store.lookups },
        one(.counter, "requested_blocks_total", "Blocks that lookups asked for.") { $0.store.requestedBlocks },
        one(.counter, "requested_tokens_total", "Tokens that lookups asked for.") { $0.store.requestedTokens },
        tiers(.counter, "hit_blocks_total", "Blocks served, by the tier they were found in.") { $0.hitBlocks },
        tiers(.counter, "hit_tokens_total", "Tokens in the blocks served, by tier.") { $0.hitTokens },
        Metric(
            .counter,
            "misses_total",
            "Lookups that ended before their last block, by reason: absent, in_progress, without_slot, corrupt, warming.",
            labels: ["reason"]
        ) { statistics in
            let store = statistics.store
            return reasons(
                store.missesAbsent,
                store.missesInProgress,
                store.missesWithoutSlot,
                store.missesCorrupt,
                store.missesWarming
            ).map { Sample(labels: [("reason", $0.0)], value: .number(Double($0.1!))) }
        },
    ]

    private static func reasons(
        _ absent: Int,
        _ inProgress: Int,
        _ withoutSlot: Int,
        _ corrupt: Int,
        _ warming: Int
    ) -> [(String, Int?)] {
        [
            ("absent", absent), ("in_progress", inProgress), ("without_slot", withoutSlot), ("corrupt", corrupt),
            ("warming", warming),
        ]
    }

    private static let tiers: [Metric] = [
        tiers(.gauge, "blocks", "Blocks that a tier counts.") { $0.blocks },
        tiers(.gauge, "bytes", "Bytes that a tier takes: regions and metadata, or the directory's allocated bytes.") {
            $0.bytes
        },
        tiers(.gauge, "capacity_bytes", "The hard cap over bytes.") { $0.capacityBytes },
        tiers(.counter, "evicted_blocks_total", "Blocks that a tier gave up to make room.") { $0.evictedBlocks },
        tiers(.counter, "scrub_checked_blocks_total", "Blocks compared with their digests in the background.") {
            $0.scrub.checkedBlocks
        },
        tiers(.counter, "scrub_checked_bytes_total", "Bytes of those blocks.") { $0.scrub.checkedBytes },
        tiers(.counter, "scrub_damaged_blocks_total", "Blocks found damaged by that.") { $0.scrub.damagedBlocks },
        tiers(.counter, "scrub_repaired_blocks_total", "Of those, blocks whose other copy was good.") {
            $0.scrub.repairedBlocks
        },
        tiers(.counter, "scrub_passes_total", "Passes over the whole tier.") { $0.scrub.passes },
    ]

    private static let writing: [Metric] = [
        one(.counter, "committed_blocks_total", "Blocks made visible.") { $0.store.committedBlocks },
        one(.counter, "divergent_commits_total", "Second commits of a key with other bytes.") {
            $0.store.divergentCommits
        },
        one(.counter, "discarded_commits_total", "Commits that could not become visible.") {
            $0.store.discardedCommits
        },
        one(.counter, "abandoned_blocks_total", "Reserved blocks given back without a commit.") {
            $0.store.abandonedBlocks
        },
        one(.counter, "refused_blocks_total", "Blocks that found no room in memory.") { $0.store.refusedBlocks },
        one(.counter, "removed_blocks_total", "Blocks removed or purged by clients.") { $0.store.removedBlocks },
        one(.counter, "corrupt_blocks_total", "Blocks whose stored bytes were not what was written; never served.") {
            $0.store.corruptBlocks
        },
        one(.counter, "dropped_blocks_total", "Evicted blocks that never reached the disk.") { $0.store.droppedBlocks },
        one(.counter, "quota_refused_blocks_total", "Times that a disk quota kept a block from being written.") {
            $0.store.quotaRefusedBlocks
        },
        one(.counter, "spilled_blocks_total", "Blocks written to disk for the first time.") { $0.store.spilledBlocks },
        one(.counter, "spilled_raw_bytes_total", "Raw bytes of those blocks.") { $0.store.spilledRawBytes },
        one(.counter, "spilled_stored_bytes_total", "Bytes of their records.") { $0.store.spilledStoredBytes },
        one(.counter, "carried_blocks_total", "Blocks carried over from dropped segments.") { $0.store.carriedBlocks },
        one(.counter, "carried_stored_bytes_total", "Bytes of their records.") { $0.store.carriedStoredBytes },
        one(.counter, "promoted_blocks_total", "Blocks read back from disk.") { $0.store.promotedBlocks },
        one(.counter, "promoted_raw_bytes_total", "Raw bytes of those blocks.") { $0.store.promotedRawBytes },
        one(.counter, "disk_errors_total", "Failures that paused the disk tier.") { $0.store.diskErrors },
    ]

    private static let levels: [Metric] = [
        one(.gauge, "unwritten_blocks", "Blocks that are only in memory: what a kill would lose.") {
            $0.store.unwrittenBlocks
        },
        one(.gauge, "queued_blocks", "Blocks waiting to be written.") { $0.store.queuedBlocks },
        one(.gauge, "queued_bytes", "Raw bytes waiting to be written.") { $0.store.queuedBytes },
        one(.gauge, "leases", "Open leases.") { $0.store.leases },
        one(.gauge, "pinned_slots", "Slots held by leases, reservations or background work.") { $0.store.pinnedSlots },
        one(.gauge, "reservations", "Open reservations.") { $0.store.reservations },
        one(.gauge, "regions", "Memory regions.") { $0.store.regions },
        one(.gauge, "metadata_bytes", "Metadata inside the bytes of the memory tier.") { $0.store.metadataBytes },
        one(.gauge, "unused_bytes", "Slots without a block inside the bytes of memory.") { $0.store.unusedBytes },
        one(.gauge, "segments", "Segments on disk.") { $0.store.segments },
        one(.gauge, "disk_records", "Records in them, dead ones included.") { $0.store.diskRecords },
        one(.gauge, "disk_working", "0 when the disk tier is off or paused, 1 when it works or there is none.") {
            $0.store.diskProblem == nil ? 1 : 0
        },
        one(.gauge, "warming", "1 while the disk's index is loaded after a start.") { $0.store.isWarming ? 1 : 0 },
        one(.gauge, "warm_up_running", "1 while the most used blocks are read into memory after a start.") {
            $0.store.warmUp.isRunning ? 1 : 0
        },
        one(.gauge, "warm_up_planned_blocks", "Blocks that are to be read then.") { $0.store.warmUp.plannedBlocks },
        one(.counter, "warm_up_blocks_total", "Blocks that were read then.") { $0.store.warmUp.blocks },
        one(.counter, "warm_up_bytes_total", "Their raw bytes.") { $0.store.warmUp.bytes },
    ]

    private static let histograms: [Metric] = [
        Metric(
            .histogram,
            "operation_seconds",
            "Time inside the daemon, by operation: acquire.memory, acquire.disk, reserve, commit, promote.",
            labels: ["operation"]
        ) { statistics in
            statistics.operations.sorted { $0.key < $1.key }.map { name, summary in
                let buckets = summary.buckets.map { (secondsText(nanoseconds: $0.upToNanoseconds), $0.count) }
                let sum = Double(summary.sumNanoseconds) / 1e9
                return Sample(
                    labels: [("operation", name)],
                    value: .histogram(buckets: buckets, sum: sum, count: summary.count)
                )
            }
        },
        Metric(
            .histogram,
            "eviction_age_seconds",
            "Time from the last use of a block until its tier gave it up; blocks not used since the start left out.",
            labels: ["tier"]
        ) { statistics in
            [("memory", statistics.store.memory), ("disk", statistics.store.disk)].map { name, tier in
                let ages = tier.ageAtEviction
                return Sample(
                    labels: [("tier", name)],
                    value: .histogram(
                        buckets: ages.buckets.map { ("\($0.upToSeconds)", $0.count) },
                        sum: Double(ages.sumSeconds),
                        count: ages.count
                    )
                )
            }
        },
    ]

    private static let tenants: [Metric] = [
        tenants(.counter, "lookups_total", "Lookups of a tenant.") { [("", $0.lookups)] },
        tenants(.counter, "requested_blocks_total", "Blocks that a tenant's lookups asked for.") {
            [("", $0.requestedBlocks)]
        },
        tenants(.counter, "requested_tokens_total", "Tokens that a tenant's lookups asked for.") {
            [("", $0.requestedTokens)]
        },
        tenants(.counter, "hit_blocks_total", "Blocks served to a tenant, by tier.", by: "tier") {
            [("memory", $0.memoryHitBlocks), ("disk", $0.diskHitBlocks)]
        },
        tenants(.counter, "hit_tokens_total", "Tokens in the blocks served to a tenant, by tier.", by: "tier") {
            [("memory", $0.memoryHitTokens), ("disk", $0.diskHitTokens)]
        },
        tenants(.counter, "misses_total", "A tenant's lookups that ended early, by reason.", by: "reason") {
            reasons($0.missesAbsent, $0.missesInProgress, $0.missesWithoutSlot, $0.missesCorrupt, $0.missesWarming)
        },
        tenants(.gauge, "blocks", "Blocks of a tenant, by tier.", by: "tier") {
            [("memory", $0.memoryBlocks), ("disk", $0.diskBlocks)]
        },
        tenants(.gauge, "bytes", "Bytes of a tenant's regions and records.", by: "tier") {
            [("memory", $0.memoryBytes), ("disk", $0.diskBytes)]
        },
        tenants(.gauge, "quota_bytes", "What those may not pass, where there is a quota.", by: "tier") {
            [("memory", $0.memoryQuotaBytes), ("disk", $0.diskQuotaBytes)]
        },
        tenants(.gauge, "unused_bytes", "Slots without a block inside the bytes of a tenant's memory.") {
            [("", $0.unusedBytes)]
        },
        tenants(.gauge, "pinned_bytes", "Slots of a tenant held by leases, reservations or background work, in bytes.")
        {
            [("", $0.pinnedBytes)]
        },
        tenants(.counter, "quota_evicted_blocks_total", "Blocks given up on disk to make room under the quota.") {
            [("", $0.quotaEvictedBlocks)]
        },
        tenants(.counter, "quota_refused_blocks_total", "Times that the disk quota kept a block from being written.") {
            [("", $0.quotaRefusedBlocks)]
        },
        tenants(.gauge, "unwritten_blocks", "Blocks of a tenant that are only in memory.") {
            [("", $0.unwrittenBlocks)]
        },
        tenants(.gauge, "leases", "Open leases of a tenant.") { [("", $0.leases)] },
        tenants(.gauge, "namespaces", "Namespaces of a tenant that were opened, or are on disk.") {
            [("", $0.namespaces)]
        },
    ]
}

/// Nanoseconds as seconds, exactly: `2000` is `0.000002`.
private func secondsText(nanoseconds: Int) -> String {
    let fraction = String(nanoseconds % 1_000_000_000)
    var text = "\(nanoseconds / 1_000_000_000)." + String(repeating: "0", count: 9 - fraction.count) + fraction
    while text.hasSuffix("0") { text.removeLast() }
    if text.hasSuffix(".") { text.removeLast() }
    return text
}
