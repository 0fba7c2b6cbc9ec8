import KVStore
import KVStoreIPC

@testable import KVStoreCLI

/// A made-up daemon, the same each time.
enum DaemonSample {
    static func latency(_ count: Int, _ mean: Int, _ p50: Int, _ p99: Int, _ p999: Int) -> LatencySummary {
        var summary = LatencySummary()
        summary.count = count
        summary.sumNanoseconds = count * mean
        summary.p50Nanoseconds = p50
        summary.p99Nanoseconds = p99
        summary.p999Nanoseconds = p999
        summary.buckets = LatencySummary.bucketBounds.map {
            LatencyBucket(upToNanoseconds: $0, count: $0 < p50 ? 0 : count)
        }
        return summary
    }

    static func age(_ count: Int, _ p50: Int, _ p99: Int) -> AgeSummary {
        var summary = AgeSummary()
        summary.count = count
        summary.sumSeconds = count * p50
        summary.p50Seconds = p50
        summary.p99Seconds = p99
        summary.buckets = AgeSummary.bucketBounds.map { AgeBucket(upToSeconds: $0, count: $0 < p50 ? 0 : count) }
        return summary
    }

    static var daemon: DaemonInfo {
        var daemon = DaemonInfo()
        daemon.version = "0.1.0"
        daemon.processID = 4242
        daemon.uptimeSeconds = 7_512
        daemon.connections = 8
        daemon.connectionsTotal = 131
        daemon.requests = 1_204_331
        daemon.stagingBytes = 64 << 20
        return daemon
    }

    static var store: StoreStatistics {
        var store = StoreStatistics()
        store.lookups = 12_031
        store.requestedBlocks = 288_500
        store.requestedTokens = 144_793_085
        store.memory.hitBlocks = 18_839
        store.memory.hitTokens = 9_645_568
        store.memory.blocks = 2_712
        store.memory.bytes = 196_608_000
        store.unusedBytes = 18_874_368
        store.memory.capacityBytes = 610_279_424
        store.memory.evictedBlocks = 215_003
        store.memory.ageAtEviction = age(215_003, 42, 1_805)
        store.disk.hitBlocks = 48_871
        store.disk.hitTokens = 25_021_952
        store.disk.blocks = 10_000
        store.disk.bytes = 498_073_600
        store.disk.capacityBytes = 1 << 30
        store.disk.evictedBlocks = 150_321
        store.disk.ageAtEviction = age(150_321, 7_300, 40_000)
        store.missesAbsent = 9_120
        store.missesInProgress = 31
        store.missesWithoutSlot = 2
        store.missesWarming = 118
        store.committedBlocks = 220_790
        store.unwrittenBlocks = 77
        store.refusedBlocks = 15
        store.droppedBlocks = 12
        store.removedBlocks = 64
        store.spilledBlocks = 160_321
        store.spilledRawBytes = 10_506_797_056
        store.spilledStoredBytes = 7_899_847_000
        store.carriedStoredBytes = 1_200_000_000
        store.promotedBlocks = 48_871
        store.segments = 61
        store.diskRecords = 10_480
        store.queuedBlocks = 40
        store.queuedBytes = 40 << 16
        store.leases = 5
        store.reservations = 1
        return store
    }

    static var tenants: [TenantStatistics] {
        var acme = TenantStatistics(name: "acme")
        acme.lookups = 9_000
        acme.requestedBlocks = 200_000
        acme.memoryHitBlocks = 15_000
        acme.diskHitBlocks = 40_000
        acme.memoryBlocks = 2_112
        acme.memoryBytes = 157_286_400
        acme.unusedBytes = 18_874_368
        acme.memoryQuotaBytes = 256 << 20
        acme.diskBlocks = 8_000
        acme.diskBytes = 398_458_880
        acme.leases = 4
        var quiet = TenantStatistics(name: "quiet \u{1B}[31m")
        quiet.memoryBlocks = 600
        quiet.memoryBytes = 39_321_600
        quiet.diskBlocks = 2_000
        quiet.diskBytes = 99_614_720
        quiet.diskQuotaBytes = 128 << 20
        return [acme, quiet]
    }

    static var namespaces: [NamespaceStatistics] {
        var llama = NamespaceStatistics(
            tenant: "acme",
            model: "Llama-3-8B",
            fingerprintPrefix: "5f3a91c0",
            blockBytes: 65_536,
            tokensPerBlock: 16
        )
        llama.blocks = 9_000
        llama.memoryBlocks = 2_112
        llama.diskBlocks = 8_000
        var unknown = NamespaceStatistics(
            tenant: "#1a2b3c4d",
            model: "",
            fingerprintPrefix: "00c0ffee",
            blockBytes: 2 << 20,
            tokensPerBlock: 0
        )
        unknown.diskBlocks = 2_000
        unknown.blocks = 2_000
        return [llama, unknown]
    }

    static var statistics: DaemonStatistics {
        DaemonStatistics(
            daemon: daemon,
            store: store,
            tenants: tenants,
            namespaces: namespaces,
            hottest: [
                HotPrefix(
                    tenant: "acme",
                    namespace: "Llama-3-8B",
                    keyHash: "9d00aa17",
                    blocks: 128,
                    uses: 255,
                    lastUsedSeconds: 1
                ),
                HotPrefix(
                    tenant: "",
                    namespace: "Qwen2-0.5B",
                    keyHash: "0b5e77f2",
                    blocks: 12,
                    uses: 31,
                    lastUsedSeconds: nil
                ),
            ],
            operations: [
                "acquire.memory": latency(8_700, 5_100, 4_300, 96_100, 410_000),
                "acquire.disk": latency(3_100, 2_050_000, 812_500, 14_250_000, 31_000_000),
                "reserve": latency(11_800, 21_000, 18_000, 90_000, 250_000),
                "commit": latency(11_795, 450_000, 402_000, 1_900_000, 3_300_000),
                "promote": latency(0, 0, 0, 0, 0),
            ]
        )
    }

    /// Two seconds later.
    static var later: DaemonStatistics {
        var later = statistics
        later.daemon.uptimeSeconds += 2
        later.daemon.requests += 2_468
        later.store.lookups += 240
        later.store.requestedBlocks += 4_000
        later.store.memory.hitBlocks += 3_000
        later.store.disk.hitBlocks += 250
        later.store.committedBlocks += 700
        later.store.spilledBlocks += 9
        later.tenants[0].lookups += 240
        later.tenants[0].requestedBlocks += 4_000
        later.tenants[0].memoryHitBlocks += 3_000
        later.tenants[0].diskHitBlocks += 250
        return later
    }
}
