internal import ArgumentParser
internal import Foundation
internal import KVStore
internal import KVStoreIPC

/// What every process of the demo is told.
struct DemoSettings: ParsableArguments {
    @Option(help: "Tokens that all users share; 2048 for the figures that are compared with goals.")
    var prefixTokens = 2048
    @Option(help: "Tokens of each user's question.") var questionTokens = 64
    @Option(help: "Tokens to generate.") var tokens = 16
    @Option(help: "Measurements of each kind; the table shows medians.") var rounds = 3
    @Option(help: "Memory of the store.") var memory = ByteCount(bytes: 512 << 20)
    @Option(help: "Socket of a kvstore daemon, in place of a store in the engine's process.") var socket: String?

    func validate() throws {
        guard prefixTokens >= 64, questionTokens > 0, tokens > 0, rounds > 0 else {
            throw ValidationError("--prefix-tokens must be 64 or more, the other numbers positive")
        }
    }

    /// The same, for a child process.
    var arguments: [String] {
        var arguments = [
            "--prefix-tokens", "\(prefixTokens)", "--question-tokens", "\(questionTokens)", "--tokens", "\(tokens)",
            "--rounds", "\(rounds)", "--memory", "\(memory.bytes)",
        ]
        if let socket { arguments += ["--socket", socket] }
        return arguments
    }
}

/// One process of the demo. Prints a `DemoReport` as one line.
struct DemoPhaseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "demo-phase", shouldDisplay: false)

    enum Name: String, ExpressibleByArgument, CaseIterable {
        case measure, restart, damaged
    }

    @Argument var phase: Name
    @Option var model: String
    @Option(name: .customLong("store")) var directory: String
    @OptionGroup var settings: DemoSettings

    func run() throws {
        let session = try Session(self)
        switch phase {
        case .measure: try measure(session)
        case .restart: try restart(session)
        case .damaged: try damaged(session)
        }
    }

    private struct Session {
        let llama: LlamaModel
        let prompts: DemoPrompts
        let cache: any BlockCache
        /// The engine that is compared with.
        let plain: Engine
        let newTokens: Int

        init(_ command: DemoPhaseCommand) throws {
            llama = try LlamaModel(directory: command.model)
            prompts = DemoPrompts(
                try Tokenizer.load(directory: command.model), prefixTokens: command.settings.prefixTokens,
                questionTokens: command.settings.questionTokens)
            cache = try Self.open(command)
            plain = Engine(llama)
            newTokens = command.settings.tokens
        }

        func cached() throws -> Engine {
            Engine(llama, cache: try PrefixCache(cache, model: llama, tokensPerBlock: 16))
        }

        func recorder(_ step: String) -> DemoRecorder {
            DemoRecorder(step: step, prompts: prompts, newTokens: newTokens)
        }

        private static func open(_ command: DemoPhaseCommand) throws -> any BlockCache {
            if let socket = command.settings.socket { return RemoteBlockStore(socketPath: socket) }
            var configuration = Configuration(
                memoryCapacityBytes: command.settings.memory.bytes,
                disk: DiskConfiguration(path: command.directory, capacityBytes: 4 << 30))
            // Or the restart would measure memory.
            configuration.warmUpFraction = 0
            let store = try BlockStore(configuration)
            store.waitUntilWarm()
            return store
        }
    }

    /// Without the cache, with an empty one, and with what that left in memory; then flushes and goes on working until
    /// it is killed.
    private func measure(_ session: Session) throws {
        var report = DemoReport()
        let engine = try session.cached()
        // Touches all weights once.
        _ = session.recorder("warm-up").run(session.plain, variant: 1000, user: 0)
        for variant in 0..<settings.rounds {
            let plain = { session.recorder("no cache").run(session.plain, variant: variant, user: 1) }
            let empty = { session.recorder("empty cache").run(engine, variant: variant, user: 1) }
            // In turn, so that neither always comes first.
            report.runs += variant % 2 == 0 ? [plain(), empty()] : [empty(), plain()]
            report.runs.append(session.recorder("memory").run(engine, variant: variant, user: 2))
            report.runs.append(session.recorder("no cache").run(session.plain, variant: variant, user: 2))
        }
        let flushed = session.cache.flush()
        report.durableBlocks = flushed.durableBlocks
        report.flushProblem = flushed.reason
        try finish(report, session, closes: false)
        let deadline = ContinuousClock.now + .seconds(60)
        var variant = 2000
        while ContinuousClock.now < deadline {
            _ = session.recorder("until killed").run(engine, variant: variant, user: 1)
            variant += 1
        }
    }

    /// A new process: what the killed one left on disk.
    private func restart(_ session: Session) throws {
        let step = settings.socket == nil ? "disk" : "new process"
        var report = DemoReport()
        let engine = try session.cached()
        // Touches all weights once; nothing of it is stored.
        _ = session.recorder("warm-up").run(session.plain, variant: 1000, user: 0)
        for variant in 0..<settings.rounds {
            report.runs.append(session.recorder(step).run(engine, variant: variant, user: 3))
            report.runs.append(session.recorder("no cache").run(session.plain, variant: variant, user: 3))
        }
        let recorder = session.recorder("batch of 3")
        report.runs += recorder.batch(engine, variant: 0, users: [1, 2, 3]) { requests in
            report.batchPages = engine.pool.usedCount
            report.batchBlocks = requests.reduce(0) { $0 + $1.table.count }
        }
        try finish(report, session, closes: true)
    }

    /// After a file was damaged; and the negative controls.
    private func damaged(_ session: Session) throws {
        let step = settings.socket == nil ? "damaged record" : "third process"
        var report = DemoReport()
        let engine = try session.cached()
        for variant in 0..<settings.rounds {
            report.runs.append(session.recorder(step).run(engine, variant: variant, user: 1))
        }
        report.runs.append(session.recorder("stored again").run(engine, variant: 0, user: 1))
        let identity = PrefixCache.identity(of: session.llama, tokensPerBlock: 16)
        let tokens = session.prompts.prompt(variant: 0, user: 1)
        let forgery = BlockForgery(session.cache, try session.cache.namespace(identity).prefix(tokens: tokens))
        forgery.replace { blocks in
            // The signs of all values of one block's second half of layers.
            for offset in blocks[1].count / 2..<blocks[1].count where offset % 2 == 1 { blocks[1][offset] ^= 0x80 }
        }
        report.runs.append(session.recorder(DemoSummary.contentControl).run(engine, variant: 0, user: 1))
        // Back to what is right, then two blocks in each other's place.
        session.cache.remove(try session.cache.namespace(identity).prefix(tokens: tokens))
        _ = session.recorder("rebuilt").run(engine, variant: 0, user: 1)
        forgery.replace { $0.swapAt(1, 2) }
        report.runs.append(session.recorder("control: swapped blocks").run(engine, variant: 0, user: 1))
        try finish(report, session, closes: true)
    }

    private func finish(_ report: DemoReport, _ session: Session, closes: Bool) throws {
        var report = report
        report.corruptBlocks = session.cache.statistics.corruptBlocks
        report.diskBytes = session.cache.statistics.disk.bytes
        if closes { session.cache.close() }
        var line = try JSONEncoder().encode(report)
        line.append(0x0A)
        try FileHandle.standardOutput.write(contentsOf: line)
    }
}
