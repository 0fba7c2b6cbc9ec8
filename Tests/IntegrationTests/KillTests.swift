import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

/// `kill -9` at random moments. Half of the cycles work on a directory whose cap is never reached, so that nothing is
/// ever evicted and every promise can be held against what is found; the other half on one that is always full.
///
/// In the first, a flush is believed for what was stored before it when the worker's counters say that nothing had been
/// refused, dropped or evicted; and in `calm` sessions, where memory is never short either, the worker tells when
/// write-back has caught up: everything stored before that must be there without any flush. How long that takes is
/// printed and not judged, since it is the machine's affair; late kills wait until it has happened.
@Suite("A store that is killed", .serialized)
struct KillTests {
    static let delaySeconds = 0.3
    static let writeBackLimitNanoseconds: UInt64 = 120_000_000_000
    static let cycleCount = TestScale.pick(default: 52, full: 208)

    @Test func `keeps what it promised and nothing else`() throws {
        let seed = TestScale.seed
        var random = SeededRandom(seed: seed)
        var roomy = KillTrial(name: "kill-roomy", capacityBytes: 512 << 20, seed: seed)
        var tight = KillTrial(name: "kill-tight", capacityBytes: 64 << 20, seed: seed)
        for cycle in 0..<Self.cycleCount {
            if cycle % 2 == 0 {
                let isLate = cycle % 8 == 0
                try roomy.run(
                    kind: isLate || cycle % 8 == 2 ? "calm" : "roomy",
                    isLate: isLate,
                    verifies: true,
                    &random
                )
            } else {
                // Sometimes a second kill finds what the first one left.
                try tight.run(kind: "tight", isLate: false, verifies: cycle % 6 != 1, &random)
            }
        }
        // A slow machine writes less between two kills, and needs more of them to fill the directory.
        for _ in 0..<10 * Self.cycleCount where tight.highestDiskBytes <= tight.capacityBytes / 2 {
            try tight.run(kind: "tight", isLate: false, verifies: true, &random)
        }
        for trial in [roomy, tight] {
            trial.table.printLine()
            print(trial.summary)
        }
        #expect(roomy.table.durableChecked > Self.cycleCount * 20)
        #expect(roomy.writtenBackTurns > Self.cycleCount)
        #expect(tight.highestDiskBytes > tight.capacityBytes / 2, "the directory was never full")
        #expect(
            tight.lowestKeptBytes > tight.capacityBytes / 4,
            "a kill cost more than eviction may: \(tight.lowestKeptBytes)"
        )
    }
}

/// Cycles on one directory.
struct KillTrial {
    let capacityBytes: Int
    var table: ResultTable
    var highestDiskBytes = 0
    private let directory = TemporaryDirectory("kill")
    private let seed: UInt64
    private var model = KillModel()
    private var nextID = 0
    private var measurements = 0
    private var highestIndexed = 0
    /// Raw bytes of the blocks found after a kill, once the directory had been filled.
    private(set) var lowestKeptBytes = Int.max
    private var wasFull = false
    /// What had been removed when the worker was killed.
    private var removals: [Removal] = []

    init(name: String, capacityBytes: Int, seed: UInt64) {
        table = ResultTable(name: name)
        self.capacityBytes = capacityBytes
        self.seed = seed
    }

    var writtenBackTurns: Int { model.writtenBackTurns }
    private var isRoomy: Bool { capacityBytes > 64 << 20 }
    private var path: String { directory.path + "/store" }
    private var place: Comment { "seed \(seed), \(table.name) cycle \(table.cycles)" }

    var summary: String {
        "\(table.name): \(model.records.count) conversations, up to \(highestIndexed) blocks indexed, "
            + "\(model.flushesBelieved) flushes believed, \(writtenBackTurns) turns by write-back (the slowest after "
            + "\(model.longestWriteBackNanoseconds / 1_000_000) ms), "
            + "\(measurements) measurements of the directory, highest \(highestDiskBytes >> 20) MiB; "
            + "memory at most \(model.highestMemoryBytes) bytes"
            + (wasFull ? "; at least \(lowestKeptBytes >> 20) MiB of blocks kept by a kill" : "")
    }

