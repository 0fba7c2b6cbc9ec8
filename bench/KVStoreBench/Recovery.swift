import ArgumentParser
import Foundation
import KVStore
import Synchronization

/// How long a store with many blocks takes to come back.
struct Recovery: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Reopening a store with many blocks, after close and after kill -9.",
        discussion: """
            A store is filled with small blocks and closed. Each round then measures two reopenings, until every block can \
            be found again: after an orderly close, and after a child process that had the store open, had flushed a \
            hundredth of the blocks anew and was storing more, was killed with SIGKILL. The page cache is dropped for the \
            store's files before each (posix_fadvise). While the index loads, another thread asks for blocks all the time; \
            how many of its calls were answered and how long the slowest took is printed.

            Both comparisons are seconds per million blocks. Use --blocks 1000000 for the real thing (4 GiB on disk).
            """
    )
    @OptionGroup var output: Output
    @OptionGroup var place: DiskPlace
    @Option(help: "Blocks in the store.")
    var blocks = 100_000
    @Option(help: "Bytes of a block.")
    var blockBytes = ByteCount(4 << 10)

    static let chainLength = 20

    func validate() throws {
        guard (1000...10_000_000).contains(blocks) else { throw ValidationError("--blocks must be 1000 to 10000000") }
    }

    func run() throws {
        let rounds = output.pairsGiven ?? 10
        let bytes = blocks * (blockBytes.bytes + 512)
        let scratch = try ScratchDirectory(in: place, neededBytes: 2 * bytes)
        let session = RecoverySession(directory: "\(scratch.path)/store", blocks: blocks, blockBytes: blockBytes.bytes)
        output.progress("storing \(blocks) blocks")
        try session.fill()
        var (clean, killed): ([Reopening], [Reopening]) = ([], [])
        for round in 0..<rounds {
            output.progress("round \(round + 1) of \(rounds)")
            clean.append(try session.reopen())
            try RecoveryChild.runAndKill(session, round: round)
            killed.append(try session.reopen())
        }
        var report = Report()
        report.conditions = ["\(blocks) blocks of \(blockBytes) in chains of \(Self.chainLength); \(rounds) rounds"]
        for (name, list) in [("after close", clean), ("after kill -9", killed)] {
            report.rows += [
                ("reopen \(name), all found", Sample(list.map(\.seconds), .seconds)),
                ("blocks found \(name)", Sample(list.map { Double($0.blocks) }, .count)),
                ("lookups answered meanwhile, \(name)", Sample(list.map { Double($0.answered) }, .count)),
                ("slowest of them, \(name)", Sample(nanoseconds: list.map(\.slowestNanoseconds))),
            ]
        }
        func perMillion(_ list: [Reopening]) -> [Double] { list.map { $0.seconds * 1e6 / Double($0.blocks) } }
        report.comparisons = [
            Comparison("reopenSecondsPerMillionBlocks", perMillion(clean)),
            Comparison("reopenAfterKillSecondsPerMillionBlocks", perMillion(killed)),
        ]
        try output.show(report)
    }
}

/// One reopening.
struct Reopening {
    var seconds: Double
    var blocks: Int
    var answered: Int
    var slowestNanoseconds: Double
}

/// The store that is closed and opened again, and what is in it.
struct RecoverySession {
    let directory: String
    let blocks: Int
    let blockBytes: Int

    func open() throws -> (store: BlockStore, space: Namespace) {
        // A quarter of the memory cap may be metadata, about 160 bytes a block here.
        let memory = max(256 << 20, blocks * 1024)
        var disk = DiskConfiguration(path: directory, capacityBytes: max(256 << 20, blocks * (blockBytes + 512) * 3))
        disk.writeBackDelaySeconds = nil
        let store = try BlockStore(Configuration(memoryCapacityBytes: memory, disk: disk))
        let identity = NamespaceIdentity(model: "bench", opaqueBlockByteCount: blockBytes, tokensPerBlock: 1)
        return (store, try store.namespace(identity))
    }

    static func prefix(_ space: Namespace, chain: Int) -> Prefix {
        space.prefix(tokens: (0..<Recovery.chainLength).map { UInt32(chain * Recovery.chainLength + $0) })
    }

    /// Stores chains; every block is different and cannot be compressed. False when blocks got no place even after a
    /// while: while metadata grows, a store may answer "not now".
    @discardableResult
    static func store(_ store: BlockStore, _ space: Namespace, chains: Range<Int>) -> Bool {
        for chain in chains {
            let prefix = prefix(space, chain: chain)
            var tries = 0
            while store.match(prefix).count < Recovery.chainLength {
                if tries > 0 { _ = store.flush() as FlushResult }
                if tries > 100 { return false }
                tries += 1
                store.store(prefix) { block, bytes in
                    var random = Random(seed: UInt64(chain * Recovery.chainLength + block) + 1)
                    bytes.withUnsafeMutableBytes { target in
                        for offset in stride(from: 0, to: target.count & ~7, by: 8) {
                            target.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
                        }
                    }
                }
            }
        }
        return true
    }

