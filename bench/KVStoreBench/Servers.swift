import Foundation
import Glibc

/// The servers of one run: ours and those that are installed, each in a process of its own, on sockets in one directory.
final class ServerSet {
    /// A daemon for each size of blocks, so that none of them has to take memory from another's blocks.
    private(set) var ourSockets: [Int: String] = [:]
    private(set) var rivals: [Rival] = []
    private(set) var missing: [String] = []
    private var processes: [Process] = []
    private let directory: String

    init(memoryBytes: Int, blockByteCounts: [Int]) throws {
        // Short, for a socket's path has room for 107 bytes.
        directory = NSTemporaryDirectory() + "kvb-\(getpid())"
        try FileManager.default.createDirectory(
            atPath: directory,
            withIntermediateDirectories: true,
            attributes: [.posixPermissions: 0o700]
        )
        for size in blockByteCounts {
            let socket = "\(directory)/k\(size).sock"
            ourSockets[size] = socket
            try start(
                Self.ourExecutable,
                [
                    "serve", "--socket", socket, "--state-directory", "\(directory)/state-\(size)", "--memory",
                    "\(memoryBytes)", "--disk-capacity", "0", "--log-level", "error",
                ],
                socket: socket
            )
        }
        for kind in Rival.Kind.allCases {
            guard let path = Self.find(kind.executable) else {
                missing.append(kind.executable)
                continue
            }
            let rival = Rival(kind: kind, socketPath: "\(directory)/\(kind.rawValue).sock", version: Self.version(path))
            try start(path, rival.arguments(memoryBytes: memoryBytes), socket: rival.socketPath)
            rivals.append(rival)
        }
    }

    deinit {
        for process in processes where process.isRunning {
            process.terminate()
            process.waitUntilExit()
        }
        try? FileManager.default.removeItem(atPath: directory)
    }

    /// The `kvstore` that was built together with this program.
    static var ourExecutable: String {
        let own = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        return URL(fileURLWithPath: own).deletingLastPathComponent().appendingPathComponent("kvstore").path
    }

    private static func find(_ name: String) -> String? {
        ["/usr/bin", "/usr/local/bin", "/usr/sbin"].map { "\($0)/\(name)" }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    private static func version(_ path: String) -> String {
        let process = Process()
        let pipe = Pipe()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = ["--version"]
        process.standardOutput = pipe
        guard (try? process.run()) != nil else { return "unknown version" }
        let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return text.split(separator: "\n").first.map(String.init) ?? "unknown version"
    }

    private func start(_ path: String, _ arguments: [String], socket: String) throws {
        guard FileManager.default.isExecutableFile(atPath: path) else {
            throw BenchError("\(path) is not built; run: swift build -c release --product kvstore")
        }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        process.standardOutput = FileHandle.nullDevice
        try process.run()
        processes.append(process)
        for _ in 0..<500 {
            if let connection = try? StreamConnection(socket) {
                connection.close()
                return
            }
            guard process.isRunning else { break }
            usleep(20_000)
        }
        throw BenchError("\(path) \(arguments.joined(separator: " ")) does not listen at \(socket)")
    }
}

/// A server that others use for such things.
struct Rival {
    enum Kind: String, CaseIterable {
        case redis
        case memcached

        var executable: String { self == .redis ? "redis-server" : "memcached" }
    }

    enum Operation {
        case get
        case set
    }

    let kind: Kind
    let socketPath: String
    let version: String
    var name: String { kind.rawValue }

    func arguments(memoryBytes: Int) -> [String] {
        switch kind {
        case .redis:
            [
                "--port", "0", "--unixsocket", socketPath, "--save", "", "--appendonly", "no", "--maxmemory",
                "\(memoryBytes)", "--maxmemory-policy", "allkeys-lru", "--loglevel", "warning",
            ]
        case .memcached: ["-s", socketPath, "-m", "\(memoryBytes >> 20)", "-I", "64m", "-t", "2", "-u", "root"]
        }
    }