    mutating func run(kind: String, isLate: Bool, verifies: Bool, _ random: inout SeededRandom) throws {
        table.cycles += 1
        let state = directory.path + "/state"
        try model.stateLines.write(toFile: state, atomically: true, encoding: .utf8)
        let worker = try WorkerProcess([
            "load", path, state, "\(random.next() >> 16)", kind, "\(nextID)", "\(capacityBytes)",
            "\(KillTests.delaySeconds)",
        ])
        nextID += 3000
        let start = nanosecondsNow()
        let end = start + UInt64.random(in: 30...600, using: &random) * 1_000_000
        var isAlive = true
        var isDone = false
        while isAlive, !isDone {
            isAlive = worker.listen(untilNanoseconds: nanosecondsNow() + 15_000_000)
            measureDuringLoad()
            isDone = nanosecondsNow() >= end && (!isLate || worker.hasSaid("written"))
            if nanosecondsNow() > start + KillTests.writeBackLimitNanoseconds {
                #expect(isDone, "write-back never caught up; \(place)")
                break
            }
        }
        let signal = worker.killAndWait()
        if !isAlive || signal != SIGKILL { table.crashes += 1 }
        #expect(isAlive && signal == SIGKILL, "the worker ended by itself; \(place)")
        model.read(worker.remainingLines())
        #expect(model.complaints.isEmpty, "\(place)")
        let bytes = DirectoryMeasure.allocatedBytes(path)
        highestDiskBytes = max(highestDiskBytes, bytes)
        #expect(bytes <= capacityBytes, "after the kill; \(place)")
        #expect(model.highestMemoryBytes <= 16 << 20, "\(place)")
        if !isRoomy { model.requireNothing() }
        let copy = directory.path + "/removals.log"
        try? FileManager.default.removeItem(atPath: copy)
        try? FileManager.default.copyItem(atPath: path + "/removals.log", toPath: copy)
        removals = try RemovalsLog.open(copy).removals.removals
        if verifies { try verify() }
    }

    private mutating func measureDuringLoad() {
        measurements += 1
        if let bytes = DirectoryMeasure.bytesAbove(capacityBytes, path) {
            #expect(bytes <= capacityBytes, "during load; \(place)")
        }
    }

    /// Opens the directory in this process and holds everything in it against the model.
    private mutating func verify() throws {
        var disk = DiskConfiguration(path: path, capacityBytes: capacityBytes)
        disk.writeBackDelaySeconds = nil
        disk.flushOnClose = false
        let start = nanosecondsNow()
        let store = try BlockStore(Configuration(memoryCapacityBytes: 32 << 20, disk: disk))
        #expect(store.waitUntilWarm(), "\(store.statistics.diskProblem ?? ""); \(place)")
        table.slowestReopenMilliseconds = max(
            table.slowestReopenMilliseconds,
            Int((nanosecondsNow() - start) / 1_000_000)
        )
        let spaces = try Conversation.namespaces(of: store)
        var indexed = indexedKeys(store)
        highestIndexed = max(highestIndexed, indexed.count)
        let keptBytes = store.core.with { core in
            (0..<EntryID(core.entries.highWater)).reduce(0) { sum, id in
                sum + (core.entries[id].isOnDisk ? core.namespaces[Int(core.entries[id].namespace)].blockByteCount : 0)
            }
        }
        if wasFull { lowestKeptBytes = min(lowestKeptBytes, keptBytes) }
        if highestDiskBytes > capacityBytes * 3 / 4 { wasFull = true }
        for id in model.records.keys.sorted() { check(id, store, spaces, &indexed) }
        // Conversations that nobody heard of: the worker was killed between a commit and its line.
        for id in max(0, nextID - 6000)..<nextID where model.records[id] == nil && !indexed.isEmpty {
            checkUnheardOf(id, store, spaces, &indexed)
        }
        #expect(indexed.isEmpty, "blocks that no prefix leads to; \(place)")
        let statistics = store.statistics
        #expect(statistics.corruptBlocks == 0, "\(place)")
        #expect(statistics.memory.bytes <= statistics.memory.capacityBytes, "\(place)")
        store.close()
        #expect(DirectoryMeasure.files(in: path + "/incoming").isEmpty, "\(place)")
        #expect(!FileManager.default.fileExists(atPath: path + "/salvage"), "\(place)")
        #expect(DirectoryMeasure.allocatedBytes(path) <= capacityBytes, "after the reopen; \(place)")
    }

