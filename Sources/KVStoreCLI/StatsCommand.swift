import ArgumentParser
import KVStore
import KVStoreIPC

/// `kvstore stats`: every figure of a daemon as a table or as JSON.
struct StatsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stats",
        abstract: "Show what a daemon did and holds: hits by tier, misses by reason, tenants, latencies, disk.",
        discussion: """
            An operator sees all tenants, everybody else the part of his own tenant. Counts are since the daemon's start.

            Examples:
              kvstore stats
              kvstore stats --watch 5
              kvstore stats --json | jq .store.memory.hitBlocks

            Exit codes: 0 shown; 2 no answer, or refused.
            """
    )

    @OptionGroup var daemon: DaemonOptions
    @Flag(help: "Print one JSON object instead of the table.")
    var json = false
    @Option(
        defaultAsFlag: 2.0,
        help: "Print again every so many seconds, until Ctrl-C; with --json one line each time."
    )
    var watch: Double?
    @Option(help: "With --json: how many of the most used prefixes to add. (default: 0)")
    var hottest = 0

    func validate() throws {
        if let watch, !(watch >= 0.1 && watch <= 86_400) {
            throw ValidationError("--watch is \(watch); it must be 0.1 to 86400 seconds")
        }
        if !(0...1000).contains(hottest) { throw ValidationError("--hottest is \(hottest); it must be 0 to 1000") }
    }

    func run() throws {
        try daemon.run("stats") { client in
            guard let watch else { return Terminal.print(try text(try client.statistics(hottest: hottest))) }
            let screen = Terminal.isOutputInteractive && !json ? LiveScreen() : nil
            Interruption.watch()
            while !Interruption.isRequested {
                let statistics = try client.statistics(hottest: hottest)
                if let screen {
                    let rows = Terminal.outputSize.rows - 1
                    screen.draw(
                        statistics.table.split(separator: "\n", omittingEmptySubsequences: false)
                            .prefix(rows).joined(separator: "\n") + "\n")
                } else {
                    Terminal.print(json ? try JSONText.line(statistics) : statistics.table + "\n")
                }
                Terminal.pause(seconds: watch)
            }
        }
    }

    private func text(_ statistics: DaemonStatistics) throws -> String {
        json ? try JSONText.encode(statistics) : statistics.table
    }
}

/// `kvstore namespaces`: who stores what.
struct NamespacesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "namespaces",
        abstract: "List the namespaces of a daemon: tenant, model, block size, blocks in each tier.",
        discussion: """
            A namespace is named by eight hex digits of a hash that is made anew with every start of the daemon. The \
            model is shown once an engine has opened the namespace since then.

            Exit codes: 0 shown; 2 no answer, or refused.
            """
    )

    @OptionGroup var daemon: DaemonOptions
    @Flag(help: "Print a JSON array instead of the table.")
    var json = false

    func run() throws {
        try daemon.run("namespaces") { client in
            let namespaces = try client.namespaces()
            Terminal.print(json ? try JSONText.encode(namespaces) : Self.table(namespaces))
        }
    }

    static func table(_ namespaces: [NamespaceStatistics]) -> String {
        guard !namespaces.isEmpty else { return "no namespaces yet\n" }
        var table = TextTable(
            header: ["namespace", "tenant", "model", "block", "tokens", "blocks", "in memory", "on disk"],
            leftColumns: [1, 2]
        )
        for namespace in namespaces {
            table.add(
                printable(namespace.fingerprintPrefix, limit: 8),
                tenantText(namespace.tenant),
                namespace.model.isEmpty ? "(not opened yet)" : printable(namespace.model, limit: 40),
                String(describing: ByteSize(namespace.blockBytes)),
                namespace.tokensPerBlock == 0 ? "-" : "\(namespace.tokensPerBlock)",
                grouped(namespace.blocks),
                grouped(namespace.memoryBlocks),
                grouped(namespace.diskBlocks)
            )
        }
        return table.text
    }
}
