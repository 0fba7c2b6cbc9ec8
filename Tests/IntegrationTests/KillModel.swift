import KVStore
import KVStoreTestSupport

/// What the killed workers said, and so what a store on their directory may hold and must hold.
struct KillModel {
    struct Record {
        var conversation: Conversation
        /// When each turn was first known to be stored, in the session that is being read.
        var storedAt: [Int: UInt64] = [:]
        /// Turns that must be on disk.
        var durable: Set<Int> = []
        /// A removal from this turn on was under way when the worker was killed: it may have happened, or not.
        var removingFrom: Int?
    }

    private(set) var records: [Int: Record] = [:]
    /// What was said of each conversation, for the message of a failure; and what the workers warned of.
    private(set) var history: [Int: [String]] = [:]
    private(set) var warnings: [String] = []
    private var flushCovers: [(id: Int, turn: Int)] = []
    private(set) var flushesBelieved = 0
    private(set) var complaints: [String] = []
    private(set) var highestMemoryBytes = 0
    /// Turns that write-back was seen to have written, and the longest that one waited for that to be said.
    private(set) var writtenBackTurns = 0
    private(set) var longestWriteBackNanoseconds: UInt64 = 0

    /// Conversations that a further worker may go on with.
    var stateLines: String {
        records.values.filter { $0.removingFrom == nil }.sorted { $0.conversation.id < $1.conversation.id }
            .suffix(60).map(\.conversation.line).joined(separator: "\n")
    }

    /// Takes in what one worker said.
    mutating func read(_ lines: [String]) {
        for id in records.keys { records[id]!.storedAt = [:] }
        flushCovers = []
        for id in history.keys { history[id]!.append("|") }
        for line in lines {
            let words = line.split(separator: " ")
            let numbers = words.dropFirst().map { Int($0) ?? -1 }
            if ["stored", "removing", "removed"].contains(words[0]) { history[numbers[0], default: []].append(line) }
            switch (words.first, numbers.count) {
            case ("warning", _): warnings.append(line)
            case ("stored", 3): noteStored(numbers[0], turns: numbers[1], at: UInt64(numbers[2]))
            case ("removing", 2):
                records[numbers[0]]?.removingFrom = numbers[1]
                forget(numbers[0], from: numbers[1])
            case ("removed", 2): noteRemoved(numbers[0], from: numbers[1])
            case ("flushing", 1):
                flushCovers = records.flatMap { id, record in record.storedAt.keys.map { (id, $0) } }
            case ("flushed", 5):
                highestMemoryBytes = max(highestMemoryBytes, numbers[4])
                // Nothing refused, dropped or evicted since the start: what was stored before the flush is on disk.
                guard numbers[1...3].allSatisfy({ $0 == 0 }) else { continue }
                flushesBelieved += 1
                for (id, turn) in flushCovers { records[id]?.durable.insert(turn) }
            case ("written", 1): noteWritten(at: UInt64(numbers[0]))
            case ("open", 1): break
            default: complaints.append(line)
            }
        }
    }

    private mutating func noteStored(_ id: Int, turns: Int, at time: UInt64) {
        var record = records[id] ?? Record(conversation: Conversation(id: id))
        record.conversation.turns = max(record.conversation.turns, turns)
        for turn in 0..<turns where record.storedAt[turn] == nil { record.storedAt[turn] = time }
        records[id] = record
    }

    private mutating func forget(_ id: Int, from turn: Int) {
        flushCovers.removeAll { $0.id == id && $0.turn >= turn }
        guard var record = records[id] else { return }
        record.durable = record.durable.filter { $0 < turn }
        record.storedAt = record.storedAt.filter { $0.key < turn }
        records[id] = record
    }

    private mutating func noteRemoved(_ id: Int, from turn: Int) {
        guard var record = records[id] else { return }
        record.removingFrom = nil
        record.conversation.turns = min(record.conversation.turns, turn)
        for later in turn..<Conversation.turnLimit { record.conversation.versions[later] += 1 }
        records[id] = record
    }

    /// What was stored before `time` is on disk without a flush.
    private mutating func noteWritten(at time: UInt64) {
        for id in records.keys {
            for (turn, stored) in records[id]!.storedAt where stored < time {
                guard records[id]!.durable.insert(turn).inserted else { continue }
                writtenBackTurns += 1
                longestWriteBackNanoseconds = max(longestWriteBackNanoseconds, time - stored)
            }
        }
    }

    /// Found on disk, and nothing there is evicted: it must be there from now on.
    mutating func require(_ id: Int, turns: Int) {
        guard turns > 0 else { return }
        records[id]!.durable.formUnion(0..<turns)
    }

    /// A conversation that was found although nobody spoke of it.
    mutating func adopt(_ conversation: Conversation) {
        records[conversation.id] = Record(conversation: conversation)
    }

    /// After evictions nothing is certain.
    mutating func requireNothing() { for id in records.keys { records[id]!.durable = [] } }
}
