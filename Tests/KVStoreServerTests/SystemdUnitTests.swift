import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStoreServer

@Suite struct SystemdUnitTests {
    private static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("../../examples/systemd").standardized.path
    private static let hasAnalyze = FileManager.default.isExecutableFile(atPath: "/usr/bin/systemd-analyze")

    private static func text(_ name: String) throws -> String {
        try String(contentsOfFile: "\(folder)/\(name)", encoding: .utf8)
    }

    /// The values of a setting, as often as it is there.
    private static func values(_ key: String, in unit: String) throws -> [String] {
        try text(unit).split(separator: "\n").filter { $0.hasPrefix("\(key)=") }.map {
            String($0.dropFirst(key.count + 1))
        }
    }

    private static func analyze(_ arguments: [String]) throws -> (status: Int32, text: String) {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/systemd-analyze")
        process.arguments = arguments
        let output = Pipe()
        process.standardError = output
        process.standardOutput = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return (process.terminationStatus, text)
    }

    /// Copies of the units with a program that is there, which systemd-analyze wants.
    private static func copies(in directory: TemporaryDirectory) throws -> [String] {
        try ["kvstore.service", "kvstore.socket"].map { name in
            let path = "\(directory.path)/\(name)"
            try text(name).replacingOccurrences(of: "/usr/local/bin/kvstore", with: "/bin/true")
                .write(toFile: path, atomically: true, encoding: .utf8)
            return path
        }
    }

    @Test(.enabled(if: hasAnalyze, "no systemd-analyze here")) func `systemd accepts the units`() throws {
        let directory = TemporaryDirectory("units")
        let result = try Self.analyze(["verify"] + Self.copies(in: directory))
        // Complaints about other units of the machine are not ours.
        let ours = result.text.split(separator: "\n").filter { $0.contains("kvstore") && !$0.contains("User kvstore") }
        #expect(result.status == 0, "\(result.text)")
        #expect(ours.isEmpty, "\(result.text)")
    }

    /// Exposure from 0 to 100; 11 when this was written. What it names is the network, which the address families forbid,
    /// and users, by whom tenants are told apart.
    @Test(.enabled(if: hasAnalyze, "no systemd-analyze here")) func `the service is hardened`() throws {
        let directory = TemporaryDirectory("units")
        let service = try Self.copies(in: directory)[0]
        let result = try Self.analyze(["security", "--offline=true", "--no-pager", "--threshold=20", service])
        #expect(result.status == 0, "\(result.text.suffix(200))")
    }

    /// Calls that the daemon was seen to make and that a filter could well leave out.
    private static let calls = [
        "accept4", "bind", "connect", "epoll_pwait", "fallocate", "fcntl", "fdatasync", "flock", "fsync", "ftruncate",
        "getsockopt", "kill", "link", "madvise", "memfd_create", "mmap", "mprotect", "pidfd_open", "prctl", "pread64",
        "prlimit64", "pwrite64", "recvmsg", "rename", "rt_sigaction", "sendmsg", "setpriority", "sync_file_range",
        "tgkill", "timerfd_settime", "unlink",
    ]

    @Test(.enabled(if: hasAnalyze, "no systemd-analyze here")) func `the filter lets the daemon's calls through`()
        throws
    {
        let groups = try Self.callGroups()
        var allowed = groups["@default"] ?? []
        for line in try Self.values("SystemCallFilter", in: "kvstore.service") {
            let names = line.drop { $0 == "~" }.split(separator: " ").map(String.init)
            let calls = names.reduce(into: Set<String>()) { $0.formUnion(groups[$1] ?? [$1]) }
            if line.hasPrefix("~") { allowed.subtract(calls) } else { allowed.formUnion(calls) }
        }
        for call in Self.calls { #expect(allowed.contains(call), "\(call)") }
        for call in ["ptrace", "mount", "setuid", "chown", "sched_setaffinity", "bpf"] {
            #expect(!allowed.contains(call), "\(call)")
        }
    }

    /// What systemd's groups of calls hold, those inside them opened.
    private static func callGroups() throws -> [String: Set<String>] {
        var groups: [String: Set<String>] = [:]
        var current = ""
        for line in try analyze(["--no-pager", "syscall-filter"]).text.split(separator: "\n") {
            if line.hasPrefix("@") {
                current = String(line)
            } else if line.hasPrefix("    "), !line.contains("#") {
                groups[current, default: []].insert(line.trimmingCharacters(in: .whitespaces))
            }
        }
        func open(_ name: String) -> Set<String> {
            (groups[name] ?? []).reduce(into: []) { $0.formUnion($1.hasPrefix("@") ? open($1) : [$1]) }
        }
        return Dictionary(uniqueKeysWithValues: groups.keys.map { ($0, open($0)) })
    }

    @Test func `the units name the socket that the daemon and its clients use by default`() throws {
        #expect(try Self.values("ListenStream", in: "kvstore.socket") == [ServerConfiguration().socketPath])
        #expect(try Self.values("SocketMode", in: "kvstore.socket") == ["0660"])
        #expect(try Self.values("Type", in: "kvstore.service") == ["notify"])
        #expect(try !Self.values("WatchdogSec", in: "kvstore.service").isEmpty)
        #expect(try Self.values("PrivateUsers", in: "kvstore.service").isEmpty)
    }

    /// Clients are other users than the daemon, which without tenants would be the only one that it lets in.
    @Test func `the settings that are installed let the members of the socket's group in`() throws {
        let loaded = try LoadedConfiguration(filePath: Self.folder + "/kvstore.yaml")
        #expect(loaded.configuration.hasPublicTenant && loaded.warnings.isEmpty)
        #expect(loaded.configuration.socketPath == ServerConfiguration().socketPath)
        #expect(loaded.configuration.stateDirectory == "/var/lib/kvstore")
        #expect(try Self.values("StateDirectory", in: "kvstore.service") == ["kvstore"])
        #expect(try Self.text("install.sh").contains("$root/etc/kvstore/kvstore.yaml"))
        let variables = try Self.values("Environment", in: "kvstore.service")
        #expect(variables.contains("KVSTORE_CONFIG=/etc/kvstore/kvstore.yaml"))
        // The file system is read-only but for these.
        let directory = try #require(try Self.values("RuntimeDirectory", in: "kvstore.service").first)
        #expect(loaded.configuration.metricsListen == .unix(path: "/run/\(directory)/metrics.sock"))
    }

    @Test func `the settings with the examples in them are good as well`() throws {
        let directory = TemporaryDirectory("yaml")
        let path = directory.path + "/kvstore.yaml"
        let text = try Self.text("kvstore.yaml").replacing(/\n#(tenants:|  |operatorGroup: )/) { "\n" + $0.1 }
            .replacing("operatorGroup: adm", with: "operatorGroup: root")
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        let configuration = try LoadedConfiguration(filePath: path).configuration
        #expect(configuration.tenants.map(\.name) == ["research", "serving"])
        #expect(configuration.operatorGroup == "root")
    }
}
