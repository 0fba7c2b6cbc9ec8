import KVStore
import Synchronization

// All that a replay asks of the store. Nothing here remembers what is cached: the store's answers are checked against
// payloads computed from block ids, and every count is read from `BlockStore.statistics`.

/// The store under test, with the payloads that its blocks must have.
struct ReplayRunner {
    private let store: BlockStore
    private let namespace: Namespace
    private let payloads: PayloadSource
    private let waitsForSpill: Bool
    /// What the comparison of bytes has found so far.
    private(set) var verification = PayloadVerification()

    /// Opens the store.
    init(_ settings: ReplaySettings, diskPath: String?, trace: Trace, payloads: PayloadSource) throws(KVStoreError) {
        var configuration = Configuration()
        configuration.policy = settings.policy
        configuration.verifyMemoryHits = true
        if !settings.verifiesRestart {
            // A replay must count the same every time: reading into memory in the background races with the requests, and
            // the block that the scrub looks at cannot be evicted just then.
            configuration.warmUpFraction = 0
            configuration.scrub = .off
        }
        configuration.onEvent = EventPrinter.handler(isQuiet: settings.isQuiet)
        switch settings.memory {
        case .bytes(let byteCount): configuration.memoryCapacityBytes = byteCount
        case .blocks(let blocks):
            configuration.memoryBlockLimit = blocks
            configuration.memoryCapacityBytes = Self.roomyByteCount(blocks: blocks, of: settings.blockByteCount)
        }
        if let diskPath, let capacity = settings.disk {
            var disk: DiskConfiguration
            switch capacity {
            case .bytes(let byteCount): disk = DiskConfiguration(path: diskPath, capacityBytes: byteCount)
            case .blocks(let blocks):
                let byteCount = Self.roomyByteCount(blocks: blocks, of: settings.blockByteCount)
                disk = DiskConfiguration(path: diskPath, capacityBytes: byteCount)
                disk.blockLimit = blocks
            }
            disk.writeBackDelaySeconds = settings.writeBackSeconds
            disk.codec = settings.codec
            // A temporary directory is thrown away; filling it once more at the end would only cost time.
            disk.flushOnClose = settings.diskPath != nil
            configuration.disk = disk
        }
        store = try BlockStore(configuration)
        // The revision names what the payloads and the ids are made of, so that a directory kept from another replay
        // holds other namespaces, never wrong bytes.
        let revision = "\(trace.fingerprint)/\(payloads.fingerprint)"
        namespace = try store.namespace(
            NamespaceIdentity(
                model: "kvstore-replay",
                revision: revision,
                elementType: .bf16,
                opaqueBlockByteCount: settings.blockByteCount,
                tokensPerBlock: settings.blockTokens
            )
        )
        self.payloads = payloads
        waitsForSpill = settings.waitsForSpill
    }

    /// A byte capacity at which the limit in blocks is what counts: half again for metadata, spill buffer and dead
    /// records, and the fixed costs of a store on top.
    private static func roomyByteCount(blocks: Int, of blockByteCount: Int) -> Int {
        blocks * (blockByteCount + 4096) / 2 * 3 + max(256 << 20, 48 * blockByteCount)
    }

    /// One request as an inference engine would make it: take what is there, compute and put what is not.
    mutating func replay(_ request: TraceRequest, number: Int) {
        let prefix = prefix(of: request)
        if let lease = store.acquire(prefix) {
            verify(lease, of: request, number: number)
            put(prefix, of: request)
            // The hits stay pinned until the missing blocks are in: a long request must not evict its own head.
            extendLifetime(lease)
        } else {
            put(prefix, of: request)
        }
        if waitsForSpill { store.waitForSpill() }
    }

    /// Compares what the store still has of a request, without putting anything. Returns how many leading blocks.
    mutating func verifyPresent(_ request: TraceRequest, number: Int) -> Int {
        guard let lease = store.acquire(prefix(of: request)) else { return 0 }
        verify(lease, of: request, number: number)
        return lease.count
    }

