import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

/// Random damage to one file (in a quarter of the cases: to two) of a directory that was closed or killed, then a store
/// on it, in a process of its own.
@Suite("A store on a damaged directory", .serialized)
struct DamageTests {
    static let caseCount = TestScale.pick(default: 240, full: 1200)

    @Test func `serves what is intact and never a wrong byte`() throws {
        let seed = TestScale.seed
        var random = SeededRandom(seed: seed)
        let bases = try DamageBase.make()
        var trial = try DamageTrial(seed: seed)
        for number in 0..<Self.caseCount {
            try trial.run(number % 2 == 0 ? bases.killed : bases.closed, &random)
        }
        trial.table.printLine()
        print(trial.summary)
        #expect(trial.corruptCases > 0)
        #expect(trial.lossCases > 0)
    }

    @Test func `of two intact bases serves everything that was neither removed nor purged`() throws {
        let bases = try DamageBase.make()
        for base in [bases.killed, bases.closed] {
            let counts = DamageBase.ids.map { base.segments[$0]!.count }
            #expect(counts == [14, 0, 14, 8, 0, 14, 14, 0, 11])
            #expect(Set(base.segments.values.flatMap(\.self)).count == 6)
            #expect(Set(base.files.map(\.kind)).isSuperset(of: [.segment, .writeAheadLog, .manifest, .current]))
        }
    }
}

struct DamageTrial {
    var table = ResultTable(name: "damage")
    /// Cases in which a damaged record was met, and those in which blocks were lost.
    var corruptCases = 0
    var lossCases = 0
    private var warnedCases = 0
    private var casesByKind: [DamageBase.File.Kind: Int] = [:]
    private var worker: WorkerProcess
    private let seed: UInt64

    init(seed: UInt64) throws {
        self.seed = seed
        worker = try WorkerProcess(["check"])
    }

    var summary: String {
        let kinds = casesByKind.sorted { "\($0.key)" < "\($1.key)" }.map { "\($0.key) \($0.value)" }
        return "damage: \(kinds.joined(separator: ", ")); blocks lost in \(lossCases) cases, "
            + "corrupt counted in \(corruptCases), warned in \(warnedCases)"
    }

    mutating func run(_ base: DamageBase, _ random: inout SeededRandom) throws {
        table.cycles += 1
        let scratch = TemporaryDirectory("damaged")
        let path = scratch.path + "/store"
        try FileManager.default.copyItem(atPath: base.path, toPath: path)
        let isDouble = Int.random(in: 0..<4, using: &random) == 0
        var damagedSegments: Set<UInt32> = []
        var damage: [String] = []
        var touched: Set<String> = []
        while touched.count < (isDouble ? 2 : 1) {
            let file = pick(base, &random)
            // With removals.log and the index both damaged, removed blocks may come back: two faults, not one.
            guard touched.isEmpty || (file.kind != .removals && !touched.contains("removals.log")),
                touched.insert(file.name).inserted
            else {
                if touched.contains("removals.log") { break }
                continue
            }
            let mutation = Mutation.random(of: file, in: base, &random)
            try mutation.apply(to: path + "/" + file.name, base: base.path)
            if let segment = file.segment { damagedSegments.insert(segment) }
            casesByKind[file.kind, default: 0] += 1
            damage.append("\(file.kind) \(file.name) (\(file.byteCount) bytes): \(mutation)")
        }
        let place =
            "seed \(seed), case \(table.cycles), \(base.path.contains("killed") ? "killed" : "closed"): "
            + damage.joined(separator: "; ")
        guard let answer = ask(path, place) else { return }
        judge(answer, base, damagedSegments, place)
        #expect(DirectoryMeasure.files(in: path + "/incoming").isEmpty, "\(place)")
    }

    private func pick(_ base: DamageBase, _ random: inout SeededRandom) -> DamageBase.File {
        // Every kind of file equally often, segments twice.
        let kinds = DamageBase.File.Kind.allCases + [.segment]
        while true {
            let kind = kinds.randomElement(using: &random)!
            if let file = base.files.filter({ $0.kind == kind }).randomElement(using: &random) { return file }
        }
    }

    private struct Answer {
        var isWarm: Bool
        var wrong: Int
        var corrupt: Int
        var warnings: Int
        var isWritten: Bool
        var milliseconds: Int
        var found: [Int: Int]
        var problem: String
    }

    /// Nil when the worker died; then there is a new one.
    private mutating func ask(_ path: String, _ place: String) -> Answer? {
        worker.send("\(path) \(DamageBase.ids.lowerBound) \(DamageBase.ids.count)")
        let deadline = nanosecondsNow() + 30_000_000_000
        while let line = worker.nextLine(untilNanoseconds: deadline) {
            let words = line.split(separator: " ", maxSplits: 15)
            guard words.first == "warm", words.count == 16 else {
                if line != "ready" { Issue.record("\(line); \(place)") }
                continue
            }
            var found: [Int: Int] = [:]
            for pair in words[13].split(separator: ",") {
                let parts = pair.split(separator: ":").compactMap { Int($0) }
                if parts.count == 2 { found[parts[0]] = parts[1] }
            }
            return Answer(
                isWarm: words[1] == "1",
                wrong: Int(words[3])!,
                corrupt: Int(words[5])!,
                warnings: Int(words[7])!,
                isWritten: words[9] == "1",
                milliseconds: Int(words[11])!,
                found: found,
                problem: String(words[15])
            )
        }
        let signal = worker.killAndWait()
        table.crashes += 1
        Issue.record("the worker died with signal \(signal) or did not answer; \(place)")
        if let fresh = try? WorkerProcess(["check"]) { worker = fresh }
        return nil
    }

    private mutating func judge(
        _ answer: Answer,
        _ base: DamageBase,
        _ damaged: Set<UInt32>,
        _ place: String
    ) {
        table.slowestReopenMilliseconds = max(table.slowestReopenMilliseconds, answer.milliseconds)
        table.wrong += answer.wrong
        #expect(answer.wrong == 0, "wrong bytes; \(place)")
        #expect(answer.isWarm, "\(answer.problem); \(place)")
        #expect(answer.isWritten, "a new block is not written: \(answer.problem); \(place)")
        var lostBlocks = 0
        for id in DamageBase.ids {
            let segments = base.segments[id]!
            // All blocks before the first one of a damaged segment must be there.
            let surviving = segments.firstIndex { damaged.contains($0) } ?? segments.count
            let found = answer.found[id] ?? 0
            table.durableChecked += surviving
            table.lost += max(0, surviving - found)
            #expect(found >= surviving, "blocks of conversation \(id) were lost; \(place)")
            #expect(found <= segments.count, "removed blocks of conversation \(id) came back; \(place)")
            lostBlocks += max(0, segments.count - found)
        }
        if answer.corrupt > 0 { corruptCases += 1 }
        if answer.warnings > 0 { warnedCases += 1 }
        guard lostBlocks > 0 else { return }
        lossCases += 1
        #expect(answer.corrupt > 0 || answer.warnings > 0, "\(lostBlocks) blocks were lost without a word; \(place)")
    }
}
