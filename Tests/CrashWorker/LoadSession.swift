import Foundation
import KVStoreTestSupport
import Synchronization

@testable import KVStore

/// Random multi-turn chats on several threads, until somebody kills the process.
///
/// ```
/// open MS                          the disk tier is warm
/// stored ID TURNS NS               commit returned: turns 0 ..< TURNS were there at that time
/// removing ID TURN / removed ID TURN    before and after the removal of TURN and all that follow it
/// flushing N / flushed N REFUSED DROPPED EVICTED MEMORY    before and after a flush, with counters
/// written NS                       nothing was only in memory at some time after NS, and nobody had flushed
/// wrong ID BLOCK                   bytes that do not belong there
/// warning TEXT                     an event of the store
/// ```
/// Kinds: `calm` stores little and only what is new, so nothing has to be dropped or evicted; `roomy` also reads what
/// earlier sessions stored, so memory is short but the disk is not; `tight` stores as fast as it can.
final class LoadSession: Sendable {
    enum Kind: String { case calm, roomy, tight }

    private static let threadCount = 3
    private let directory: String
    private let seed: UInt64
    private let kind: Kind
    private let firstID: Int
    private let capacityBytes: Int
    private let delaySeconds: Double
    private let known: [Conversation]
    private let storedBytes = Atomic<Int>(0)
    private let flushes = Atomic<Int>(0)
    private let turnsSaid = Atomic<Int>(0)
    /// Held shared by every operation, exclusively by some flushes: those cover all that was stored.
    private let gate = Gate()

    private final class Gate: @unchecked Sendable {
        // A C object at a fixed address, made for sharing.
        let lock = UnsafeMutablePointer<pthread_rwlock_t>.allocate(capacity: 1)
        init() { pthread_rwlock_init(lock, nil) }
    }

    init(arguments: [String]) throws {
        directory = arguments[0]
        let text = try String(contentsOfFile: arguments[1], encoding: .utf8)
        known = text.split(separator: "\n").compactMap { Conversation(line: $0) }
        seed = UInt64(arguments[2])!
        kind = Kind(rawValue: arguments[3])!
        firstID = Int(arguments[4])!
        capacityBytes = Int(arguments[5])!
        delaySeconds = Double(arguments[6])!
    }

    /// Bytes that one session stores at most.
    private var budgetBytes: Int {
        switch kind {
        case .calm: 3 << 20
        case .roomy: 8 << 20
        case .tight: .max
        }
    }

    func run() throws {
        var disk = DiskConfiguration(path: directory, capacityBytes: capacityBytes)
        disk.writeBackDelaySeconds = delaySeconds
        let start = nanosecondsNow()
        var configuration = Configuration(memoryCapacityBytes: 16 << 20, disk: disk)
        configuration.onEvent = { event in if event.severity == .warning { say("warning \(event.message)") } }
        let store = try BlockStore(configuration)
        // Half of the sessions begin before the index is there.
        if seed % 2 == 0, !store.waitUntilWarm() { say("cold \(store.statistics.diskProblem ?? "")") }
        say("open \((nanosecondsNow() - start) / 1_000_000)")
        let spaces = try Conversation.namespaces(of: store)
        let threads = (0..<Self.threadCount).map { number in
            Thread { self.work(store, spaces, thread: number) }
        }
        for thread in threads { thread.start() }
        if kind == .calm { Thread { self.watchWriteBack(store) }.start() }
        // Ends with its parent, should that be killed itself.
        while readLine() != nil {}
        exit(0)
    }

