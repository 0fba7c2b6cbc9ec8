import Foundation
import KVStore

/// One store under measurement: its rounds of writing, then its rounds of reading.
final class DiskBench {
    let label: String
    let payload: Payload
    /// Runs that are wholly on disk in the end have the numbers from `firstRun` up to `runCount`.
    private(set) var runCount = 0
    private var firstRun = 0

    private let name: String
    private let command: Disk
    private let directory: String
    private var store: BlockStore
    private var space: Namespace
    private var spillBufferBytes: Int
    private var droppedBlocks = 0
    private var nextRead = 0
    private var cachedBytes = 0

    private var spillRates: [Double] = []
    private var spillProcessorPerMiB: [Double] = []
    private var flushRates: [Double] = []
    private var readRates: [Double] = []
    private var readProcessorPerMiB: [Double] = []

    init(command: Disk, name: String, payload: Payload, directory: String) throws {
        (self.command, self.name, self.payload, self.directory) = (command, name, payload, directory)
        spillBufferBytes = command.memory.bytes / 10
        label = name.isEmpty ? ", incompressible" : ", bf16"
        store = try Self.open(command, directory, memory: command.memory.bytes)
        space = try store.namespace(Self.identity(command, isFloat: !name.isEmpty))
    }

    private static func open(_ command: Disk, _ directory: String, memory: Int) throws -> BlockStore {
        // Room for everything, so that nothing is reclaimed, and for segments as large as the memory tier allows.
        let written = command.memory.bytes + 2 * (command.pairs + 2) * command.roundBytes.bytes
        var disk = DiskConfiguration(path: directory, capacityBytes: max(4 * command.memory.bytes, 2 * written))
        disk.readerThreads = command.readerThreads
        disk.writeBackDelaySeconds = nil
        disk.flushOnClose = false
        let store = try BlockStore(Configuration(memoryCapacityBytes: memory, disk: disk))
        try store.requireDisk()
        return store
    }

    /// bf16: 8 heads of 128, 16 tokens, so 64 KiB a layer. Else bytes that the store knows nothing about.
    private static func identity(_ command: Disk, isFloat: Bool) -> NamespaceIdentity {
        isFloat
            ? NamespaceIdentity(
                model: "bench", elementType: .bf16, layers: command.blockBytes.bytes / 65536, keyHeads: 8,
                keyHeadDimension: 128, tokensPerBlock: 16
            )
            : NamespaceIdentity(model: "bench", opaqueBlockByteCount: command.blockBytes.bytes, tokensPerBlock: 16)
    }

    private func prefix(ofRun run: Int) -> Prefix {
        space.prefix(tokens: (0..<16 * Disk.runLength).map { UInt32(run << 8 | $0) })
    }

    // MARK: Writing

    /// Stores until every slot holds a block that is not on disk.
    func fillMemory() throws {
        try storeRuns(command.memory.bytes / (command.blockBytes.bytes * Disk.runLength) + 1)
        store.waitForSpill()
        // At the moment when memory is full for the first time, a store that fills this fast drops a block or two.
        (firstRun, droppedBlocks) = (runCount, store.statistics.droppedBlocks)
        // Seven eighths of the slots count as memory tier, the others are the buffer for writing.
        spillBufferBytes = store.statistics.memory.blocks / 7 * command.blockBytes.bytes
    }

    /// One round of steady spilling, then one flush of as many blocks.
    func spillRound() throws {
        let before = store.statistics.spilledRawBytes
        let processor = Usage.processorNanoseconds
        let nanoseconds = try Sample.nanoseconds {
            try storeRuns(command.runsPerRound)
            store.waitForSpill()
        }
        let bytes = Double(store.statistics.spilledRawBytes - before)
        guard bytes > 0 else { throw BenchError("a round was too small to fill a segment; use a larger --round-bytes") }
        spillRates.append(bytes * 1e9 / nanoseconds)
        spillProcessorPerMiB.append((Usage.processorNanoseconds - processor) / (bytes / Double(1 << 20)))
    }

