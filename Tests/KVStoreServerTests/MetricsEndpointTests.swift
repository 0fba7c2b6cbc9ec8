import Foundation
import KVStoreTestSupport
import NIOCore
import NIOPosix
import Testing

@testable import KVStoreServer

/// Sends raw bytes and returns everything until the other end closes.
private func exchange(_ request: String, _ address: sockaddr_un) -> String {
    var address = address
    let socket = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(socket) }
    let status = withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            connect(socket, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
    }
    guard status == 0 else { return "cannot connect: \(errno)" }
    let bytes = Array(request.utf8)
    var sent = 0
    while sent < bytes.count {
        let count = bytes.withUnsafeBytes { send(socket, $0.baseAddress! + sent, $0.count - sent, Int32(MSG_NOSIGNAL)) }
        if count <= 0 { break }
        sent += count
    }
    var answer: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65536)
    while true {
        let count = recv(socket, &chunk, chunk.count, 0)
        if count <= 0 { break }
        answer += chunk[..<count]
    }
    return String(decoding: answer, as: UTF8.self)
}

@Suite struct MetricsEndpointTests {
    private let directory = TemporaryDirectory("metrics")

    private func withEndpoint(_ body: (sockaddr_un) throws -> Void) async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let workers = NIOThreadPool(numberOfThreads: 1)
        workers.start()
        let path = directory.path + "/run/metrics.sock"
        let endpoint = try await MetricsEndpoint.start(
            .unix(path: path),
            content: MetricsEndpoint.Content(
                metrics: { "labels_\($0 ? "with" : "without")_tenants 1\n" },
                health: { (false, "degraded") }
            ),
            group: group,
            workers: workers
        )
        let address = try SocketAddress(unixDomainSocketPath: path)
        guard case .unixDomainSocket(let unix) = address else { preconditionFailure() }
        let result = Result { try body(unix.address) }
        await endpoint.stop()
        #expect(!FileManager.default.fileExists(atPath: path))
        try await workers.shutdownGracefully()
        try await group.shutdownGracefully()
        try result.get()
    }

    @Test func `metrics and health are served and everything else is refused`() async throws {
        try await withEndpoint { address in
            let metrics = exchange("GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n", address)
            #expect(metrics.hasPrefix("HTTP/1.1 200") && metrics.hasSuffix("labels_with_tenants 1\n"))
            let health = exchange("GET /health HTTP/1.1\r\nHost: x\r\n\r\n", address)
            #expect(health.hasPrefix("HTTP/1.1 503") && health.hasSuffix("degraded\n"))
            let head = exchange("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", address)
            #expect(head.hasPrefix("HTTP/1.1 200") && !head.contains("tenants"))
            #expect(exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n", address).hasPrefix("HTTP/1.1 404"))
            #expect(exchange("DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", address).hasPrefix("HTTP/1.1 405"))
            let body = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
            #expect(exchange(body, address).hasPrefix("HTTP/1.1 413"))
        }
    }

    @Test func `garbage and endless headers end the connection and leave the endpoint serving`() async throws {
        try await withEndpoint { address in
            _ = exchange("\u{0}\u{1}\u{2} nonsense\r\n\r\n", address)
            _ = exchange(
                "GET /metrics HTTP/1.1\r\n"
                    + String(repeating: "X-Long: \(String(repeating: "y", count: 1000))\r\n", count: 500), address)
            #expect(exchange("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", address).hasPrefix("HTTP/1.1 200"))
        }
    }

    @Test func `tenants are not named on TCP`() async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let workers = NIOThreadPool(numberOfThreads: 1)
        workers.start()
        let endpoint = try await MetricsEndpoint.start(
            .loopback(host: "127.0.0.1", port: 0),
            content: MetricsEndpoint.Content(metrics: { "named \($0)\n" }, health: { (true, "ready") }),
            group: group,
            workers: workers
        )
        let port = try #require(endpoint.port)
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/bash")
        process.arguments = [
            "-c",
            "exec 3<>/dev/tcp/127.0.0.1/\(port); printf 'GET /metrics HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; cat <&3",
        ]
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        #expect(text.hasSuffix("named false\n"))
        await endpoint.stop()
        try await workers.shutdownGracefully()
        try await group.shutdownGracefully()
    }
}
