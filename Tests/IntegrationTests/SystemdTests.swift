import Foundation
import KVStoreIPC
import KVStoreTestSupport
import Testing

/// What systemd and the daemon say to each other, with the real program and this test in the place of systemd.
@Suite struct SystemdTests {
    private static func address(_ path: String) -> (sockaddr_un, socklen_t) {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        // An abstract address is written with @ and has a zero there.
        let bytes = Array(path.utf8).map { $0 == UInt8(ascii: "@") ? 0 : $0 }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let start = MemoryLayout<sockaddr_un>.offset(of: \.sun_path)!
        return (address, socklen_t(start + bytes.count))
    }

    /// A bound socket.
    private static func bound(_ path: String, type: __socket_type) throws -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(type.rawValue), 0)
        var (address, length) = address(path)
        let status = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) }
        }
        try #require(status == 0, "\(path): \(errno)")
        return descriptor
    }

    /// What systemd listens on.
    private final class NotifySocket {
        let path: String
        private let descriptor: Int32

        init(_ path: String) throws {
            self.path = path
            descriptor = try SystemdTests.bound(path, type: SOCK_DGRAM)
            var limit = timeval(tv_sec: 60, tv_usec: 0)
            setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        }

        deinit { close(descriptor) }

        func message() -> String {
            var bytes = [UInt8](repeating: 0, count: 1024)
            let count = recv(descriptor, &bytes, bytes.count, 0)
            return count < 0 ? "nothing: \(errno)" : String(decoding: bytes.prefix(count), as: UTF8.self)
        }

        /// The next message that is no heartbeat, and not only for people.
        func state() -> String {
            while true {
                let text = message()
                if text != "WATCHDOG=1", !text.hasPrefix("STATUS=") { return text }
            }
        }
    }

    // MARK: States

    @Test(arguments: [false, true])
    func `the service manager hears of every state and the heart beats`(isAbstract: Bool) throws {
        let directory = TemporaryDirectory("notify")
        let path = isAbstract ? "@kvstore-notify-\(getpid())" : directory.path + "/notify"
        let notify = try NotifySocket(path)
        let daemon = try ServiceProcess(
            in: directory, ["--socket", directory.path + "/k.sock"],
            environment: ["NOTIFY_SOCKET": path, "WATCHDOG_USEC": "300000"]
        )
        #expect(notify.state().hasPrefix("READY=1\nSTATUS=serving; "))
        // What is ready answers.
        #expect(throws: Never.self) { try DaemonClient(socketPath: directory.path + "/k.sock") }
        for _ in 0..<3 { #expect(notify.message() == "WATCHDOG=1") }

        let before = nanosecondsNow() / 1000
        kill(daemon.identifier, SIGHUP)
        let reloading = notify.state()
        let time = try #require(reloading.wholeMatch(of: /RELOADING=1\nMONOTONIC_USEC=([0-9]+)/), "\(reloading)")
        #expect((before...nanosecondsNow() / 1000).contains(try #require(UInt64(time.1))))
        #expect(notify.state().hasPrefix("READY=1\n"))

        kill(daemon.identifier, SIGTERM)
        #expect(notify.state().hasPrefix("STOPPING=1\n"))
        #expect(daemon.exitStatus() == 0)
    }

    // MARK: The socket

    private static var options: ClientOptions {
        var options = ClientOptions()
        options.timeoutSeconds = 60
        return options
    }

    @Test func `a socket that was passed is served and outlives the daemon`() throws {
        let directory = TemporaryDirectory("activated")
        let path = directory.path + "/k.sock"
        let listening = try Self.bound(path, type: SOCK_STREAM)
        defer { close(listening) }
        #expect(listen(listening, 16) == 0)
        // A path of its own is not looked at then.
        let arguments = ["--socket", directory.path + "/other.sock"]
        let notify = try NotifySocket(directory.path + "/notify")
        for _ in 0..<2 {
            // Nobody serves yet, and yet nobody is refused.
            let early = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
            defer { close(early) }
            var (address, length) = Self.address(path)
            let status = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(early, $0, length) }
            }
            #expect(status == 0)
            let daemon = try ServiceProcess(
                in: directory, arguments, environment: ["NOTIFY_SOCKET": notify.path], listening: listening)
            // Signals end it in order only from then on.
            #expect(notify.state().hasPrefix("READY=1\n"))
            let client = try DaemonClient(socketPath: path, options: Self.options)
            #expect(try client.health().state == .ready)
            #expect(try client.statistics().daemon.processID == Int(daemon.identifier))
            #expect(!FileManager.default.fileExists(atPath: directory.path + "/other.sock"))
            kill(daemon.identifier, SIGTERM)
            #expect(notify.state().hasPrefix("STOPPING=1\n"))
            #expect(daemon.exitStatus() == 0)
            #expect(FileManager.default.fileExists(atPath: path))
        }
    }

    private static let activator = "/usr/bin/systemd-socket-activate"

    @Test(.enabled(if: FileManager.default.isExecutableFile(atPath: activator), "no \(activator) here"))
    func `systemd's own activator starts it with the first client`() throws {
        let directory = TemporaryDirectory("activated")
        let path = directory.path + "/k.sock"
        let notify = try NotifySocket(directory.path + "/notify")
        let activator = [Self.activator, "--listen=\(path)", "--setenv=NOTIFY_SOCKET=\(notify.path)"]
        let daemon = try ServiceProcess(in: directory, [], prefix: activator)
        // The activator takes a moment until it listens.
        var client: DaemonClient?
        for _ in 0..<3000 where client == nil {
            client = try? DaemonClient(socketPath: path, options: Self.options)
            if client == nil { usleep(20_000) }
        }
        #expect(try client?.health().state == .ready)
        #expect(notify.state().hasPrefix("READY=1\n"))
        kill(daemon.identifier, SIGTERM)
        #expect(daemon.exitStatus() == 0)
    }

    // MARK: Installing

    private static let canInstall =
        getuid() == 0 && FileManager.default.isExecutableFile(atPath: "/usr/bin/systemd-sysusers")

    @Test(.enabled(if: canInstall, "only root installs, and only where systemd-sysusers is"))
    func `what is installed has the users and settings that the service names`() throws {
        let directory = TemporaryDirectory("install")
        let root = directory.path + "/root"
        let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../../examples/systemd/install.sh").standardized.path
        for _ in 0..<2 {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/bin/bash")
            process.arguments = [script, "--root", root, DaemonProcess.executable]
            let pipe = Pipe()
            process.standardOutput = pipe
            process.standardError = pipe
            try process.run()
            let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
            process.waitUntilExit()
            #expect(process.terminationStatus == 0 && text.contains("the configuration is good"), "\(text)")
            // The second time nothing of the user's is lost.
            let settings = root + "/etc/kvstore/kvstore.yaml"
            let handle = try FileHandle(forUpdating: URL(fileURLWithPath: settings))
            try handle.seekToEnd()
            try handle.write(contentsOf: Data("# mine\n".utf8))
        }
        func text(_ path: String) throws -> String { try String(contentsOfFile: root + path, encoding: .utf8) }
        #expect(try text("/etc/kvstore/kvstore.yaml").hasSuffix("# mine\n# mine\n"))
        let units = "/etc/systemd/system/kvstore."
        let (service, socket) = (try text(units + "service"), try text(units + "socket"))
        let users = try text("/etc/passwd").split(separator: "\n").map { $0.prefix { $0 != ":" } }
        let groups = try text("/etc/group").split(separator: "\n").map { $0.prefix { $0 != ":" } }
        for match in service.matches(of: /\n(User|SupplementaryGroups)=(.+)/)
            + socket.matches(
                of: /\n(SocketUser|SocketGroup)=(.+)/)
        {
            let known = match.1.hasSuffix("User") ? users : groups
            #expect(known.contains(match.2), "\(match.0)")
        }
        let program = try #require(service.firstMatch(of: /\nExecStart=(\S+) serve\n/))
        #expect(FileManager.default.isExecutableFile(atPath: root + program.1))
    }
}

