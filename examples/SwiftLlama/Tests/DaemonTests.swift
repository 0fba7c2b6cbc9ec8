import Foundation
import KVStore
import KVStoreIPC
import KVStoreTestSupport
import Logging
import Testing

@testable import KVStoreServer
@testable import SwiftLlama

@Suite("The engine with a daemon")
struct DaemonTests {
    private static func start(_ directory: TemporaryDirectory) async throws -> (Daemon, Task<Void, any Error>) {
        let file = directory.path + "/kvstore.yaml"
        try "".write(toFile: file, atomically: true, encoding: .utf8)
        let flags = [
            "socket": directory.path + "/run/k.sock", "stateDirectory": directory.path + "/state", "memory": "64MiB",
            "drainTimeout": "200ms",
        ]
        let daemon = try await Daemon.start(
            Daemon.ConfigurationSources(flags: flags, filePath: file),
            log: StandardErrorLog.Sink(level: .debug, write: { _ in }), timeLimits: SessionTimeLimits())
        return (daemon, Task { try await daemon.run() })
    }

    private static func client(_ daemon: Daemon) -> RemoteBlockStore {
        var options = ClientOptions()
        // The machine may be busy with other tests.
        options.timeoutSeconds = 30
        return RemoteBlockStore(socketPath: daemon.socketPath, options: options)
    }

    @Test(.timeLimit(.minutes(2)))
    func `two engines share a daemon and go on without it`() async throws {
        let directory = TemporaryDirectory("llama-daemon")
        let (daemon, running) = try await Self.start(directory)
        let (one, two) = (Self.client(daemon), Self.client(daemon))
        let first = CacheTests.run(try CacheTests.engine(one))
        #expect(first.outcome == CacheTests.expected && first.tiers.isEmpty)
        let engine = try CacheTests.engine(two)
        let second = CacheTests.run(engine)
        #expect(second.outcome == CacheTests.expected)
        #expect(second.tiers.count == CacheTests.loadable)
        running.cancel()
        _ = await running.result
        #expect(CacheTests.run(engine).outcome == CacheTests.expected)
        let (again, runningAgain) = try await Self.start(directory)
        let third = CacheTests.run(try CacheTests.engine(Self.client(again)))
        #expect(third.outcome == CacheTests.expected)
        runningAgain.cancel()
        _ = await runningAgain.result
    }
}