    func connect() throws -> RivalConnection { RivalConnection(self, try StreamConnection(socketPath)) }
}

/// A client of a rival: its own protocol, one request after the other.
///
/// @unchecked Sendable: each is used by one thread at a time.
final class RivalConnection: @unchecked Sendable {
    private let rival: Rival
    private let stream: StreamConnection
    private var buffer = [UInt8](repeating: 0, count: 256 << 10)

    init(_ rival: Rival, _ stream: StreamConnection) {
        self.rival = rival
        self.stream = stream
    }

    /// Median nanoseconds of an operation.
    func measure(_ operation: Rival.Operation, byteCount: Int) -> Double {
        let payload = [UInt8](repeating: 3, count: byteCount)
        if buffer.count < byteCount + 1024 { buffer = [UInt8](repeating: 0, count: byteCount + 1024) }
        let key = "block-\(byteCount)"
        set(key, payload)
        let count = max(10, min(200, (64 << 20) / byteCount))
        let values = (0..<count).map { number in
            Sample.nanoseconds {
                switch operation {
                case .get: get(key, byteCount)
                case .set: set("\(key)-\(number % 8)", payload)
                }
            }
        }
        return Sample(nanoseconds: values).median
    }

    private func get(_ key: String, _ byteCount: Int) {
        switch rival.kind {
        case .redis:
            stream.send(Array("*2\r\n$3\r\nGET\r\n$\(key.utf8.count)\r\n\(key)\r\n".utf8))
            let head = "$\(byteCount)\r\n"
            precondition(
                stream.receive(head.utf8.count + byteCount + 2, into: &buffer) && buffer.starts(with: head.utf8))
        case .memcached:
            stream.send(Array("get \(key)\r\n".utf8))
            let head = "VALUE \(key) 0 \(byteCount)\r\n"
            let all = head.utf8.count + byteCount + 2 + 5
            precondition(stream.receive(all, into: &buffer) && buffer.starts(with: head.utf8))
        }
    }

    private func set(_ key: String, _ payload: [UInt8]) {
        let answer: String
        switch rival.kind {
        case .redis:
            stream.send(Array("*3\r\n$3\r\nSET\r\n$\(key.utf8.count)\r\n\(key)\r\n$\(payload.count)\r\n".utf8))
            answer = "+OK\r\n"
        case .memcached:
            stream.send(Array("set \(key) 0 0 \(payload.count)\r\n".utf8))
            answer = "STORED\r\n"
        }
        stream.send(payload)
        stream.send(Array("\r\n".utf8))
        precondition(stream.receive(answer.utf8.count, into: &buffer) && buffer.starts(with: answer.utf8))
    }
}

/// A blocking Unix stream socket.
final class StreamConnection {
    private let descriptor: Int32

    init(_ path: String) throws {
        descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw BenchError("no socket") }
        let status = UnixAddress.with(path) { connect(descriptor, $0, $1) }
        guard status == 0 else {
            Glibc.close(descriptor)
            throw BenchError("nobody listens at \(path)")
        }
    }

    init(descriptor: Int32) { self.descriptor = descriptor }

    func close() { Glibc.close(descriptor) }

    func send(_ bytes: [UInt8]) {
        var sent = 0
        bytes.withUnsafeBytes { buffer in
            while sent < buffer.count {
                let count = write(descriptor, buffer.baseAddress! + sent, buffer.count - sent)
                precondition(count > 0, "the server is gone")
                sent += count
            }
        }
    }

    func receive(_ count: Int, into bytes: inout [UInt8]) -> Bool {
        var filled = 0
        return bytes.withUnsafeMutableBytes { buffer in
            while filled < count {
                let got = read(descriptor, buffer.baseAddress! + filled, count - filled)
                if got <= 0 { return false }
                filled += got
            }
            return true
        }
    }
}

enum UnixAddress {
    static func with<Result>(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        precondition(path.utf8.count < MemoryLayout.size(ofValue: address.sun_path), "the socket path is too long")
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
        return withUnsafePointer(to: address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }
}
