/// Progress on standard error: a line that is redrawn on a terminal, a plain line now and then elsewhere.
struct ProgressBar {
    enum Mode: Hashable, Sendable {
        case silent
        case redrawn(columns: Int)
        case lines

        /// What suits the standard error of this process.
        static func fitting(isQuiet: Bool) -> Mode {
            if isQuiet { return .silent }
            return Terminal.isInteractive ? .redrawn(columns: Terminal.columnCount) : .lines
        }

        fileprivate var interval: Duration {
            switch self {
            case .silent: .seconds(1 << 30)
            case .redrawn: .milliseconds(100)
            case .lines: .seconds(5)
            }
        }
    }

    private let title: String
    private var total: Int
    private let mode: Mode
    private let start: ContinuousClock.Instant
    private var nextUpdate: ContinuousClock.Instant
    private var hasDrawn = false

    init(_ title: String, total: Int, mode: Mode) {
        self.title = title
        self.total = total
        self.mode = mode
        start = .now
        nextUpdate = .now + mode.interval
    }

    /// Call as often as you like; `note` is only made when something is shown.
    mutating func update(_ done: Int, note: () -> String = { "" }) {
        guard mode != .silent, ContinuousClock.now >= nextUpdate else { return }
        nextUpdate = .now + mode.interval
        draw(done, note())
    }

    /// For work whose extent shows only on the way.
    mutating func update(_ done: Int, of total: Int) {
        self.total = total
        update(done)
    }

    /// Removes the redrawn line, so that what follows starts on a clean one.
    mutating func finish() {
        if case .redrawn = mode, hasDrawn { Terminal.printError("\r\u{1B}[K") }
        hasDrawn = false
    }

    private mutating func draw(_ done: Int, _ note: String) {
        hasDrawn = true
        let elapsed = (ContinuousClock.now - start) / .seconds(1)
        switch mode {
        case .silent: break
        case .redrawn(let columns):
            let line = Self.line(
                title,
                done,
                total,
                elapsedSeconds: elapsed,
                note: note,
                columns: columns,
                hasBar: true
            )
            Terminal.printError("\r\(line)\u{1B}[K")
        case .lines:
            let line = Self.line(title, done, total, elapsedSeconds: elapsed, note: note, columns: 200, hasBar: false)
            Terminal.printError(line + "\n")
        }
    }

    /// One line of at most `columns` - 1 characters: the last column stays free, else some terminals wrap.
    static func line(
        _ title: String,
        _ done: Int,
        _ total: Int,
        elapsedSeconds: Double,
        note: String,
        columns: Int,
        hasBar: Bool
    ) -> String {
        let share = total > 0 ? min(1, Double(done) / Double(total)) : 0
        var line = title
        if hasBar {
            let filled = Int(share * 20)
            line += " [" + String(repeating: "#", count: filled) + String(repeating: ".", count: 20 - filled) + "]"
        }
        line += " \(decimal(share * 100, digits: 0)) %  \(grouped(done)) of \(grouped(total))"
        if !note.isEmpty { line += "  \(note)" }
        if done > 0 && done < total && elapsedSeconds > 0 {
            line += "  \(secondsText(elapsedSeconds / Double(done) * Double(total - done))) left"
        }
        return String(line.prefix(max(1, columns - 1)))
    }
}