    private func work(_ store: BlockStore, _ spaces: [Namespace], thread: Int) {
        var random = SeededRandom(seed: seed &* 31 &+ UInt64(thread))
        // A conversation is one thread's for the whole session.
        var mine: [Conversation] = []
        if kind != .calm {
            for (index, conversation) in known.enumerated() where index % Self.threadCount == thread {
                mine.append(conversation)
            }
        }
        var nextID = firstID + thread
        while true {
            let choice = Int.random(in: 0..<100, using: &random)
            let flushesAlone = choice == 99 && Bool.random(using: &random)
            _ = flushesAlone ? pthread_rwlock_wrlock(gate.lock) : pthread_rwlock_rdlock(gate.lock)
            switch choice {
            case 0..<45 where storedBytes.load(ordering: .relaxed) < budgetBytes:
                if mine.isEmpty || Int.random(in: 0..<4, using: &random) == 0 {
                    mine.append(Conversation(id: nextID))
                    nextID += Self.threadCount
                }
                // New ones more often: those can grow.
                let index = max(
                    Int.random(in: 0..<mine.count, using: &random),
                    Int.random(in: 0..<mine.count, using: &random)
                )
                put(store, spaces, &mine[index], more: Int.random(in: 1...4, using: &random))
            case 0..<90:
                if let conversation = mine.randomElement(using: &random) { verify(store, spaces, conversation) }
            // What is removed cannot be required: few removals where little is stored.
            case 90..<94 where kind != .calm || choice == 90:
                guard let index = mine.indices.randomElement(using: &random), mine[index].turns > 0 else { break }
                remove(store, spaces, &mine[index], &random)
            case 94..<97:
                if let conversation = mine.randomElement(using: &random) { store.prefetch(conversation.prefix(spaces)) }
            default: if choice == 99, kind != .calm { flush(store) }
            }
            pthread_rwlock_unlock(gate.lock)
            if kind != .tight { usleep(UInt32.random(in: 0..<(kind == .calm ? 6000 : 3000), using: &random)) }
        }
    }

    /// Says whenever write-back has caught up with everything that was said to be stored.
    private func watchWriteBack(_ store: BlockStore) {
        var covered = 0
        while true {
            usleep(10_000)
            let (turns, time) = (turnsSaid.load(ordering: .acquiring), nanosecondsNow())
            guard turns > covered, store.core.with({ $0.unwrittenBlocks }) == 0 else { continue }
            covered = turns
            say("written \(time)")
        }
    }

    private func put(_ store: BlockStore, _ spaces: [Namespace], _ conversation: inout Conversation, more: Int) {
        let turns = min(Conversation.turnLimit, conversation.turns + more)
        let prefix = conversation.prefix(spaces, turns: turns)
        let visible = store.store(prefix) { number, span in
            Payload.fill(&span, key: prefix.keys[number], version: conversation.version(ofBlock: number))
        }
        storedBytes.add(visible * conversation.blockBytes, ordering: .relaxed)
        // What is there now was there when commit returned; less is there when room ran out.
        let present = store.match(prefix).count - Conversation.headCount
        if present > 0 {
            conversation.turns = max(conversation.turns, present)
            say("stored \(conversation.id) \(present) \(nanosecondsNow())")
            turnsSaid.add(1, ordering: .releasing)
        }
    }

    private func verify(_ store: BlockStore, _ spaces: [Namespace], _ conversation: Conversation) {
        let prefix = conversation.prefix(spaces)
        guard let lease = store.acquire(prefix) else { return }
        for number in 0..<lease.count {
            let version = conversation.version(ofBlock: number)
            let isRight = lease.withBytes(at: number) {
                Payload.matches($0, key: prefix.keys[number], version: version)
            }
            if !isRight { say("wrong \(conversation.id) \(number)") }
        }
    }

    /// Removes a turn and all that builds on it; names either all of them or only the first. Sometimes stores the first
    /// again at once: the others must not come back with it.
    private func remove(
        _ store: BlockStore,
        _ spaces: [Namespace],
        _ conversation: inout Conversation,
        _ random: inout SeededRandom
    ) {
        let turn = Int.random(in: 0..<conversation.turns, using: &random)
        let namesAll = Bool.random(using: &random)
        let named = conversation.prefix(spaces, turns: namesAll ? Conversation.turnLimit : turn + 1)
        say("removing \(conversation.id) \(turn)")
        store.remove(named, from: Conversation.headCount + turn)
        for later in turn..<Conversation.turnLimit { conversation.versions[later] += 1 }
        conversation.turns = turn
        say("removed \(conversation.id) \(turn)")
        if Bool.random(using: &random) { put(store, spaces, &conversation, more: 1) }
    }

    private func flush(_ store: BlockStore) {
        let number = flushes.add(1, ordering: .relaxed).newValue
        say("flushing \(number)")
        let result = store.flush()
        let statistics = store.statistics
        say(
            "flushed \(number) \(result.refusedBlocks) \(statistics.droppedBlocks) \(statistics.disk.evictedBlocks) "
                + "\(statistics.memory.bytes)"
        )
    }
}
