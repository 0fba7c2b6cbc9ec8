import ArgumentParser
import KVStoreIPC

/// `kvstore top`: what the daemon does right now, drawn again and again.
struct TopCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "top",
        abstract: "Watch a daemon: rates, hit ratio over time, tenants, hottest prefixes.",
        discussion: """
            Ctrl-C ends it. When standard output is no terminal, one screen is printed: two looks, --interval apart. \
            Hottest prefixes and other tenants are shown to operators only. Prefixes are named by hashes that are made \
            anew with every start of the daemon and tell nothing about their tokens.

            Examples:
              kvstore top
              kvstore top --interval 0.5

            For programs there is `kvstore stats --watch --json`. Exit codes: 0 shown; 2 no answer, or refused.
            """
    )

    @OptionGroup var daemon: DaemonOptions
    @Option(help: "Seconds between two looks. (default: 2)")
    var interval = 2.0
    @Option(help: "How many prefixes to show, at most. (default: 10)")
    var prefixes = 10

    func validate() throws {
        if !(interval >= 0.1 && interval <= 3600) {
            throw ValidationError("--interval is \(interval); it must be 0.1 to 3600 seconds")
        }
        if !(0...1000).contains(prefixes) { throw ValidationError("--prefixes is \(prefixes); it must be 0 to 1000") }
    }

    func run() throws {
        try daemon.run("top") { client in
            let screen = Terminal.isOutputInteractive ? LiveScreen() : nil
            Interruption.watch()
            var (previous, history): (TopSample?, [Double?]) = (nil, [])
            while !Interruption.isRequested {
                let current = try sample(client)
                if let last = previous, !TopView.isSameDaemon(last, current) { previous = nil }
                if let previous { history.append(TopView.hitRatio(from: previous, to: current)) }
                history = history.suffix(512)
                var view = TopView(previous: previous, current: current, history: history)
                if let screen {
                    (view.columns, view.rows) = Terminal.outputSize
                    view.rows -= 1
                    screen.draw(view.text)
                } else if previous != nil {
                    view.columns = 200
                    view.rows = 200
                    return Terminal.print(view.text)
                }
                previous = current
                Terminal.pause(seconds: interval)
            }
        }
    }

    private func sample(_ client: DaemonClient) throws -> TopSample {
        let statistics = try client.statistics(hottest: prefixes)
        return TopSample(seconds: Terminal.monotonicSeconds, statistics: statistics)
    }
}

/// The terminal's second screen, drawn over and over; the first one and the cursor come back with the end of the value.
final class LiveScreen {
    // Plain ANSI: 1049 is the alternate screen, 25 the cursor.
    init() { Terminal.print("\u{1B}[?1049h\u{1B}[?25l") }

    deinit { Terminal.print("\u{1B}[?25h\u{1B}[?1049l") }

    /// Each line is cleared to its end and the rest of the screen after the last: no flicker from clearing it all first.
    func draw(_ text: String) {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
        Terminal.print("\u{1B}[H" + lines.map { $0 + "\u{1B}[K\r\n" }.joined() + "\u{1B}[J")
    }
}
