import Glibc
import Synchronization

// The only file that talks to the operating system. Everything else sees Swift values and `StartError`.

/// The command could not start or go on because of the world around it: exit code 2.
struct StartError: Error, Hashable, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// The text of the last failed system call.
private func lastErrorText() -> String {
    // strerror returns a C string that stays valid until the next call; it is copied at once.
    unsafe String(cString: strerror(errno))
}

/// Standard output and standard error.
enum Terminal {
    /// Writes text to standard output.
    static func print(_ text: String) { write(text, to: STDOUT_FILENO) }

    /// Writes text to standard error.
    static func printError(_ text: String) { write(text, to: STDERR_FILENO) }

    /// True when standard error is a terminal, so a line may be redrawn.
    static var isInteractive: Bool {
        guard isatty(STDERR_FILENO) == 1 else { return false }
        // getenv returns a C string owned by the environment; only its contents are compared.
        return unsafe getenv("TERM").map { unsafe String(cString: $0) != "dumb" } ?? false
    }

    /// Columns of the terminal on standard error; 80 when it does not say.
    static var columnCount: Int {
        var size = winsize()
        // TIOCGWINSZ fills the structure that is passed, nothing else.
        let result = unsafe ioctl(STDERR_FILENO, UInt(TIOCGWINSZ), &size)
        return result == 0 && size.ws_col > 0 ? Int(size.ws_col) : 80
    }

    /// True when standard output is a terminal that knows ANSI sequences.
    static var isOutputInteractive: Bool {
        guard isatty(STDOUT_FILENO) == 1 else { return false }
        // As above.
        return unsafe getenv("TERM").map { unsafe String(cString: $0) != "dumb" } ?? false
    }

    /// Size of the terminal on standard output; 80 by 24 when it does not say.
    static var outputSize: (columns: Int, rows: Int) {
        var size = winsize()
        // TIOCGWINSZ fills the structure that is passed, nothing else.
        let result = unsafe ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size)
        return result == 0 && size.ws_col > 0 && size.ws_row > 1 ? (Int(size.ws_col), Int(size.ws_row)) : (80, 24)
    }

    /// Seconds on a clock that does not go back.
    static var monotonicSeconds: Double {
        var time = timespec()
        // clock_gettime fills the structure that is passed.
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    /// Waits, but no longer than until Ctrl-C (see `Interruption`).
    static func pause(seconds: Double) {
        let end = monotonicSeconds + seconds
        while !Interruption.isRequested, monotonicSeconds < end {
            usleep(UInt32(min(50_000, max(1_000, (end - monotonicSeconds) * 1_000_000))))
        }
    }

    private static func write(_ text: String, to descriptor: Int32) {
        var text = text
        text.withUTF8 { bytes in
            var done = 0
            while done < bytes.count {
                // In bounds: `done` is below the count, and no more than the rest is written.
                let written = unsafe Glibc.write(descriptor, bytes.baseAddress! + done, bytes.count - done)
                if written < 0 && errno == EINTR { continue }
                if written <= 0 { return }  // A closed pipe: nobody reads, so there is nothing left to say.
                done += written
            }
        }
    }
}

/// A file or pipe that is read from front to back.
final class InputFile {
    let path: String
    private let descriptor: Int32

    /// Opens a file; the error names the path and what to do.
    init(path: String) throws(StartError) {
        // The path is passed as a C string that lives for the call.
        let opened = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard opened >= 0 else {
            let advice = errno == ENOENT ? "; check the path" : errno == EACCES ? "; check its permissions" : ""
            throw StartError("cannot open '\(path)': \(lastErrorText())\(advice)")
        }
        // From here on `deinit` closes it, also when this throws: closing it here too would hit somebody else's descriptor
        // that got the same number meanwhile.
        self.path = path
        descriptor = opened
        var status = stat()
        // fstat fills the structure that is passed.
        if unsafe fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFDIR {
            throw StartError("'\(path)' is a directory; give a file")
        }
    }

    /// Takes over a descriptor, such as the reading end of a pipe.
    init(descriptor: Int32, name: String) {
        path = name
        self.descriptor = descriptor
    }

    deinit { close(descriptor) }

    /// Up to `byteCount` bytes; empty at the end.
    func read(upTo byteCount: Int) throws(StartError) -> [UInt8] {
        var count = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: byteCount) { buffer, initialized in
            repeat {
                // The kernel writes at most `byteCount` bytes into a buffer of that size.
                unsafe count = Glibc.read(descriptor, buffer.baseAddress!, byteCount)
            } while count < 0 && errno == EINTR
            initialized = max(0, count)
        }
        guard count >= 0 else { throw StartError("cannot read '\(path)': \(lastErrorText())") }
        return bytes
    }

    /// The whole rest of the file, but never more than `limit` bytes.
    func readAll(limit: Int) throws(StartError) -> [UInt8] {
        var all: [UInt8] = []
        while true {
            let chunk = try read(upTo: min(1 << 20, limit - all.count + 1))
            if chunk.isEmpty { return all }
            all += chunk
            guard all.count <= limit else { throw StartError("'\(path)' is larger than \(ByteSize(limit))") }
        }
    }
}

