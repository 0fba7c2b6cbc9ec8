import Foundation
import KVStore
import KVStoreTestSupport
import Logging
import Synchronization
import Testing

@testable import KVStoreIPC
@testable import KVStoreServer

/// A daemon in this process on a socket of its own, and what it logged.
final class DaemonHarness: Sendable {
    let daemon: Daemon
    let lines = Inbox<String>()
    private let running: Task<Void, any Error>

    /// Starts one in `directory`, which may hold what an earlier one left.
    init(
        in directory: TemporaryDirectory,
        _ settings: [String: String] = [:],
        tenants: String = "",
        timeLimits: SessionTimeLimits = SessionTimeLimits()
    ) async throws {
        var flags = [
            "socket": directory.path + "/run/k.sock", "stateDirectory": directory.path + "/state", "memory": "64MiB",
            "drainTimeout": "200ms",
        ]
        flags.merge(settings) { $1 }
        let file = directory.path + "/kvstore.yaml"
        try tenants.write(toFile: file, atomically: true, encoding: .utf8)
        let lines = lines
        daemon = try await Daemon.start(
            Daemon.ConfigurationSources(flags: flags, filePath: file),
            log: StandardErrorLog.Sink(level: .debug, write: { lines.put($0) }),
            timeLimits: timeLimits
        )
        let daemon = daemon
        running = Task { try await daemon.run() }
    }

    var context: ServerContext { daemon.context }
    var path: String { daemon.socketPath }

    func stop() async {
        running.cancel()
        _ = await running.result
    }

    /// A token of 40 characters in a file that the daemon accepts.
    static func makeToken(_ letter: Character, in directory: TemporaryDirectory) throws -> [UInt8] {
        let text = String(repeating: letter, count: 40)
        let path = directory.path + "/\(letter).token"
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        try setPermissions(0o600, path)
        return Array(text.utf8)
    }

    static func options(token: [UInt8] = []) -> ClientOptions {
        var options = ClientOptions()
        // The machine may be busy with other tests.
        options.timeoutSeconds = 30
        options.token = token
        return options
    }

    func client(token: [UInt8] = []) -> RemoteBlockStore {
        RemoteBlockStore(socketPath: path, options: Self.options(token: token))
    }

    func connection(token: [UInt8] = []) throws -> ClientConnection {
        try ClientConnection.open(path: path, options: Self.options(token: token), deadline: farAway)
    }

    /// Waits until something holds; the generous limit only turns a hang into a failure.
    func eventually(_ condition: () -> Bool) async -> Bool {
        for _ in 0..<3000 {
            if condition() { return true }
            try? await Task.sleep(for: .milliseconds(10))
        }
        return condition()
    }
}

let farAway = UInt64.max / 2

/// Stores a prefix of `count` blocks and returns it.
func storeBlocks(_ store: some BlockCache, _ namespace: Namespace, _ path: [Int]) -> Prefix {
    let prefix = namespace.prefix(path)
    store.store(prefix) { number, bytes in Payload.fill(&bytes, key: prefix.keys[number]) }
    return prefix
}

/// How many leading blocks are there, with the right bytes; -1 when a byte is wrong.
func checkBlocks(_ store: some BlockCache, _ prefix: Prefix) -> Int {
    guard let lease = store.acquire(prefix, memoryOnly: false) else { return 0 }
    for index in 0..<lease.count {
        let isRight = lease.withBytes(at: index) { Payload.matches($0, key: prefix.keys[index]) }
        if !isRight { return -1 }
    }
    return lease.isCurrent ? lease.count : -1
}
