import Foundation
import KVStoreIPC
import KVStoreTestSupport
import Testing

/// A real `kvstore serve` in a process of its own, on a socket in a new directory.
final class DaemonProcess {
    let directory: TemporaryDirectory
    var socketPath: String { directory.path + "/k.sock" }
    var logPath: String { directory.path + "/log" }
    private let arguments: [String]
    private var process: Process?
    var identifier: pid_t { process?.processIdentifier ?? 0 }

    static let executable = URL(fileURLWithPath: WorkerProcess.path).deletingLastPathComponent().path + "/kvstore"

    /// - Parameter arguments: beside socket and state directory.
    init(_ arguments: [String], configuration: String? = nil) throws {
        directory = TemporaryDirectory("d")
        var all = ["serve", "--socket", directory.path + "/k.sock", "--state-directory", directory.path + "/state"]
        if let configuration {
            let path = directory.path + "/kvstore.yaml"
            try configuration.write(toFile: path, atomically: true, encoding: .utf8)
            all += ["--config", path]
        }
        self.arguments = all + arguments
        chmod(directory.path, 0o700)
        try start()
    }

    deinit { kill9() }

    /// Starts the daemon (again) and waits until it answers.
    func start(descriptorLimit: Int? = nil) throws {
        let process = Process()
        if let descriptorLimit {
            process.executableURL = URL(fileURLWithPath: "/bin/sh")
            process.arguments =
                ["-c", "ulimit -n \(descriptorLimit) && exec \"$0\" \"$@\"", Self.executable] + arguments
        } else {
            process.executableURL = URL(fileURLWithPath: Self.executable)
            process.arguments = arguments
        }
        var environment = ProcessInfo.processInfo.environment
        environment["SWIFT_BACKTRACE"] = "enable=no"
        process.environment = environment
        if !FileManager.default.fileExists(atPath: logPath) {
            _ = FileManager.default.createFile(atPath: logPath, contents: nil)
        }
        let log = try FileHandle(forWritingTo: URL(fileURLWithPath: logPath))
        try log.seekToEnd()
        process.standardError = log
        process.standardOutput = log
        try process.run()
        self.process = process
        for _ in 0..<1500 {
            if (try? DaemonClient(socketPath: socketPath)) != nil { return }
            guard process.isRunning else { break }
            usleep(20_000)
        }
        throw WorkerError("the daemon does not answer: \(logText.suffix(2000))")
    }

    var isRunning: Bool { process?.isRunning ?? false }
    var logText: String { (try? String(contentsOfFile: logPath, encoding: .utf8)) ?? "" }

    func kill9() {
        guard let process, process.isRunning else { return }
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    /// SIGSTOP; returns once no thread of it runs any more, which on a busy machine takes a moment.
    func stop() {
        kill(identifier, SIGSTOP)
        let tasks = "/proc/\(identifier)/task"
        func isRunning(_ task: String) -> Bool {
            let text = (try? String(contentsOfFile: "\(tasks)/\(task)/stat", encoding: .utf8)) ?? ""
            return !(text[(text.lastIndex(of: ")") ?? text.startIndex)...].hasPrefix(") T") || text.isEmpty)
        }
        while ((try? FileManager.default.contentsOfDirectory(atPath: tasks)) ?? []).contains(where: isRunning) {
            usleep(1000)
        }
    }

    /// SIGTERM, and the exit code that follows.
    func terminate() -> Int32 {
        process?.terminate()
        process?.waitUntilExit()
        return process?.terminationStatus ?? -1
    }

    func client() throws -> DaemonClient { try DaemonClient(socketPath: socketPath) }

    // MARK: Seen from outside

    /// Nil when they cannot be counted: the daemon hides them from other users than root.
    var descriptorCount: Int? {
        try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(identifier)/fd").count
    }
    /// How many descriptors it may have.
    var descriptorLimit: Int? {
        let text = (try? String(contentsOfFile: "/proc/\(identifier)/limits", encoding: .utf8)) ?? ""
        let line = text.split(separator: "\n").first { $0.hasPrefix("Max open files") }
        return line.flatMap { $0.split(separator: " ").dropFirst(3).first.flatMap { Int($0) } }
    }

    /// What the process has in memory, shared regions included.
    var residentBytes: Int { statusField("VmRSS:") << 10 }
    /// Of those, shared memory.
    var sharedBytes: Int { statusField("RssShmem:") << 10 }
    /// Of those, pages of files: code, which the kernel takes and reads again as it likes.
    var mappedFileBytes: Int { statusField("RssFile:") << 10 }
    /// Of those, the heap and other memory of its own.
    var anonymousBytes: Int { statusField("RssAnon:") << 10 }
    var threadCount: Int { statusField("Threads:") }

    private func statusField(_ name: String) -> Int {
        let text = (try? String(contentsOfFile: "/proc/\(identifier)/status", encoding: .utf8)) ?? ""
        let line = text.split(separator: "\n").first { $0.hasPrefix(name) }
        return line.flatMap {
            Int($0.split(separator: " ").dropFirst().first?.filter(\.isNumber) ?? $0.filter(\.isNumber))
        }
            ?? 0
    }

    /// Processor time used so far, in hundredths of a second.
    var processorTicks: Int {
        let text = (try? String(contentsOfFile: "/proc/\(identifier)/stat", encoding: .utf8)) ?? ""
        let fields = text[(text.lastIndex(of: ")") ?? text.startIndex)...].split(separator: " ")
        return fields.count > 13 ? (Int(fields[12]) ?? 0) + (Int(fields[13]) ?? 0) : 0
    }

    /// Waits until `condition` holds for the daemon's figures. Returns milliseconds, nil after `seconds`.
    func wait(seconds: Int, until condition: (DaemonStatistics) -> Bool) throws -> Int? {
        // Kept, so that it is one of the connections counted. It may be turned away at first, when there are too many.
        var client: DaemonClient?
        let start = nanosecondsNow()
        while nanosecondsNow() - start < UInt64(seconds) * 1_000_000_000 {
            if client == nil { client = try? self.client() }
            if let statistics = try? client?.statistics(), condition(statistics) {
                return Int((nanosecondsNow() - start) / 1_000_000)
            }
            usleep(5_000)
        }
        return nil
    }
}

/// What a worker in client mode has said so far.
struct ClientReport {
    var (verified, stored, stale, missed) = (0, 0, 0, 0)
    var complaints: [String] = []

    mutating func read(_ lines: [String]) {
        for line in lines {
            let words = line.split(separator: " ")
            let numbers = words.dropFirst().compactMap { Int($0) }
            if words.first == "did", numbers.count == 4 {
                (verified, stored, stale, missed) = (numbers[0], numbers[1], numbers[2], numbers[3])
            } else {
                complaints.append(line)
            }
        }
    }
}
