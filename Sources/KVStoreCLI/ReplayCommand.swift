import ArgumentParser
import KVStore

/// `kvstore replay`: flags, and their checks before anything is opened.
struct ReplayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay",
        abstract: "Run request traces through the real store and verify every byte that comes back.",
        discussion: """
            Without TRACE, made-up chats with shared system prompts are replayed (--seed chooses which). A TRACE is \
            JSON Lines, plain or .gz, one request per line in order of arrival; several are replayed one after the \
            other:
              {"t": milliseconds, "in": input tokens, "out": output tokens, "h": [ids]}
            Equal ids mean the same block of tokens and the same everything before it.

            For each request the store is asked for the longest prefix it has, all its bytes are compared, and the \
            blocks that are missing are put. Every count in the table is the store's own.

            Examples:
              kvstore replay
              kvstore replay chats.jsonl.gz --memory 2GiB --disk 16GiB
              kvstore replay chats.jsonl.gz --memory-blocks 3000 --disk-blocks 10000
              kvstore replay --verify-restart       kill -9 in the middle, reopen, go on
              kvstore replay --json --quiet | jq .memory.hitRatioBlocks
            """
    )

    @Argument(help: "Trace files, plain or gzip. (default: made-up chats)")
    var traces: [String] = []
    @Flag(help: "Replay made-up chats; the default when no TRACE is given.")
    var synthetic = false
    @Option(help: "Seed of the made-up chats and of all payloads.")
    var seed: UInt64 = 1
    @Option(help: "Stop after this many requests. (default: all of a trace, 5000 made-up ones)")
    var limit: Int?
    @Option(help: "Tokens per block.")
    var blockTokens = 512
    @Option(help: "Bytes per block. (default: 64KiB)", transform: ByteSize.init(parsing:))
    var blockBytes = ByteSize(64 << 10)
    @Option(
        help: "Directory with real KV bytes and their manifest.json; otherwise bytes with the same statistics are made."
    )
    var payloadDir: String?
    @Option(help: "Eviction policy: leaf-lru or default. (default: default)", transform: Self.policy(named:))
    var policy = EvictionPolicyName.default
    @Option(help: "Capacity of the memory tier. (default: 256MiB)", transform: ByteSize.init(parsing:))
    var memory: ByteSize?
    @Option(help: "Capacity of the memory tier in blocks, instead of --memory.")
    var memoryBlocks: Int?
    @Option(help: "Capacity of the disk tier; 0 for none. (default: 4GiB)", transform: ByteSize.init(parsing:))
    var disk: ByteSize?
    @Option(help: "Capacity of the disk tier in blocks, instead of --disk; 0 for none.")
    var diskBlocks: Int?
    @Option(help: "Directory of the disk tier; kept at the end. (default: a new one, removed at the end)")
    var diskPath: String?
    @Option(
        help: """
            How blocks are coded on disk: automatic, raw, lz4, nib4 (bf16, fast), nib4h (bf16, denser), hsplit (as dense, \
            slower). (default: automatic)
            """,
        transform: Self.codec(named:)
    )
    var codec = CodecChoice.automatic
    @Option(help: "Write blocks to disk once they are this many seconds old. (default: only when memory runs short)")
    var writeBack: Double?
    @Flag(
        name: .customLong("no-wait"),
        help: "Do not wait for the spill queue after each request: shows what it drops."
    )
    var doesNotWait = false
    @Flag(help: "Replay half in a child process, kill -9 it, reopen, verify all indexed blocks, replay the rest.")
    var verifyRestart = false
    @Flag(help: "Print one JSON object instead of the table.")
    var json = false
    @Flag(help: "No progress on standard error.")
    var quiet = false
    @Option(help: .hidden)
    var restartChild: String?

    func validate() throws { _ = try settings() }

    func run() throws {
        let settings = try settings()
        do {
            Interruption.watch()
            if let path = restartChild {
                try ReplaySession(settings).runAsRestartChild(diskPath: path)
                return
            }
            let report = try ReplaySession(settings).run()
            Terminal.print(json ? try JSONText.encode(report) : report.table)
            if report.wrongBytes > 0 || report.restart?.wrongBytes ?? 0 > 0 { throw ExitCode(1) }
            if report.isInterrupted { throw ExitCode(130) }
        } catch let error as StartError {
            Terminal.printError("kvstore replay: \(error)\n")
            throw ExitCode(2)
        } catch let error as KVStoreError {
            Terminal.printError("kvstore replay: \(error.message)\n")
            throw ExitCode(2)
        }
    }

    private static func policy(named name: String) throws -> EvictionPolicyName {
        guard let policy = EvictionPolicyName(rawValue: name) else {
            let names = EvictionPolicyName.allCases.map(\.rawValue).joined(separator: ", ")
            throw ValidationError("there is no policy '\(name)'; choose one of: \(names)")
        }
        return policy
    }

    private static func codec(named name: String) throws -> CodecChoice {
        if name == CodecChoice.int8.rawValue {
            throw ValidationError("int8 is lossy, and a replay compares every byte; choose another codec")
        }
        guard let codec = CodecChoice(rawValue: name) else {
            let names = CodecChoice.allCases.filter { $0 != .int8 }.map(\.rawValue).joined(separator: ", ")
            throw ValidationError("there is no codec '\(name)'; choose one of: \(names)")
        }
        return codec
    }

    /// The options as one checked value.
    func settings() throws(ValidationError) -> ReplaySettings {
        try rejectContradictions()
        try rejectOutOfRange()
        let memoryCapacity = memoryBlocks.map(ReplaySettings.Capacity.blocks) ?? .bytes(memory?.byteCount ?? 256 << 20)
        let diskCapacity = diskBlocks.map(ReplaySettings.Capacity.blocks) ?? .bytes(disk?.byteCount ?? 4 << 30)
        let hasDisk = diskCapacity != .blocks(0) && diskCapacity != .bytes(0)
        if !hasDisk, diskPath != nil || verifyRestart || writeBack != nil || codec != .automatic {
            let option =
                diskPath != nil
                ? "--disk-path" : verifyRestart ? "--verify-restart" : writeBack != nil ? "--write-back" : "--codec"
            throw ValidationError("\(option) needs a disk tier; give --disk or --disk-blocks more than 0")
        }
        // The store's own bounds, in the words of this command: a block is at most 1/8 of memory, and a record at most
        // a quarter of the spill buffer, which is 1/8 again.
        let lowestMemory = max(16 << 20, (hasDisk ? 36 : 8) * blockBytes.byteCount)
        if case .bytes(let byteCount) = memoryCapacity, byteCount < lowestMemory {
            throw ValidationError(
                "--memory \(ByteSize(byteCount)) is too small for blocks of \(blockBytes); give at least "
                    + "\(ByteSize(lowestMemory)), or a smaller --block-bytes, or --memory-blocks"
            )
        }
        if case .bytes(let byteCount) = diskCapacity, hasDisk, byteCount < 32 << 20 {
            throw ValidationError("--disk \(ByteSize(byteCount)) is too small; give at least 32MiB, or 0 for no disk")
        }
        return ReplaySettings(
            traces: traces,
            seed: seed,
            limit: limit,
            blockTokens: blockTokens,
            blockByteCount: blockBytes.byteCount,
            payloadDirectory: payloadDir,
            policy: policy,
            memory: memoryCapacity,
            disk: hasDisk ? diskCapacity : nil,
            diskPath: diskPath,
            codec: codec,
            writeBackSeconds: writeBack,
            waitsForSpill: !doesNotWait,
            verifiesRestart: verifyRestart && restartChild == nil,
            isQuiet: quiet || restartChild != nil
        )
    }

    private func rejectContradictions() throws(ValidationError) {
        if synthetic && !traces.isEmpty {
            throw ValidationError("give either TRACE files or --synthetic, not both")
        }
        if memory != nil && memoryBlocks != nil {
            throw ValidationError("give either --memory or --memory-blocks, not both")
        }
        if disk != nil && diskBlocks != nil {
            throw ValidationError("give either --disk or --disk-blocks, not both")
        }
    }

    private func rejectOutOfRange() throws(ValidationError) {
        let size = blockBytes.byteCount
        guard size >= 64, size % 2 == 0, size <= 1 << 30 else {
            throw ValidationError("--block-bytes is \(size); it must be even and between 64 and 1GiB")
        }
        let bounds: [(name: String, value: Int?, lowest: Int, highest: Int)] = [
            ("--limit", limit, 1, 1 << 40), ("--block-tokens", blockTokens, 1, 65_535),
            ("--memory-blocks", memoryBlocks, 1, (1 << 50) / size), ("--disk-blocks", diskBlocks, 0, (1 << 50) / size),
        ]
        for (name, value, lowest, highest) in bounds {
            guard let value, value < lowest || value > highest else { continue }
            throw ValidationError("\(name) is \(value); it must be \(lowest)...\(highest)")
        }
        if let writeBack, !(writeBack >= 0.05 && writeBack <= 86_400) {
            throw ValidationError("--write-back is \(writeBack); it must be 0.05...86400 seconds")
        }
    }
}

/// What a replay does; made by the command, checked, free of I/O.
struct ReplaySettings: Sendable {
    enum Capacity: Hashable, Sendable {
        case bytes(Int)
        case blocks(Int)
    }

    /// Empty for made-up chats.
    var traces: [String]
    var seed: UInt64
    var limit: Int?
    var blockTokens: Int
    var blockByteCount: Int
    var payloadDirectory: String?
    var policy: EvictionPolicyName
    var memory: Capacity
    /// nil for no disk tier.
    var disk: Capacity?
    var diskPath: String?
    var codec: CodecChoice
    var writeBackSeconds: Double?
    var waitsForSpill: Bool
    var verifiesRestart: Bool
    var isQuiet: Bool
}
