import ArgumentParser
import Foundation
import KVStore
import Synchronization

/// A full disk tier that is overwritten while it is read.
struct Reclaim: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Write amplification and promote latency while a full disk tier is overwritten.",
        discussion: """
            One thread stores chains of 8 blocks at a fixed rate; another promotes chains that are only on disk, picked at \
            random among those that fit under half of the cap, at a rate of its own. BEFORE: until the cap is nearly \
            reached, so nothing has to go. DURING: the same load until the cap has been written several times over, so \
            that every new segment replaces an old one and what is wanted is carried over.

            writeAmplification is record bytes written per new record byte, DURING only. promoteP99DuringReclaimVsBefore \
            compares the 99th percentile of 'acquire' of a chain that has to be read. Every round starts with a new store. \
            Files are in the page cache in both halves: this is about what reclaim adds, not about the disk.
            """
    )
    @OptionGroup var output: Output
    @OptionGroup var place: DiskPlace
    @Option(help: "Cap of the disk tier.")
    var capacity = ByteCount(512 << 20)
    @Option(help: "Memory cap.")
    var memory = ByteCount(64 << 20)
    @Option(help: "Bytes of a block.")
    var blockBytes = ByteCount(64 << 10)
    @Option(help: "Bytes stored in each second.")
    var rate = ByteCount(64 << 20)
    @Option(help: "Chains promoted in each second.")
    var promotes = 400
    @Option(help: "How often the cap is written over in each round.")
    var overwrites = 3

    static let chainLength = 8

    func validate() throws {
        guard rate.bytes >= blockBytes.bytes * Self.chainLength * 10 else {
            throw ValidationError("--rate must be at least 10 chains of \(Self.chainLength) blocks")
        }
        guard overwrites > 0, promotes > 0 else {
            throw ValidationError("--overwrites and --promotes must be positive")
        }
        guard capacity.bytes >= 3 * memory.bytes else {
            throw ValidationError("--capacity must be at least three times --memory, or nothing is only on disk")
        }
    }

    func run() throws {
        let scratch = try ScratchDirectory(in: place, neededBytes: 2 * capacity.bytes)
        let payload = try Payload(.bf16, blockByteCount: blockBytes.bytes)
        let rounds = output.pairsGiven ?? 3
        var results: [ReclaimRound] = []
        for round in 0..<rounds {
            output.progress("round \(round + 1) of \(rounds)")
            let load = try ReclaimLoad(self, payload, directory: "\(scratch.path)/store")
            results.append(try load.run())
            scratch.remove("store")
        }
        func sample(_ value: (ReclaimRound) -> Double) -> Sample { Sample(nanoseconds: results.map(value)) }
        let (before, during) = (sample { $0.before.percentile(99) }, sample { $0.during.percentile(99) })
        var report = Report()
        report.conditions = [
            "disk cap \(capacity), written \(overwrites) times over at \(rate)/s; memory tier \(memory); blocks of "
                + "\(blockBytes), chains of \(Self.chainLength); \(promotes) promotes/s; \(rounds) rounds"
        ]
        report.rows = [
            ("promote p50 before", sample { $0.before.median }), ("promote p50 during", sample { $0.during.median }),
            ("promote p99 before", before), ("promote p99 during", during),
            ("promotes measured before", Sample(results.map { Double($0.before.values.count) }, .count)),
            ("promotes measured during", Sample(results.map { Double($0.during.values.count) }, .count)),
            ("most bytes on disk / cap", Sample(results.map(\.fullness), .count)),
            ("new bytes written per second", Sample(bytesPerSecond: results.map(\.newBytesPerSecond))),
        ]
        report.comparisons = [
            Comparison("writeAmplification", results.map(\.writeAmplification)),
            Comparison("promoteP99DuringReclaimVsBefore", during, over: before),
        ]
        let dropped = results.reduce(0) { $0 + $1.droppedBlocks }
        if dropped > 0 {
            report.notes.append("\(dropped) blocks were dropped unwritten: the buffer for writing was full")
        }
        try output.show(report)
    }
}

/// What one round came to.
struct ReclaimRound {
    var before: Sample
    var during: Sample
    var writeAmplification: Double
    var newBytesPerSecond: Double
    var fullness: Double
    var droppedBlocks: Int
}

/// One store under a steady load of new chains and of promotes.
///
/// @unchecked Sendable: everything shared is atomic, locked or constant.
private final class ReclaimLoad: @unchecked Sendable {
    private let command: Reclaim
    private let payload: Payload
    private let store: BlockStore
    private let space: Namespace
    private let storedChains = Atomic<Int>(0)
    private let isDone = Atomic<Bool>(false)
    private let isDuring = Atomic<Bool>(false)
    private let latencies = Mutex<(before: [Double], during: [Double])>(([], []))

    private var chainBytes: Int { command.blockBytes.bytes * Reclaim.chainLength }

