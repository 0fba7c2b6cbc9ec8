import KVStoreTestSupport

@testable import KVStore

/// The conditions of one model run, all drawn from its seed.
struct ModelPlan {
    let seed: UInt64
    let hasDisk: Bool
    let steps: Int
    let configuration: Configuration
    let identities: [NamespaceIdentity]
    let maximumDepth: Int
    let maximumGrowth: Int
    /// Nothing limits the disk tier but a cap the run cannot reach: every flush and every close keeps every block.
    let mustFlushCompletely: Bool

    /// - Parameter directory: where the disk tier goes; nil for a store without one.
    init(seed: UInt64, directory: String?) {
        var random = SeededRandom(seed: seed)
        self.seed = seed
        hasDisk = directory != nil
        // One in eight runs with a disk is long and coarse, to fill its cap several times over.
        let isLong = directory != nil && seed % 8 == 3
        steps = isLong ? 400 : Int.random(in: 40...120, using: &random)
        // Half of the runs use large blocks (eviction, draining, reclaim), half use long chains of small ones.
        let isFine = Bool.random(using: &random) && !isLong
        let sizes = isFine ? [4096, 4096, 12_288, 65_536] : [65_536, 200_704, 524_288, 1 << 20]
        maximumDepth = isFine ? 200 : 10
        maximumGrowth = isFine ? 80 : 6
        var identities: [NamespaceIdentity] = []
        for number in 0..<Int.random(in: 1...4, using: &random) {
            var identity = NamespaceIdentity.test(
                tenant: "tenant \(Int.random(in: 0..<2, using: &random))",
                model: "model \(number)",
                blockBytes: sizes.randomElement(using: &random)!
            )
            identity.tokensPerBlock = 1
            identities.append(identity)
        }
        self.identities = identities
        var configuration = Configuration(memoryCapacityBytes: Int.random(in: 16...20, using: &random) << 20)
        configuration.verifyMemoryHits = Int.random(in: 0..<4, using: &random) == 0
        if Int.random(in: 0..<5, using: &random) == 0 {
            configuration.memoryBlockLimit = Int.random(in: 1...40, using: &random)
        }
        var keepsEverything = false
        if let directory {
            keepsEverything = Bool.random(using: &random) && !isLong
            let smallBytes = Int.random(in: 32...(isLong ? 40 : 64), using: &random) << 20
            var disk = DiskConfiguration(path: directory, capacityBytes: keepsEverything ? 4 << 30 : smallBytes)
            disk.readerThreads = Int.random(in: 1...3, using: &random)
            disk.writeThrough = Int.random(in: 0..<4, using: &random) == 0
            disk.writeBackDelaySeconds = [nil, 0.05, 5].randomElement(using: &random)!
            if !keepsEverything {
                disk.flushOnClose = Bool.random(using: &random)
                if !isLong, Int.random(in: 0..<4, using: &random) == 0 {
                    disk.blockLimit = Int.random(in: 1...60, using: &random)
                }
            }
            configuration.disk = disk
        }
        // Both must be invisible to whoever looks blocks up, so they run beside everything else, as fast as they can.
        configuration.warmUpFraction = [0, 0.5, 1].randomElement(using: &random)!
        if Bool.random(using: &random) { configuration.scrub = ScrubTests.eager } else { configuration.scrub = .off }
        mustFlushCompletely = keepsEverything
        self.configuration = configuration
    }
}

/// What the runs of a test did, to be printed: a test that evicted nothing proved nothing.
struct ModelTotals {
    var runs = 0
    var operations = 0
    var storedBlocks = 0
    var verifiedBlocks = 0
    var evictedBlocks = 0
    var promotedBlocks = 0
    var spilledBlocks = 0
    var carriedBlocks = 0
    var droppedBlocks = 0
    var diskEvictedBlocks = 0
    var highestDiskBytes = 0

    mutating func add(_ end: StoreStatistics) {
        evictedBlocks += end.memory.evictedBlocks
        promotedBlocks += end.promotedBlocks
        spilledBlocks += end.spilledBlocks
        carriedBlocks += end.carriedBlocks
        droppedBlocks += end.droppedBlocks
        diskEvictedBlocks += end.disk.evictedBlocks
    }

    mutating func add(_ other: ModelTotals) {
        runs += 1
        operations += other.operations
        storedBlocks += other.storedBlocks
        verifiedBlocks += other.verifiedBlocks
        evictedBlocks += other.evictedBlocks
        promotedBlocks += other.promotedBlocks
        spilledBlocks += other.spilledBlocks
        carriedBlocks += other.carriedBlocks
        droppedBlocks += other.droppedBlocks
        diskEvictedBlocks += other.diskEvictedBlocks
        highestDiskBytes = max(highestDiskBytes, other.highestDiskBytes)
    }
}
