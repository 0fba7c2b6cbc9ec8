import Glibc
import KVStore
import KVStoreTestSupport
import Synchronization

/// Opens one directory after the other, as standard input names them, and says what is found in each.
///
/// ```
/// in:  PATH FIRST-ID COUNT      conversations FIRST-ID ..< FIRST-ID + COUNT are looked for
/// out: warm W wrong N corrupt N warnings N written W ms N found ID:BLOCKS,ID:BLOCKS,… problem TEXT
/// ```
struct CheckLoop {
    private final class Warnings: Sendable {
        let count = Atomic<Int>(0)
    }

    func run() {
        say("ready")
        while let line = readLine() {
            let words = line.split(separator: " ")
            do {
                try check(path: String(words[0]), ids: Int(words[1])!..<Int(words[1])! + Int(words[2])!)
            } catch {
                say("error \(error)")
            }
        }
    }

    private func check(path: String, ids: Range<Int>) throws {
        let warnings = Warnings()
        var disk = DiskConfiguration(path: path, capacityBytes: 64 << 20)
        disk.writeBackDelaySeconds = nil
        var configuration = Configuration(memoryCapacityBytes: 16 << 20, disk: disk)
        configuration.onEvent = { if $0.severity == .warning { warnings.count.add(1, ordering: .relaxed) } }
        let start = nanosecondsNow()
        let store = try BlockStore(configuration)
        let isWarm = store.waitUntilWarm()
        let milliseconds = (nanosecondsNow() - start) / 1_000_000
        let spaces = try Conversation.namespaces(of: store)
        var wrong = 0
        var found: [String] = []
        // Twice: a damaged block only costs what builds on it, so a second look finds the same.
        for round in 0..<2 {
            var seen: [String] = []
            for id in ids {
                let conversation = Conversation(id: id)
                let prefix = conversation.prefix(spaces)
                guard let lease = store.acquire(prefix) else { continue }
                for number in 0..<lease.count
                where !lease.withBytes(at: number, { Payload.matches($0, key: prefix.keys[number]) }) { wrong += 1 }
                seen.append("\(id):\(lease.count)")
            }
            if round > 0, seen != found { wrong += 1 }
            found = seen
        }
        // The tier works on: what is stored now is written.
        let fresh = Conversation(id: 900_000).prefix(spaces, turns: 3)
        store.store(fresh) { number, span in Payload.fill(&span, key: fresh.keys[number]) }
        let statistics = store.statistics
        let flushed = store.flush()
        let problem = store.statistics.diskProblem ?? "-"
        let corrupt = statistics.corruptBlocks
        let warned = warnings.count.load(ordering: .relaxed)
        store.close()
        say(
            "warm \(isWarm ? 1 : 0) wrong \(wrong) corrupt \(corrupt) warnings \(warned) "
                + "written \(flushed.refusedBlocks == 0 ? 1 : 0) ms \(milliseconds) "
                + "found \(found.isEmpty ? "-" : found.joined(separator: ",")) problem \(problem)"
        )
    }
}