    /// Keys of all blocks on disk. Each must lead to a root over blocks that are on disk too.
    private func indexedKeys(_ store: BlockStore) -> Set<BlockKey> {
        let (keys, unreachable) = store.core.with { core -> (Set<BlockKey>, Int) in
            var (keys, unreachable): (Set<BlockKey>, Int) = ([], 0)
            for id in 0..<EntryID(core.entries.highWater) where core.entries[id].isOnDisk {
                keys.insert(core.entries[id].key)
                var parent = core.entries[id].parent
                while parent != .none, core.entries[parent].isOnDisk { parent = core.entries[parent].parent }
                if parent != .none { unreachable += 1 }
            }
            return (keys, unreachable)
        }
        #expect(unreachable == 0, "\(place)")
        return keys
    }

    private mutating func check(
        _ id: Int,
        _ store: BlockStore,
        _ spaces: [Namespace],
        _ indexed: inout Set<BlockKey>
    ) {
        let record = model.records[id]!
        let prefix = record.conversation.prefix(spaces)
        let found = compare(prefix, record.conversation, store)
        for key in prefix.keys.prefix(found) { indexed.remove(key) }
        let turns = max(0, found - Conversation.headCount)
        table.durableChecked += record.durable.count
        let lost = record.durable.filter { $0 >= turns }.sorted()
        table.lost += lost.count
        #expect(lost.isEmpty, "turns of conversation \(id), found \(found) blocks; \(place)")
        guard isRoomy else { return }
        model.require(id, turns: min(turns, record.removingFrom ?? .max))
    }

    private mutating func checkUnheardOf(
        _ id: Int,
        _ store: BlockStore,
        _ spaces: [Namespace],
        _ indexed: inout Set<BlockKey>
    ) {
        var conversation = Conversation(id: id)
        let prefix = conversation.prefix(spaces)
        let found = compare(prefix, conversation, store)
        for key in prefix.keys.prefix(found) { indexed.remove(key) }
        guard found > Conversation.headCount else { return }
        conversation.turns = found - Conversation.headCount
        model.adopt(conversation)
        if isRoomy { model.require(id, turns: conversation.turns) }
    }

    /// Leading blocks that are found. Counts and reports those with wrong bytes, above all with bytes of a version that
    /// was removed.
    private mutating func compare(_ prefix: Prefix, _ conversation: Conversation, _ store: BlockStore) -> Int {
        guard let lease = store.acquire(prefix) else { return 0 }
        for number in 0..<lease.count {
            let version = conversation.version(ofBlock: number)
            let key = prefix.keys[number]
            if lease.withBytes(at: number, { Payload.matches($0, key: key, version: version) }) { continue }
            table.wrong += 1
            let older = (0..<version).first { old in
                lease.withBytes(at: number) { Payload.matches($0, key: key, version: old) }
            }
            let what = older == nil ? "wrong bytes" : "a removed block came back"
            let said = model.history[conversation.id, default: []].suffix(40).joined(separator: ", ")
            let place = "\(place); \(whereabouts(prefix, store)); \(said); \(model.warnings)"
            #expect(Bool(false), "\(what): block \(number) of conversation \(conversation.id); \(place)")
        }
        return lease.count
    }

    /// Where the blocks of a prefix lie on disk, and what the log of removals said of them when the worker was killed.
    private func whereabouts(_ prefix: Prefix, _ store: BlockStore) -> String {
        store.core.with { core in
            prefix.keys.enumerated().map { number, key in
                let entry = core.entries.find(key).map { core.entries[$0] }
                let place = entry.map { $0.isOnDisk ? "\($0.segment)/\($0.ordinal)" : "memory" } ?? "nowhere"
                let removed = removals.first { removal in
                    if case .block(let identity) = removal.subject { identity.key == key } else { false }
                }
                return "\(number): \(place), removed below \(removed.map { "\($0.extent)" } ?? "nothing")"
            }.joined(separator: "; ")
        }
    }
}