    var chains: Int { blocks / Recovery.chainLength }

    func fill() throws {
        let (store, space) = try open()
        try store.requireDisk()
        // A piece at a time, far less than the buffer for writing, or memory would evict faster than the disk takes.
        let piece = max(1, store.configuration.memoryCapacityBytes / 32 / (blockBytes * Recovery.chainLength))
        for start in stride(from: 0, to: chains, by: piece) {
            guard Self.store(store, space, chains: start..<min(chains, start + piece)) else {
                throw BenchError("the store has no room for \(blocks) blocks: \(store.statistics.diskProblem ?? "")")
            }
            let flushed = store.flush() as FlushResult
            guard flushed.refusedBlocks == 0 else { throw BenchError("blocks were refused: \(flushed.reason ?? "")") }
        }
        store.close()
    }

    /// Opens the store, waits until everything can be found, closes it.
    func reopen() throws -> Reopening {
        PageCache.drop(filesIn: directory)
        let clock = ContinuousClock()
        let start = clock.now
        let (store, space) = try open()
        let asked = LookupsMeanwhile(store, space, chains: chains)
        let isWarm = store.waitUntilWarm()
        let elapsed = start.duration(to: clock.now)
        let (answered, slowest) = asked.end()
        defer { store.close() }
        let statistics = store.statistics
        guard isWarm else { throw BenchError(statistics.diskProblem ?? "the disk tier did not open") }
        let found = (0..<chains).reduce(0) { $0 + store.match(Self.prefix(space, chain: $1)).count }
        guard found >= blocks / Recovery.chainLength * Recovery.chainLength else {
            throw BenchError("only \(found) of \(blocks) blocks were found after a restart")
        }
        return Reopening(
            seconds: elapsed / .seconds(1),
            blocks: statistics.disk.blocks,
            answered: answered,
            slowestNanoseconds: slowest
        )
    }
}

/// A thread that looks blocks up all the time.
private final class LookupsMeanwhile: Sendable {
    private let isDone = Atomic<Bool>(false)
    private let result = Mutex<(answered: Int, slowestNanoseconds: Double)>((0, 0))
    private let group = DispatchGroup()

    init(_ store: BlockStore, _ space: Namespace, chains: Int) {
        group.enter()
        Thread { [self] in
            var random = Random(seed: 3)
            while !isDone.load(ordering: .relaxed) {
                let prefix = RecoverySession.prefix(space, chain: Int.random(in: 0..<chains, using: &random))
                let nanoseconds = Sample.nanoseconds { _ = store.match(prefix).count }
                result.withLock { $0 = ($0.answered + 1, max($0.slowestNanoseconds, nanoseconds)) }
                // A core of its own would be unfair on a small machine.
                usleep(200)
            }
            group.leave()
        }.start()
    }

    func end() -> (answered: Int, slowestNanoseconds: Double) {
        isDone.store(true, ordering: .relaxed)
        group.wait()
        return result.withLock { $0 }
    }
}

/// This program again, as the process that is killed.
struct RecoveryChild: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "recovery-child", shouldDisplay: false)
    @Argument var directory: String
    @Argument var blocks: Int
    @Argument var blockBytes: Int
    @Argument var round: Int

    /// Stores a hundredth of the blocks anew, flushes, says so, and goes on storing until somebody ends it.
    func run() throws {
        let parent = getppid()
        let session = RecoverySession(directory: directory, blocks: blocks, blockBytes: blockBytes)
        let (store, space) = try session.open()
        try store.requireDisk()
        let count = max(1, session.chains / 100)
        var next = session.chains + round * count * 4
        RecoverySession.store(store, space, chains: next..<next + count)
        let flushed = store.flush() as FlushResult
        guard flushed.refusedBlocks == 0 else { throw BenchError("blocks were refused: \(flushed.reason ?? "")") }
        FileHandle.standardOutput.write(Data("flushed\n".utf8))
        let end = next + 4 * count
        next += count
        while next < end {
            RecoverySession.store(store, space, chains: next..<next + 1)
            next += 1
        }
        // Enough was stored; the parent will not be long. If it is gone, nobody will ever end this process.
        while getppid() == parent { sleep(1) }
    }

    static func runAndKill(_ session: RecoverySession, round: Int) throws {
        let child = Process()
        child.executableURL = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath()
        child.arguments = [
            "recovery-child", session.directory, "\(session.blocks)", "\(session.blockBytes)", "\(round)",
        ]
        let pipe = Pipe()
        child.standardOutput = pipe
        try child.run()
        let said = pipe.fileHandleForReading.availableData
        usleep(20_000)
        kill(child.processIdentifier, SIGKILL)
        child.waitUntilExit()
        guard String(decoding: said, as: UTF8.self) == "flushed\n" else {
            throw BenchError("the child process ended before it had flushed")
        }
    }
}