/// Makes an empty directory that nobody else has, under `TMPDIR` or `/tmp`.
func makeTemporaryDirectory() throws(StartError) -> String {
    // getenv returns a C string owned by the environment; it is copied at once.
    let parent = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
    var template = Array("\(parent)/kvstore-replay-XXXXXX".utf8CString)
    // mkdtemp rewrites the X's in place and never makes the string longer.
    let made = unsafe template.withUnsafeMutableBufferPointer { unsafe mkdtemp($0.baseAddress!) != nil }
    guard made else {
        throw StartError("cannot make a directory in '\(parent)': \(lastErrorText()); set TMPDIR or give --disk-path")
    }
    return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

/// Ctrl-C and SIGTERM end a replay after the current request, so that its temporary directory is removed.
enum Interruption {
    private static let received = Atomic<Bool>(false)

    static var isRequested: Bool { received.load(ordering: .relaxed) }

    /// From here on the first signal is noted; a second one ends the process as usual.
    static func watch() {
        _ = isRequested  // The flag is set up here, not in the handler, where nothing may be allocated.
        for number in [SIGINT, SIGTERM] {
            // The handler does one atomic store and resets the signal: both are async-signal-safe.
            _ = signal(number) { number in
                Interruption.received.store(true, ordering: .relaxed)
                _ = signal(number, SIG_DFL)
            }
        }
    }
}

/// A running copy of this program whose standard output is read line by line.
final class ChildProcess {
    private let identifier: pid_t
    private let output: InputFile
    private var buffered: [UInt8] = []

    /// Starts this very binary with other arguments.
    init(arguments: [String]) throws(StartError) {
        var ends: [Int32] = [-1, -1]
        // pipe fills two descriptors, and the array has room for two.
        guard unsafe pipe(&ends) == 0 else { throw StartError("cannot make a pipe: \(lastErrorText())") }
        var actions = unsafe posix_spawn_file_actions_t()
        // The C strings live until free below; posix_spawn copies what it needs before it returns.
        let words = unsafe (["kvstore"] + arguments).map { unsafe strdup($0) } + [nil]
        var started: pid_t = 0
        unsafe posix_spawn_file_actions_init(&actions)
        unsafe posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO)
        unsafe posix_spawn_file_actions_addclose(&actions, ends[0])
        unsafe posix_spawn_file_actions_addclose(&actions, ends[1])
        let result = unsafe posix_spawn(&started, "/proc/self/exe", &actions, nil, words, environ)
        unsafe posix_spawn_file_actions_destroy(&actions)
        for index in unsafe words.indices { unsafe free(words[index]) }
        close(ends[1])
        output = InputFile(descriptor: ends[0], name: "the child's output")
        identifier = started
        guard result == 0 else {
            throw StartError("cannot start a child process: \(unsafe String(cString: strerror(result)))")
        }
    }

    /// The next line without its newline; nil when the child has closed its output.
    func nextLine() throws(StartError) -> String? {
        while true {
            if let end = buffered.firstIndex(of: UInt8(ascii: "\n")) {
                defer { buffered.removeSubrange(...end) }
                return String(decoding: buffered[..<end], as: UTF8.self)
            }
            let chunk = try output.read(upTo: 4096)
            if chunk.isEmpty { return nil }
            buffered += chunk
        }
    }

    /// kill -9: the child gets no chance to write anything.
    func killNow() { kill(identifier, SIGKILL) }

    /// Waits for the end of the child. Returns true when SIGKILL ended it, else its exit status in words.
    func wait() -> (wasKilled: Bool, status: String) {
        var status: Int32 = 0
        // waitpid fills the integer that is passed.
        while unsafe waitpid(identifier, &status, 0) < 0 && errno == EINTR {}
        let signal = status & 0x7F
        if signal != 0 { return (signal == SIGKILL, "signal \(signal)") }
        return (false, "exit code \((status >> 8) & 0xFF)")
    }
}

/// Compares two runs of bytes of the same length.
func haveEqualBytes(_ left: Slice<UnsafeRawBufferPointer>, _ right: Slice<UnsafeRawBufferPointer>) -> Bool {
    let (left, right) = unsafe (
        UnsafeRawBufferPointer(rebasing: left), UnsafeRawBufferPointer(rebasing: right)
    )
    guard left.count == right.count else { return false }
    guard unsafe !left.isEmpty else { return true }
    // Both have `left.count` bytes; a buffer that is not empty has a base address.
    return unsafe memcmp(left.baseAddress!, right.baseAddress!, left.count) == 0
}
