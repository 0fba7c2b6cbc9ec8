import ArgumentParser
import KVStore
import KVStoreIPC

/// `kvstore request`: one prompt over a daemon, as an engine would use it.
struct RequestCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "request",
        abstract: "Ask a daemon for the KV of a made-up prompt, check it, and store what is missing.",
        discussion: """
            The prompt is a system prompt that all users share and a question of one user. Its blocks hold what follows \
            from their place in it, with the exponents of real KV, so that every byte of a hit can be checked. Run it \
            twice with different --user to see the second find what the first one stored.

            Exit codes: 0 all is well, 1 wrong bytes, 2 no daemon or it refused.
            """
    )
    @OptionGroup var daemon: DaemonOptions
    @Option(help: "Tokens of the system prompt.")
    var systemTokens = 2048
    @Option(help: "Tokens of the question.")
    var questionTokens = 256
    @Option(help: "Who asks: another number, another question.")
    var user = 1
    @Option(help: "Bytes of a block of 16 tokens. (default: 64KiB)", transform: ByteSize.init(parsing:))
    var blockBytes = ByteSize(64 << 10)
    @Flag(help: "Print one JSON object.")
    var json = false

    private static let tokensPerBlock = 16

    /// What came of a request.
    struct Outcome: Encodable, Hashable {
        var blocks = 0
        var memoryHitBlocks = 0
        var diskHitBlocks = 0
        var storedBlocks = 0
        var wrongBytes = 0
        /// From asking to having every hit's address.
        var lookupMilliseconds = 0.0
    }

    func validate() throws {
        guard (0...1_000_000).contains(systemTokens), (0...1_000_000).contains(questionTokens) else {
            throw ValidationError("--system-tokens and --question-tokens must be 0 to 1000000")
        }
        guard systemTokens + questionTokens >= Self.tokensPerBlock else {
            throw ValidationError("the prompt is shorter than a block of \(Self.tokensPerBlock) tokens")
        }
        guard (64...(16 << 20)).contains(blockBytes.byteCount), blockBytes.byteCount % 2 == 0 else {
            throw ValidationError("--block-bytes must be 64 to 16MiB and even")
        }
        guard (0..<1 << 20).contains(user) else { throw ValidationError("--user must be 0 to 1048575") }
    }

    func run() throws {
        let store = RemoteBlockStore(socketPath: daemon.path, options: try daemon.clientOptions(of: "request"))
        defer { store.close() }
        let outcome: Outcome
        do {
            outcome = try request(store)
        } catch let error as KVStoreError {
            Terminal.printError("kvstore request: \(error.message)\n")
            throw ExitCode(2)
        }
        print(json ? try JSONText.encode(outcome) : text(outcome), terminator: "")
        if outcome.wrongBytes > 0 { throw ExitCode(1) }
    }

    private func request(_ store: RemoteBlockStore) throws -> Outcome {
        let space = try store.namespace(
            NamespaceIdentity(
                model: "kvstore request",
                elementType: .bf16,
                opaqueBlockByteCount: blockBytes.byteCount,
                tokensPerBlock: Self.tokensPerBlock
            )
        )
        // Below 2^31: the system prompt; above: the user's own.
        let system = (0..<systemTokens).map { UInt32($0) }
        let question = (0..<questionTokens).map { 1 << 31 | UInt32(user) << 11 | UInt32($0 & 2047) }
        let prefix = space.prefix(tokens: system + question)
        let source = PayloadSource(blockByteCount: blockBytes.byteCount, seed: 1)
        var outcome = Outcome(blocks: prefix.keys.count)
        let clock = ContinuousClock()
        let start = clock.now
        if let lease = store.acquire(prefix) {
            outcome.lookupMilliseconds = (clock.now - start) / .milliseconds(1)
            for block in 0..<lease.count {
                if lease.tier(at: block) == .memory {
                    outcome.memoryHitBlocks += 1
                } else {
                    outcome.diskHitBlocks += 1
                }
                // The lease keeps the bytes where they are for the length of the closure.
                let fault = lease.withBytes(at: block) { span in
                    unsafe span.withUnsafeBytes { unsafe source.fault(of: prefix.keys[block].word0, in: $0) }
                }
                outcome.wrongBytes += fault?.wrongBytes ?? 0
            }
        }
        // As many at a time as fit into what the daemon lends for preparing blocks.
        while true {
            let stored = store.store(prefix) { block, span in
                unsafe span.withUnsafeMutableBytes { unsafe source.fill(prefix.keys[block].word0, into: $0) }
            }
            if stored == 0 { break }
            outcome.storedBlocks += stored
        }
        return outcome
    }

    private func text(_ outcome: Outcome) -> String {
        let hits = outcome.memoryHitBlocks + outcome.diskHitBlocks
        var lines: [String] = [
            "user \(user): \(systemTokens) tokens of system prompt and \(questionTokens) of question, "
                + "\(outcome.blocks) blocks of \(blockBytes)"
        ]
        if hits > 0 {
            lines.append(
                "  found   \(hits) blocks (\(hits * Self.tokensPerBlock) tokens): \(outcome.memoryHitBlocks) in memory, "
                    + "\(outcome.diskHitBlocks) on disk, in \(decimal(outcome.lookupMilliseconds, digits: 2)) ms"
            )
            lines.append("  checked \(hits) blocks, \(outcome.wrongBytes) wrong bytes")
        } else {
            lines.append("  found   nothing")
        }
        lines.append("  stored  \(outcome.storedBlocks) blocks")
        return lines.joined(separator: "\n") + "\n"
    }
}
