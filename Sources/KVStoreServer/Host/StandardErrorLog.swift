internal import Glibc
internal import KVStore
package import Logging
internal import Synchronization

/// Log lines on standard error, at most ten a second from each place in the code.
///
/// What is never logged, here or anywhere: token ids, whole keys, payload, salts, tokens.
package struct StandardErrorLog: LogHandler {
    /// Common to all copies of a logger.
    package final class Sink: Sendable {
        private struct Class: Hashable {
            var file: String
            var line: UInt
        }

        private struct Window {
            var second: Int
            var count = 0
        }

        private struct State {
            var level: Logger.Level
            var windows: [Class: Window] = [:]
        }

        private let state: Mutex<State>
        private let write: @Sendable (String) -> Void
        private let seconds: @Sendable () -> Int
        /// Lines of one place within one second.
        package static let limitPerSecond = 10

        /// - Parameters:
        ///   - seconds: a monotonic clock.
        ///   - write: takes one line.
        package init(
            level: Logger.Level,
            seconds: @escaping @Sendable () -> Int = { HostClock.monotonicSeconds() },
            write: @escaping @Sendable (String) -> Void = { StandardErrorLog.writeLine($0) }
        ) {
            state = Mutex(State(level: level))
            self.seconds = seconds
            self.write = write
        }

        /// Least level that is written; may change while the daemon runs.
        package var level: Logger.Level {
            get { state.withLock { $0.level } }
            set { state.withLock { $0.level = newValue } }
        }

        func log(_ event: LogEvent, metadata: Logger.Metadata) {
            let second = seconds()
            let place = Class(file: event.file, line: event.line)
            let suppressed = state.withLock { state -> Int? in
                var window = state.windows[place] ?? Window(second: second)
                var suppressed = 0
                if window.second != second {
                    suppressed = max(0, window.count - Self.limitPerSecond)
                    window = Window(second: second)
                }
                window.count += 1
                state.windows[place] = window
                return window.count <= Self.limitPerSecond ? suppressed : nil
            }
            guard let suppressed else { return }
            var line = "\(event.level.rawValue): \(event.message)"
            for (key, value) in metadata.sorted(by: { $0.key < $1.key }) { line += " \(key)=\(value)" }
            if suppressed > 0 { line += " (\(suppressed) like it were left out)" }
            write(line)
        }
    }

    private let sink: Sink
    package var metadata: Logger.Metadata = [:]
    package var metadataProvider: Logger.MetadataProvider?

    package init(_ sink: Sink) { self.sink = sink }

    package var logLevel: Logger.Level {
        get { sink.level }
        set { sink.level = newValue }
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        sink.log(event, metadata: metadata.merging(event.metadata ?? [:]) { $1 })
    }

    /// One `write` per line, so that lines of several threads do not mix. systemd adds the time; without it we do.
    package static func writeLine(_ text: String) {
        let line = Array((isJournal ? "kvstore: \(text)\n" : "\(HostClock.wallClockText()) kvstore: \(text)\n").utf8)
        // The buffer lives for the call. Nobody to tell if it fails.
        unsafe line.withUnsafeBytes { unsafe _ = Glibc.write(STDERR_FILENO, $0.baseAddress!, $0.count) }
    }

    // The environment's string is not looked into.
    private static let isJournal = unsafe getenv("JOURNAL_STREAM") != nil
}

/// The clocks the daemon reads.
package enum HostClock {
    /// Seconds that never jump.
    package static func monotonicSeconds() -> Int { Int(monotonicNanoseconds() / 1_000_000_000) }

    /// `2026-01-31T12:00:00Z`.
    static func wallClockText() -> String {
        var seconds = time(nil)
        var parts = unsafe tm()
        // Both fill what is passed; the text is shorter than the buffer.
        unsafe gmtime_r(&seconds, &parts)
        func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        let date = unsafe "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
        return unsafe "\(date)T\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))Z"
    }
}