/// `kvstore serve` as systemd starts it.
private final class ServiceProcess {
    private let process = Process()
    var identifier: pid_t { process.processIdentifier }

    /// - Parameters:
    ///   - prefix: a program that runs it, and its arguments.
    ///   - listening: a socket to pass on, as descriptor 3.
    init(
        in directory: TemporaryDirectory,
        _ arguments: [String],
        prefix: [String] = [],
        environment: [String: String] = [:],
        listening: Int32? = nil
    ) throws {
        // The shell becomes the daemon, so its number is the daemon's.
        let socket = listening == nil ? "" : "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; "
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        process.arguments =
            ["-c", socket + "export WATCHDOG_PID=$$; exec \"$@\"", "sh"] + prefix
            + [DaemonProcess.executable, "serve", "--state-directory", directory.path + "/state", "--memory", "64MiB"]
            + arguments
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        process.environment?["SWIFT_BACKTRACE"] = "enable=no"
        if let listening { process.standardInput = FileHandle(fileDescriptor: listening, closeOnDealloc: false) }
        chmod(directory.path, 0o700)
        try process.run()
    }

    deinit {
        guard process.isRunning else { return }
        kill(identifier, SIGKILL)
        process.waitUntilExit()
    }

    func exitStatus() -> Int32 {
        process.waitUntilExit()
        return process.terminationReason == .exit ? process.terminationStatus : -1
    }
}
