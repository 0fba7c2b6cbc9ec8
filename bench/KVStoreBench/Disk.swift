import ArgumentParser
import Foundation
import KVStore

/// Spills and cold hits against the bare disk.
struct Disk: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Spill and cold read against raw O_DIRECT I/O and plain rocksdb_put.",
        discussion: """
            WRITE. Blocks are stored into a memory tier that is full of blocks which are not on disk yet, so each block \
            pushes an older one out to disk: raw bytes that reached the disk per second of wall time, with the copying into \
            memory, hashing, writing, syncing (kvstore syncs every segment) and indexing in it. The caller waits only while \
            the buffer for writing is full. 'flush' is the same without the copying: everything is in memory already. \
            Reference: one thread, O_DIRECT, one block a request into a new file, fdatasync at the end. rocksdb_put: the \
            same values into a new database without WAL and compression, flush at the end; the same with BlobDB.

            READ. Runs of 16 blocks of one prefix, read with acquire after a restart; before each round the page cache is \
            dropped for every file of the store (posix_fadvise) and for none is anything left, or a note says how much. \
            Every byte is verified and copied into the memory tier, as always. Reference: O_DIRECT reads of one block a \
            request, with as many threads as the store has for a read (its reader threads and the caller), which read one \
            run together and then the next; 'streamed' is the same where no thread ever waits for another.

            Both are done with incompressible bytes (element type opaque: the store tries LZ4 and finds nothing) and with \
            bf16 elements whose exponents are as in real KV. Rates are raw bytes per second in both cases.
            """
    )
    @OptionGroup var output: Output
    @OptionGroup var place: DiskPlace
    @Option(help: "Bytes of a block.")
    var blockBytes = ByteCount(1 << 20)
    @Option(help: "Bytes written and read in each round, of each kind.")
    var roundBytes = ByteCount(256 << 20)
    @Option(help: "Memory cap of the store that spills; a segment is at most 7/128 of it.")
    var memory = ByteCount(1 << 30)
    @Option(help: "Reader threads of the store.")
    var readerThreads = 2
    @Option(
        help: ArgumentHelp(
            "bf16 data from real tensors: a directory with a manifest.json that lists raw bf16 files.",
            valueName: "DIR"
        )
    )
    var samples: String?
    @Flag(inversion: .prefixedNo, help: "Measure writing against rocksdb_put, too.")
    var rocksdb = true
    @Flag(help: "Leave the bf16 half out.")
    var incompressibleOnly = false

    /// Blocks of one prefix.
    static let runLength = 16

    func validate() throws {
        guard blockBytes.bytes % 65536 == 0 else { throw ValidationError("--block-bytes must be a multiple of 64KiB") }
        guard roundBytes.bytes >= blockBytes.bytes * Self.runLength else {
            throw ValidationError("--round-bytes must hold a run of \(Self.runLength) blocks")
        }
        guard memory.bytes >= blockBytes.bytes * 256 else {
            throw ValidationError("--memory must hold 256 blocks, \(ByteCount(blockBytes.bytes * 256))")
        }
        guard (1...64).contains(readerThreads) else { throw ValidationError("--reader-threads must be 1 to 64") }
    }

    var pairs: Int { output.pairsGiven ?? 10 }
    var runsPerRound: Int { roundBytes.bytes / (blockBytes.bytes * Self.runLength) }
    var blocksPerRound: Int { runsPerRound * Self.runLength }

    func run() throws {
        let written = (memory.bytes + (2 * pairs + 2) * roundBytes.bytes) * (incompressibleOnly ? 1 : 2)
        let scratch = try ScratchDirectory(in: place, neededBytes: written + 4 * roundBytes.bytes)
        var payloads = [("", try Payload(.incompressible, blockByteCount: blockBytes.bytes))]
        if !incompressibleOnly {
            let kind = try samples.map { Payload.Kind.samples(try SampleFiles(in: $0).bytes(of: .bf16)) } ?? .bf16
            payloads.append(("Bf16", try Payload(kind, blockByteCount: blockBytes.bytes)))
        }
        var report = Report()
        report.conditions = [
            "blocks of \(blockBytes), runs of \(Self.runLength), \(roundBytes) a round, \(pairs) rounds; memory tier "
                + "\(memory); \(readerThreads) reader threads and the caller",
            "bf16: \(samples == nil ? "made, with the exponent statistics of real KV" : "real tensors, repeated")",
        ]
        let stores = try payloads.map { name, payload in
            try DiskBench(command: self, name: name, payload: payload, directory: "\(scratch.path)/store\(name)")
        }
        try measureWrites(stores, scratch, &report)
        try measureReads(stores, scratch, &report)
        try output.show(report)
    }

    private func measureWrites(_ stores: [DiskBench], _ scratch: ScratchDirectory, _ report: inout Report) throws {
        for store in stores {
            output.progress("filling memory\(store.label)")
            try store.fillMemory()
        }
        var raw: [Double] = []
        var puts: [[Double]] = [[], []]
        let bytes = Double(blocksPerRound * blockBytes.bytes)
        for round in 0..<pairs {
            output.progress("write, round \(round + 1) of \(pairs)")
            let file = try RawFile("\(scratch.path)/raw", requestBytes: blockBytes.bytes)
            raw.append(bytes * 1e9 / (try file.write(stores[0].payload, count: blocksPerRound)))
            scratch.remove("raw")
            for store in stores { try store.spillRound() }
            for usesBlobs in [0, 1] where rocksdb {
                let nanoseconds = try RocksPut.write(
                    stores[0].payload,
                    count: blocksPerRound,
                    directory: "\(scratch.path)/put",
                    usesBlobs: usesBlobs == 1
                )
                puts[usesBlobs].append(bytes * 1e9 / nanoseconds)
                scratch.remove("put")
            }
        }
        let rawWrite = Sample(bytesPerSecond: raw)
        report.rows.append(("raw O_DIRECT write, 1 thread", rawWrite))
        for store in stores { try store.reportWrites(&report, raw: rawWrite) }
        guard rocksdb else { return }
        for (usesBlobs, name) in ["rocksdb_put, no WAL", "rocksdb_put, BlobDB, no WAL"].enumerated() {
            let sample = Sample(bytesPerSecond: puts[usesBlobs])
            report.rows.append((name, sample))
            let key = usesBlobs == 1 ? "rocksdbBlobPutVsRawWrite" : "rocksdbPutVsRawWrite"
            report.comparisons.append(Comparison(key, sample, over: rawWrite))
        }
    }

    private func measureReads(_ stores: [DiskBench], _ scratch: ScratchDirectory, _ report: inout Report) throws {
        for store in stores { try store.reopenForReading() }
        // As large as what the store reads before it comes round to the same blocks again.
        let rawRuns = min(stores[0].runCount, 4 * runsPerRound)
        let file = try RawFile("\(scratch.path)/raw", requestBytes: blockBytes.bytes)
        _ = try file.write(stores[0].payload, count: rawRuns * Self.runLength)
        let buffer = try allocateAligned(Self.runLength * blockBytes.bytes)
        defer { free(buffer.baseAddress) }
        let threads = readerThreads + 1
        let bytes = Double(blocksPerRound * blockBytes.bytes)
        var raw: [[Double]] = [[], []]
        for round in 0..<pairs {
            output.progress("read, round \(round + 1) of \(pairs)")
            let runs = (0..<runsPerRound).map { (round * runsPerRound + $0) % rawRuns }
            for (index, waits) in [true, false].enumerated() {
                let nanoseconds = file.read(
                    runs: runs,
                    runLength: Self.runLength,
                    threads: threads,
                    waits: waits,
                    into: buffer
                )
                raw[index].append(bytes * 1e9 / nanoseconds)
            }
            for store in stores { try store.readRound() }
        }
        let rawRead = Sample(bytesPerSecond: raw[0])
        report.rows.append(("raw O_DIRECT read, \(threads) threads, run by run", rawRead))
        report.rows.append(("raw O_DIRECT read, \(threads) threads, streamed", Sample(bytesPerSecond: raw[1])))
        for store in stores { store.reportReads(&report, raw: rawRead, streamed: Sample(bytesPerSecond: raw[1])) }
    }
}
