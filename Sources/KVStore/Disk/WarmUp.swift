internal import Synchronization

/// The index as it was loaded, for whoever plans with it.
struct LoadedIndex: Sendable {
    let rows: [IndexRow]
    /// Rows that a chain from a root reaches, parents before children.
    let chains: [Int]
    /// For every row the highest sequence of its own and its descendants'.
    let recency: [UInt64]
}

/// Reads the most used heads into memory after a start, in the background.
///
/// One thread, one short run of reads at a time, and none while a lookup reads: it must never be in the way. It fills
/// free slots only, and ends when memory is filled up to its share, by itself or by what is stored and looked up.
final class WarmUp: Sendable {
    private let fraction: Double
    private let thread = BackgroundThread()
    private let isStopping = Atomic<Bool>(false)

    /// - Parameter fraction: of the memory cap; 0 for none.
    init(fraction: Double) { self.fraction = fraction }

    var isOn: Bool { fraction > 0 }

    /// Starts reading from `log`, after an earlier warm-up has ended.
    func start(_ index: LoadedIndex, log: SegmentLog, tier: DiskTier) {
        guard isOn, !index.chains.isEmpty else { return }
        stop()
        isStopping.store(false, ordering: .relaxed)
        // Set here, so that whoever saw the index loaded sees that this runs.
        tier.core.with { $0.counters.warmUp.isRunning = true }
        thread.start(name: "kvstore-warm") { [self] in
            run(index, log, tier)
            tier.core.with { $0.counters.warmUp.isRunning = false }
        }
    }

    /// Ends the thread, after at most one run of reads.
    func stop() {
        isStopping.store(true, ordering: .relaxed)
        thread.join()
    }

    private func run(_ index: LoadedIndex, _ log: SegmentLog, _ tier: DiskTier) {
        let core = tier.core
        let budgetBytes = Int(Double(core.with { $0.configuration.memoryCapacityBytes }) * fraction)
        let keys = Self.plan(index, budgetBytes: budgetBytes)
        core.with { $0.counters.warmUp.plannedBlocks += keys.count }
        var warmed: [WarmedBlock] = []
        var next = 0
        // The log is closed when it breaks; what is loaded then is planned anew.
        reading: while !isStopping.load(ordering: .relaxed), !tier.isStopping, tier.currentLog === log {
            let (grant, position) = core.with { [next] core -> (WarmUpGrant, Int) in
                var position = next
                return (core.claimForWarmUp(keys, next: &position, fraction: fraction), position)
            }
            next = position
            switch grant {
            case .claims(let claims, let blocks, let flight):
                let read = Self.read(claims, blocks, log, core)
                warmed += core.with { $0.finishWarmUp(read, blocks) }
                flight.land()
            case .needsRegion(let plan):
                guard core.addRegion(plan) else { break reading }
            case .busy: tier.waitUnlessStopping(nanoseconds: 2_000_000)
            case .finished: break reading
            }
        }
        Self.order(warmed, of: index, core)
    }

    private static func plan(_ index: LoadedIndex, budgetBytes: Int) -> [BlockKey] {
        var places: [BlockKey: Int] = [:]
        places.reserveCapacity(index.chains.count)
        var candidates: [WarmUpPlan.Candidate] = []
        candidates.reserveCapacity(index.chains.count)
        for (place, number) in index.chains.enumerated() {
            let row = index.rows[number]
            places[row.key] = place
            candidates.append(
                WarmUpPlan.Candidate(
                    parent: row.parent == row.fingerprint ? nil : places[row.parent],
                    uses: row.uses,
                    recency: index.recency[number],
                    byteCount: roundUp(Int(row.rawByteCount), to: pageByteCount)
                )
            )
        }
        return WarmUpPlan.order(candidates, budgetBytes: budgetBytes).map { index.rows[index.chains[$0]].key }
    }

    private static func read(
        _ claims: [LoadClaim],
        _ blocks: [PinnedBlock],
        _ log: SegmentLog,
        _ core: CoreLock
    ) -> [LoadClaim] {
        zip(claims, blocks).map { claim, block in
            let (byteCount, fingerprint) = core.with { core in
                let namespace = core.namespaces[Int(claim.namespace)]
                return (namespace.blockByteCount, namespace.fingerprint)
            }
            var claim = claim
            claim.outcome = claim.read(from: log, fingerprint: fingerprint, into: block.memory, byteCount: byteCount)
            return claim
        }
    }

    private static func order(_ warmed: [WarmedBlock], of index: LoadedIndex, _ core: CoreLock) {
        let read = Set(warmed.map(\.key))
        var parents: Set<BlockKey> = []
        for row in index.rows where read.contains(row.key) { parents.insert(row.parent) }
        // Worst first, a few chains a turn.
        let ends = warmed.reversed().filter { !parents.contains($0.key) }
        for start in stride(from: 0, to: ends.count, by: 16) {
            core.with { $0.orderWarmed(ends[start..<min(ends.count, start + 16)]) }
        }
    }
}