    private func storeRuns(_ count: Int) throws {
        let step = 4
        for _ in 0..<count {
            let run = runCount
            runCount += 1
            let prefix = prefix(ofRun: run)
            var stored = 0
            for end in stride(from: step, through: Disk.runLength, by: step) {
                // Never more than the buffer for writing takes: the store would drop blocks instead of waiting.
                let limit = spillBufferBytes - (step + 1) * command.blockBytes.bytes
                while store.queuedBytes > limit { usleep(500) }
                stored += store.store(prefix.first(end)) { block, bytes in
                    payload.fill(run * Disk.runLength + block, into: &bytes)
                }
            }
            guard stored == Disk.runLength else { throw BenchError("only \(stored) blocks of a run were stored") }
        }
        let statistics = store.statistics
        if let problem = statistics.diskProblem { throw BenchError("the disk tier paused: \(problem)") }
        guard firstRun == 0 || statistics.droppedBlocks == droppedBlocks else {
            throw BenchError("blocks were dropped although the caller waits: the buffer for writing was overrun")
        }
    }

    func reportWrites(_ report: inout Report, raw: Sample) throws {
        // What is in memory now is flushed at once: the same path without a caller that fills slots.
        let before = store.statistics.spilledRawBytes
        let nanoseconds = Sample.nanoseconds { _ = store.flush() }
        let statistics = store.statistics
        let flushed = Sample(bytesPerSecond: [Double(statistics.spilledRawBytes - before) * 1e9 / nanoseconds])
        let spill = Sample(bytesPerSecond: spillRates)
        report.rows.append(("spill\(label)", spill))
        report.rows.append(("one flush of a full memory tier\(label)", flushed))
        report.rows.append(("processor time per MiB spilled\(label)", Sample(nanoseconds: spillProcessorPerMiB)))
        report.comparisons.append(Comparison("spillWrite\(name)VsRawWrite", spill, over: raw))
        let ratio = decimal(statistics.compressionRatio, digits: 3)
        let size = ByteCount(Int(statistics.spilledStoredBytes) / max(1, statistics.segments))
        report.notes.append("\(statistics.segments) segments of \(size)\(label), raw / stored \(ratio)")
    }

    // MARK: Reading

    /// Closes the store, opens it with a memory tier that holds a fraction of what is on disk, and fills that tier once,
    /// so that slots are mapped before anything is timed.
    func reopenForReading() throws {
        store.close()
        let memory = max(command.memory.bytes / 4, 16 * Disk.runLength * command.blockBytes.bytes)
        store = try Self.open(command, directory, memory: memory)
        space = try store.namespace(Self.identity(command, isFloat: !name.isEmpty))
        guard (runCount - firstRun) * Disk.runLength * command.blockBytes.bytes >= 2 * memory else {
            throw BenchError("too little was written to be cold when it is read; use more --pairs")
        }
        for _ in 0...memory / (Disk.runLength * command.blockBytes.bytes) { try readRun() }
    }

    func readRound() throws {
        cachedBytes = max(cachedBytes, PageCache.drop(filesIn: directory))
        let processor = Usage.processorNanoseconds
        let nanoseconds = try Sample.nanoseconds { for _ in 0..<command.runsPerRound { try readRun() } }
        let bytes = Double(command.blocksPerRound * command.blockBytes.bytes)
        readRates.append(bytes * 1e9 / nanoseconds)
        readProcessorPerMiB.append((Usage.processorNanoseconds - processor) / (bytes / Double(1 << 20)))
    }

    private func readRun() throws {
        let run = max(nextRead, firstRun)
        nextRead = run + 1 < runCount ? run + 1 : firstRun
        var count = 0
        if let lease = store.acquire(prefix(ofRun: run)) {
            while count < lease.count {
                precondition(lease.tier(at: count) == .disk, "a block that should be cold was in memory")
                guard payload.isBlock(run * Disk.runLength + count, lease.bytes(at: count)) else { break }
                count += 1
            }
        }
        guard count == Disk.runLength else {
            let problem = store.statistics.diskProblem ?? "blocks are missing"
            throw BenchError("only \(count) blocks of run \(run) came back\(label): \(problem)")
        }
    }

    func reportReads(_ report: inout Report, raw: Sample, streamed: Sample) {
        let read = Sample(bytesPerSecond: readRates)
        report.rows.append(("cold hit\(label)", read))
        report.rows.append(("processor time per MiB read\(label)", Sample(nanoseconds: readProcessorPerMiB)))
        report.comparisons.append(Comparison("coldRead\(name)VsRawRead", read, over: raw))
        report.comparisons.append(Comparison("coldRead\(name)VsRawReadStreamed", read, over: streamed))
        if cachedBytes > 0 { report.notes.append("up to \(ByteCount(cachedBytes)) stayed in the page cache\(label)") }
        store.close()
    }
}
