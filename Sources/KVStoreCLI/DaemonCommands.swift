import ArgumentParser
import KVStoreIPC

/// `kvstore health`: for scripts and probes.
struct HealthCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "health",
        abstract: "Tell whether a daemon serves.",
        discussion: """
            Exit codes: 0 ready; 1 degraded: it serves, but without its disk, say; 2 not ready, or no answer. Reasons are \
            told to operators only.
            """
    )

    @OptionGroup var daemon: DaemonOptions
    @Flag(help: "Print one JSON object instead of text.")
    var json = false

    func run() throws {
        let options = try daemon.clientOptions(of: "health")
        let report = Self.report { () throws(ClientError) in
            try DaemonClient(socketPath: daemon.path, options: options).health()
        }
        Terminal.print(json ? try JSONText.encode(report) : Self.text(report))
        if report.exitCode != 0 { throw ExitCode(report.exitCode) }
    }

    /// No answer is an answer, too.
    static func report(_ ask: () throws(ClientError) -> HealthReport) -> HealthReport {
        do throws(ClientError) {
            return try ask()
        } catch {
            return HealthReport(state: .notReady, live: false, reasons: [error.message])
        }
    }

    static func text(_ report: HealthReport) -> String {
        let state =
            switch report.state {
            case .ready: "ready"
            case .degraded: "degraded"
            case .notReady: report.live ? "not ready" : "no answer"
            }
        return ([state] + report.reasons.map { "  " + printable($0, limit: 400) }).joined(separator: "\n") + "\n"
    }
}

/// `kvstore ping`: how long a round trip takes.
struct PingCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ping",
        abstract: "Measure round trips to a daemon.",
        discussion: "Exit codes: 0 it answers; 2 it does not."
    )

    @OptionGroup var daemon: DaemonOptions
    @Option(help: "Round trips. (default: 10)")
    var count = 10

    func validate() throws {
        if !(1...1_000_000).contains(count) { throw ValidationError("--count is \(count); it must be 1 to 1000000") }
    }

    func run() throws {
        try daemon.run("ping") { client in
            var seconds: [Double] = []
            for _ in 0..<count { seconds.append(try client.ping()) }
            Terminal.print(Self.text(seconds))
        }
    }

    static func text(_ seconds: [Double]) -> String {
        let sorted = seconds.sorted()
        func time(_ place: Int) -> String { durationText(microseconds: sorted[place] * 1_000_000) }
        let trips = sorted.count == 1 ? "1 round trip" : "\(grouped(sorted.count)) round trips"
        return "\(trips): least \(time(0)), median \(time(sorted.count / 2)), most \(time(sorted.count - 1))\n"
    }
}

/// `kvstore flush`: what is only in memory goes to disk.
struct FlushCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "flush",
        abstract: "Write everything that is only in memory to disk and wait for it.",
        discussion: "Exit codes: 0 all blocks are on disk; 1 some are not, with the reason; 2 no answer."
    )

    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        try daemon.run("flush") { client in
            let result = try client.flush()
            Terminal.print(Self.text(result.durableBlocks, result.refusedBlocks, result.reason))
            if result.refusedBlocks > 0 { throw ExitCode(1) }
        }
    }

    static func text(_ durable: Int, _ refused: Int, _ reason: String?) -> String {
        let text = "\(grouped(durable)) blocks are on disk\n"
        guard refused > 0 else { return text }
        return text
            + "\(grouped(refused)) blocks are only in memory: \(printable(reason ?? "no reason given", limit: 400))\n"
    }
}

/// `kvstore purge`: a tenant's blocks go.
struct PurgeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "purge",
        abstract: "Remove every block of a tenant, from memory and disk, for good.",
        discussion: """
            Without TENANT, the tenant that this user belongs to; another tenant takes an operator. What engines use at \
            this moment stays readable for them until they let go of it.

            Example:
              kvstore purge acme --yes

            Exit codes: 0 done; 2 no answer, or refused.
            """
    )

    @OptionGroup var daemon: DaemonOptions
    @Argument(help: "The tenant's name. (default: your own)")
    var tenant: String?
    @Flag(help: "Really do it.")
    var yes = false

    func validate() throws {
        guard yes else {
            let whose = tenant.map { "tenant '\($0)'" } ?? "your tenant"
            throw ValidationError("this removes every block of \(whose) for good; add --yes to do it")
        }
    }

    func run() throws {
        try daemon.run("purge") { client in
            Terminal.print("\(grouped(try client.purge(tenant: tenant))) blocks removed\n")
        }
    }
}
