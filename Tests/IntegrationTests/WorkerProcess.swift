import Foundation
import Testing

/// A running `CrashWorker`: lines in, lines out, and how it ended.
final class WorkerProcess {
    private let identifier: pid_t
    private let input: Int32
    private let output: Int32
    private var buffered: [UInt8] = []
    private var isOver = false

    /// The binary lies beside the test bundle.
    static let path: String = {
        let own =
            (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? CommandLine.arguments[0]
        let folders = [own, Bundle.main.bundlePath, Bundle.main.executablePath ?? own].map {
            URL(fileURLWithPath: $0).deletingLastPathComponent().path
        }
        return folders.map { $0 + "/CrashWorker" }.first { FileManager.default.isExecutableFile(atPath: $0) }
            ?? "CrashWorker (not built)"
    }()

    init(_ arguments: [String]) throws {
        // Close-on-exec, or children of tests that run beside this one would keep the pipes open.
        var (toChild, fromChild): ([Int32], [Int32]) = ([-1, -1], [-1, -1])
        guard pipe(&toChild) == 0, pipe(&fromChild) == 0 else { throw WorkerError("no pipe") }
        for descriptor in toChild + fromChild { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_adddup2(&actions, toChild[0], STDIN_FILENO)
        posix_spawn_file_actions_adddup2(&actions, fromChild[1], STDOUT_FILENO)
        let words = ([Self.path] + arguments).map { strdup($0) } + [nil]
        setenv("SWIFT_BACKTRACE", "enable=no", 1)
        var started: pid_t = 0
        let status = posix_spawn(&started, Self.path, &actions, nil, words, environ)
        posix_spawn_file_actions_destroy(&actions)
        for word in words { free(word) }
        close(toChild[0])
        close(fromChild[1])
        identifier = started
        input = toChild[1]
        output = fromChild[0]
        guard status == 0 else {
            isOver = true
            throw WorkerError("cannot start \(Self.path): \(String(cString: strerror(status)))")
        }
        signal(SIGPIPE, SIG_IGN)
    }

    deinit {
        if !isOver { _ = killAndWait() }
        close(input)
        close(output)
    }

    func send(_ line: String) {
        let bytes = Array((line + "\n").utf8)
        _ = write(input, bytes, bytes.count)
    }

    /// The next line; nil when the worker has ended or the deadline (monotonic) has passed.
    func nextLine(untilNanoseconds deadline: UInt64) -> String? {
        while true {
            if let end = buffered.firstIndex(of: UInt8(ascii: "\n")) {
                defer { buffered.removeSubrange(...end) }
                return String(decoding: buffered[..<end], as: UTF8.self)
            }
            guard readSome(untilNanoseconds: deadline) else { return nil }
        }
    }

    /// Takes what comes until the deadline, so that the worker never waits for us. False when it has ended.
    func listen(untilNanoseconds deadline: UInt64) -> Bool {
        while nanosecondsNow() < deadline {
            if !readSome(untilNanoseconds: deadline), isAtEnd { return false }
        }
        return true
    }

    /// Whether a line that has come and was not taken yet begins with `word`.
    func hasSaid(_ word: String) -> Bool {
        buffered.split(separator: UInt8(ascii: "\n")).contains { $0.starts(with: word.utf8) }
    }

    /// Everything not yet taken, to the end. A line that is not whole is left out.
    func remainingLines() -> [String] {
        while readSome(untilNanoseconds: nanosecondsNow() + 10_000_000_000) {}
        let whole = buffered.lastIndex(of: UInt8(ascii: "\n")).map { buffered[...$0] } ?? []
        return String(decoding: whole, as: UTF8.self).split(separator: "\n").map(String.init)
    }

    private var isAtEnd = false

    private func readSome(untilNanoseconds deadline: UInt64) -> Bool {
        guard !isAtEnd else { return false }
        var waiting = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
        let now = nanosecondsNow()
        let timeout = deadline > now ? Int32(clamping: (deadline - now) / 1_000_000 + 1) : 0
        guard poll(&waiting, 1, timeout) > 0 else { return false }
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        let count = read(output, &chunk, chunk.count)
        if count <= 0 {
            isAtEnd = true
            return false
        }
        buffered.append(contentsOf: chunk[..<count])
        return true
    }

    func send(signal: Int32) { kill(identifier, signal) }

    var isAlive: Bool { !isOver && kill(identifier, 0) == 0 && waitpid(identifier, nil, WNOHANG) == 0 }

    /// kill -9. Returns the signal that ended the worker, 0 if it had exited by itself.
    func killAndWait() -> Int32 {
        kill(identifier, SIGKILL)
        return wait()
    }

    /// Lets the worker end by itself by closing its standard input.
    func wait() -> Int32 {
        var status: Int32 = 0
        while waitpid(identifier, &status, 0) < 0 && errno == EINTR {}
        isOver = true
        return status & 0x7F
    }
}

struct WorkerError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

func nanosecondsNow() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}

/// What a test of this target says at its end, for the report of a full run.
struct ResultTable {
    let name: String
    var cycles = 0
    var durableChecked = 0
    var lost = 0
    var wrong = 0
    var crashes = 0
    var slowestReopenMilliseconds = 0

    func printLine() {
        print("TABLE \(name) \(cycles) \(durableChecked) \(lost) \(wrong) \(crashes) \(slowestReopenMilliseconds)")
    }
}

/// The directory of a disk tier, seen from outside.
enum DirectoryMeasure {
    /// Allocated bytes of everything in the directory, a file with several names counted once, and its inodes.
    private static func walk(_ path: String) -> (bytes: Int, inodes: Set<UInt64>) {
        var (bytes, inodes): (Int, Set<UInt64>) = (0, [])
        var pending = [path]
        while let next = pending.popLast() {
            var info = stat()
            guard lstat(next, &info) == 0, inodes.insert(UInt64(info.st_ino)).inserted else { continue }
            bytes += Int(info.st_blocks) * 512
            guard info.st_mode & S_IFMT == S_IFDIR,
                let names = try? FileManager.default.contentsOfDirectory(atPath: next)
            else { continue }
            pending += names.map { next + "/" + $0 }
        }
        return (bytes, inodes)
    }

    static func allocatedBytes(_ path: String) -> Int { walk(path).bytes }

    /// The allocated bytes while somebody works in the directory, if they are above `limit`. A walk takes time, so files
    /// that never were there together can be counted together: only two walks that saw the same files are believed.
    static func bytesAbove(_ limit: Int, _ path: String) -> Int? {
        var last = walk(path)
        for _ in 0..<20 {
            if last.bytes <= limit { return nil }
            let again = walk(path)
            if again.inodes == last.inodes { return min(again.bytes, last.bytes) > limit ? again.bytes : nil }
            last = again
        }
        return nil
    }

    static func files(in path: String) -> [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted()
    }
}
