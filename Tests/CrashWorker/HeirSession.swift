import Foundation
import KVStoreIPC
import KVStoreTestSupport

/// A client of a daemon that holds a lease and has a child with the same socket, as an engine that forks workers has.
///
/// ```
/// heir PID SOCKETS     the child, and how many sockets it inherited
/// ```
enum HeirSession {
    static func run(socketPath: String) throws {
        let store = RemoteBlockStore(socketPath: socketPath)
        let prefix = try SharedPrompts(store).prefix(0)
        store.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
        guard let lease = store.acquire(prefix) else { return say("no hit") }
        let (child, count) = try spawnHeir()
        say("heir \(child) \(count)")
        while readLine() != nil {}
        say("held \(lease.count)")
    }

    private static func spawnHeir() throws -> (child: pid_t, socketCount: Int) {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        // The parent's pipes are not to live on.
        for descriptor in Int32(0)..<3 {
            posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_RDWR, 0)
        }
        var count = 0
        for name in try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd") {
            let target = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\(name)")
            guard let descriptor = Int32(name), descriptor > 2, target?.hasPrefix("socket:") == true else { continue }
            // Onto itself: glibc then takes close-on-exec off.
            posix_spawn_file_actions_adddup2(&actions, descriptor, descriptor)
            count += 1
        }
        let words: [UnsafeMutablePointer<CChar>?] = [strdup("sleep"), strdup("600"), nil]
        defer { for word in words { free(word) } }
        var child: pid_t = 0
        guard posix_spawnp(&child, "sleep", &actions, nil, words, environ) == 0 else {
            throw CocoaError(.fileNoSuchFile)
        }
        return (child, count)
    }
}
