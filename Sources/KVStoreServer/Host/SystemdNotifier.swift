internal import Glibc

/// Tells systemd how the service is (sd_notify(3)). Does nothing when nobody asked.
package struct SystemdNotifier: Sendable {
    private let address: String?
    /// The service is killed unless `watchdog` is sent this often; nil when nobody watches.
    package let watchdogMicroseconds: Int?

    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    package init(environment: [String: String]) {
        address = environment["NOTIFY_SOCKET"].flatMap { $0.hasPrefix("/") || $0.hasPrefix("@") ? $0 : nil }
        let isForUs = environment["WATCHDOG_PID"].map { Int32($0) == getpid() } ?? true
        let interval = environment["WATCHDOG_USEC"].flatMap { Int($0) }.flatMap { $0 > 0 ? $0 : nil }
        watchdogMicroseconds = isForUs ? interval : nil
    }

    /// Whether systemd listens.
    package var isConnected: Bool { address != nil }

    /// The service accepts connections.
    package func ready(status: String) { send("READY=1\nSTATUS=\(oneLine(status))") }
    /// What `systemctl status` shows.
    package func status(_ text: String) { send("STATUS=\(oneLine(text))") }
    /// The service ends.
    package func stopping() { send("STOPPING=1\nSTATUS=draining") }
    /// The event loops turn.
    package func watchdog() { send("WATCHDOG=1") }
    /// A reload began. systemd wants to know when (Type=notify-reload), and to hear READY again afterwards.
    package func reloading(monotonicMicroseconds: UInt64) {
        send("RELOADING=1\nMONOTONIC_USEC=\(monotonicMicroseconds)")
    }

    private func oneLine(_ text: String) -> String { text.split(whereSeparator: \.isNewline).joined(separator: " ") }

    /// Never waits: the socket does not block, and a lost message is systemd's loss.
    private func send(_ message: String) {
        guard let address, let socket = try? LinuxCalls.makeUnixSocket(isDatagram: true) else { return }
        defer { close(socket) }
        _ = LinuxCalls.send(message, over: socket, to: address)
    }
}