    private func prefix(of request: TraceRequest) -> Prefix {
        let keys = request.blocks.map { id in (0..<8).map { UInt8(truncatingIfNeeded: id >> (8 * UInt64($0))) } }
        return namespace.prefix(callerKeys: keys, tokenCount: request.inputTokens)
    }

    private mutating func verify(_ lease: borrowing BlockLease, of request: TraceRequest, number: Int) {
        for index in 0..<lease.count {
            let block = request.blocks[index]
            let fault = lease.withBytes(at: index) { span in
                // The pointer is used inside the closure only.
                unsafe span.withUnsafeBytes { unsafe payloads.fault(of: block, in: $0) }
            }
            verification.record(fault, byteCount: payloads.blockByteCount) {
                let tier = lease.tier(at: index) == .memory ? "memory" : "disk"
                return "request \(number), block \(index) of \(request.blocks.count), from \(tier)"
            }
        }
    }

    private func put(_ prefix: Prefix, of request: TraceRequest) {
        guard var reservation = store.reserve(prefix) else { return }
        for slot in 0..<reservation.count {
            let block = request.blocks[reservation.blockIndex(at: slot)]
            reservation.withMutableBytes(at: slot) { span in
                // The pointer is used inside the closure only.
                unsafe span.withUnsafeMutableBytes { unsafe payloads.fill(block, into: $0) }
            }
        }
        _ = reservation.commit()
    }

    /// Waits until the index of an existing directory is loaded. A store lives on without its disk; a replay that was
    /// asked for one does not.
    func waitUntilWarm() throws(StartError) {
        guard !store.waitUntilWarm() else { return }
        throw StartError("the disk tier cannot be used: \(store.statistics.diskProblem ?? "no reason given")")
    }

    func close() { store.close() }

    /// The store's own counters, in the words of the report.
    var counts: StoreCounts {
        let statistics = store.statistics
        let (memory, disk) = (statistics.memory, statistics.disk)
        func tier(_ tier: TierStatistics) -> StoreCounts.Tier {
            StoreCounts.Tier(
                hitBlocks: tier.hitBlocks,
                hitTokens: tier.hitTokens,
                blocks: tier.blocks,
                bytes: tier.bytes,
                capacityBytes: tier.capacityBytes,
                evictedBlocks: tier.evictedBlocks,
                acquireP50Microseconds: tier.hitBlocks == 0 ? nil : Double(tier.acquireP50Nanoseconds) / 1000,
                acquireP99Microseconds: tier.hitBlocks == 0 ? nil : Double(tier.acquireP99Nanoseconds) / 1000
            )
        }
        return StoreCounts(
            requests: statistics.lookups,
            blocks: statistics.requestedBlocks,
            tokens: statistics.requestedTokens,
            memory: tier(memory),
            disk: tier(disk),
            refusedBlocks: statistics.refusedBlocks,
            spilledBlocks: statistics.spilledBlocks,
            promotedBlocks: statistics.promotedBlocks,
            droppedBlocks: statistics.droppedBlocks,
            corruptBlocks: statistics.corruptBlocks,
            spilledRawBytes: statistics.spilledRawBytes,
            spilledStoredBytes: statistics.spilledStoredBytes,
            carriedStoredBytes: statistics.carriedStoredBytes,
            diskProblem: statistics.diskProblem
        )
    }
}

/// Shows the store's warnings, but never more than a screenful.
private enum EventPrinter {
    private static let printed = Atomic<Int>(0)
    private static let limit = 20

    static func handler(isQuiet: Bool) -> (@Sendable (StoreEvent) -> Void)? {
        guard !isQuiet else { return nil }
        return { event in
            guard event.severity == .warning else { return }
            let number = printed.add(1, ordering: .relaxed).newValue
            if number <= limit { Terminal.printError("\rkvstore: \(event)\n") }
            if number == limit { Terminal.printError("kvstore: further events are not shown\n") }
        }
    }
}
