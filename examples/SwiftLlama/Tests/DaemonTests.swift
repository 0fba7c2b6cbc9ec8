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

    /// What happens to a daemon, and after how many passes of an engine over a prompt of four.
    @Test(.timeLimit(.minutes(2)), arguments: [SIGKILL, SIGSTOP], [0, 1, 3])
    func `a daemon that ends or hangs in the middle of a request changes nothing`(_ signal: Int32, passes: Int) throws {
        let daemon = try DaemonOfItsOwn()
        let storing = CacheTests.run(try CacheTests.engine(daemon.client(timeoutSeconds: 30)))
        #expect(storing.outcome == CacheTests.expected)
        // One prompt is stored, of the other nothing; the engine holds a lease on the first when it happens.
        let engine = try CacheTests.engine(daemon.client(timeoutSeconds: 0.3))
        let fresh = TestModel.prompt(203).map { $0 ^ 1 }
        let requests = [CacheTests.prompt, fresh].map {
            engine.submit($0, maximumNewTokens: 12, keepsLogits: true)
        }
        for _ in 0..<passes { _ = engine.step() }
        if passes > 0 { #expect(requests[0].loadedTiers.count == CacheTests.loadable) }
        daemon.send(signal)
        engine.run()
        #expect(Outcome(requests[0], engine) == CacheTests.expected)
        #expect(Outcome(requests[1], engine) == Engine(TestModel.model, options: .blocks()).outcome(fresh))
        print("signal \(signal) after \(passes) passes: the engine waited \(engine.cacheSeconds) s for its cache")
    }
}

/// `kvstore serve` as a process, on a socket in a new directory; it ends with the object.
private final class DaemonOfItsOwn {
    private let directory = TemporaryDirectory("llama-daemon")
    private let process = Process()
    private var socketPath: String { directory.path + "/k.sock" }

    init() throws {
        process.executableURL = try CommandTests.path(of: "kvstore")
        process.arguments = [
            "serve", "--socket", socketPath, "--state-directory", directory.path + "/state", "--memory", "64MiB",
        ]
        process.standardError = FileHandle.nullDevice
        chmod(directory.path, 0o700)
        try process.run()
        while (try? DaemonClient(socketPath: socketPath)) == nil {
            try #require(process.isRunning, "the daemon ended")
            usleep(10_000)
        }
    }

    deinit {
        send(SIGKILL)
        process.waitUntilExit()
    }

    func send(_ signal: Int32) { kill(process.processIdentifier, signal) }

    func client(timeoutSeconds: Double) -> RemoteBlockStore {
        var options = ClientOptions()
        options.timeoutSeconds = timeoutSeconds
        return RemoteBlockStore(socketPath: socketPath, options: options)
    }
}