    init(_ command: Reclaim, _ payload: Payload, directory: String) throws {
        (self.command, self.payload) = (command, payload)
        let disk = DiskConfiguration(path: directory, capacityBytes: command.capacity.bytes)
        store = try BlockStore(Configuration(memoryCapacityBytes: command.memory.bytes, disk: disk))
        space = try store.namespace(
            NamespaceIdentity(
                model: "bench", elementType: .bf16, opaqueBlockByteCount: command.blockBytes.bytes, tokensPerBlock: 16
            )
        )
        try store.requireDisk()
    }

    func run() throws -> ReclaimRound {
        let promoter = DispatchGroup()
        promoter.enter()
        Thread { [self] in
            promote()
            promoter.leave()
        }.start()
        let capacityChains = command.capacity.bytes / chainBytes
        var fullness = 0.0
        // Up to 70 %: room is kept free for the next segment and for the index, so reclaim begins before the cap.
        storeChains(capacityChains * 7 / 10, &fullness)
        let start = store.statistics
        guard start.carriedBlocks == 0, start.disk.evictedBlocks == 0 else {
            throw BenchError("reclaim began before the cap was near; use a larger --capacity")
        }
        // Until the cap is reached the load goes on, but belongs to neither half.
        isDuring.store(true, ordering: .relaxed)
        storeChains(capacityChains * 4 / 10, &fullness)
        latencies.withLock { $0.during.removeAll() }
        let full = store.statistics
        let nanoseconds = Sample.nanoseconds { storeChains(capacityChains * command.overwrites, &fullness) }
        let end = store.statistics
        isDone.store(true, ordering: .relaxed)
        promoter.wait()
        store.close()
        let fresh = Double(end.spilledStoredBytes - full.spilledStoredBytes)
        let (before, during) = latencies.withLock { $0 }
        guard before.count >= 100, during.count >= 100, fresh > 0 else {
            throw BenchError("only \(before.count) and \(during.count) promotes were measured; raise --promotes")
        }
        return ReclaimRound(
            before: Sample(nanoseconds: before),
            during: Sample(nanoseconds: during),
            writeAmplification: (fresh + Double(end.carriedStoredBytes - full.carriedStoredBytes)) / fresh,
            newBytesPerSecond: fresh * 1e9 / nanoseconds,
            fullness: fullness,
            droppedBlocks: end.droppedBlocks
        )
    }

    private func prefix(_ chain: Int) -> Prefix {
        space.prefix(tokens: (0..<16 * Reclaim.chainLength).map { UInt32(chain << 7 | $0) })
    }

    /// Stores chains at the rate of the load.
    private func storeChains(_ count: Int, _ fullness: inout Double) {
        let pause = Double(chainBytes) / Double(command.rate.bytes)
        var due = ContinuousClock.now
        for _ in 0..<count {
            let chain = storedChains.load(ordering: .relaxed)
            store.store(prefix(chain)) { block, bytes in
                payload.fill(chain * Reclaim.chainLength + block, into: &bytes)
            }
            storedChains.store(chain + 1, ordering: .releasing)
            due += .seconds(pause)
            if chain % 16 == 0 {
                fullness = max(fullness, Double(store.statistics.disk.bytes) / Double(command.capacity.bytes))
            }
            let ahead = ContinuousClock.now.duration(to: due)
            if ahead > .zero { usleep(UInt32(ahead / .microseconds(1))) }
        }
    }

    /// Promotes chains that are only on disk, at the rate of the load, and notes how long each took.
    private func promote() {
        var random = Random(seed: 7)
        // Old enough to have left memory, young enough to be there when reclaim drops the oldest.
        let youngest = 2 * command.memory.bytes / chainBytes
        let oldest = max(youngest + 1, command.capacity.bytes / 2 / chainBytes)
        let pause = Duration.seconds(1.0 / Double(command.promotes))
        var due = ContinuousClock.now
        while !isDone.load(ordering: .relaxed) {
            due += pause
            let newest = storedChains.load(ordering: .acquiring)
            if newest > youngest {
                let chain = newest - Int.random(in: youngest...min(oldest, newest), using: &random)
                timePromote(prefix(chain), firstBlock: chain * Reclaim.chainLength)
            }
            let ahead = ContinuousClock.now.duration(to: due)
            if ahead > .zero { usleep(UInt32(ahead / .microseconds(1))) } else { due = .now }
        }
    }

    private func timePromote(_ prefix: Prefix, firstBlock: Int) {
        guard store.match(prefix).tiers == [Tier](repeating: .disk, count: Reclaim.chainLength) else { return }
        let started = ContinuousClock.now
        guard let lease = store.acquire(prefix) else { return }
        let elapsed = started.duration(to: .now) / .nanoseconds(1)
        precondition(payload.isBlock(firstBlock, lease.bytes(at: 0)), "the bytes of another block")
        let during = isDuring.load(ordering: .relaxed)
        latencies.withLock { latencies in
            if during { latencies.during.append(elapsed) } else { latencies.before.append(elapsed) }
        }
    }
}
