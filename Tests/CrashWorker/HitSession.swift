import Foundation
import KVStoreIPC
import KVStoreTestSupport

/// A client of a daemon that acquires and releases one prefix again and again, as fast as it can.
///
/// ```
/// hits MICROSECONDS SWITCHES     how long all of them took, and how often the client's own thread slept meanwhile
/// ```
enum HitSession {
    static func run(socketPath: String, count: Int) throws {
        let store = RemoteBlockStore(socketPath: socketPath)
        let prefix = try SharedPrompts(store).prefix(0)
        store.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
        let (start, slept) = (nanosecondsNow(), try sleepCount())
        for _ in 0..<count {
            guard store.acquire(prefix) != nil else { return say("no hit") }
        }
        say("hits \((nanosecondsNow() - start) / 1000) \(try sleepCount() - slept)")
    }

    /// Voluntary switches of the thread that tells the daemon what was given back.
    private static func sleepCount() throws -> Int {
        for task in try FileManager.default.contentsOfDirectory(atPath: "/proc/self/task") {
            let path = "/proc/self/task/\(task)"
            guard try String(contentsOfFile: path + "/comm", encoding: .utf8) == "kvstore-renew\n" else { continue }
            let status = try String(contentsOfFile: path + "/status", encoding: .utf8)
            let line = status.split(separator: "\n").first { $0.hasPrefix("voluntary_ctxt_switches:") }
            return line.flatMap { Int($0.drop { !$0.isNumber }) } ?? 0
        }
        throw CocoaError(.fileNoSuchFile)
    }
}
