import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("The order of the rows of an index")
struct ChainOrderTests {
    private static func key(_ number: Int) -> BlockKey {
        var random = SeededRandom(seed: UInt64(number) &+ 77)
        return BlockKey(word0: random.next(), word1: random.next(), word2: random.next(), word3: random.next())
    }

    private static let space = key(1_000_000)

    /// Rows of a random forest; some name parents that are not there, some are their own ancestors.
    private static func rows(_ random: inout SeededRandom) -> [IndexRow] {
        let count = Int.random(in: 0...200, using: &random)
        let scale = [UInt64(3), 1000, 1 << 40].randomElement(using: &random)!
        var rows = (0..<count).map { number in
            let parent: BlockKey
            switch Int.random(in: 0..<20, using: &random) {
            case 0, 1: parent = space
            case 2: parent = key(1000 + number)
            case 3: parent = key(Int.random(in: number..<count, using: &random))
            default: parent = number == 0 ? space : key(Int.random(in: max(0, number - 9)..<number, using: &random))
            }
            return IndexRow(
                key: key(number),
                parent: parent,
                fingerprint: space,
                tenant: 1,
                rawByteCount: 4096,
                sequence: UInt64.random(in: 0...scale, using: &random)
            )
        }
        rows.shuffle(using: &random)
        return rows
    }

    /// The slow way: up from every row.
    private static func ancestors(_ number: Int, _ rows: [IndexRow], _ places: [BlockKey: Int]) -> [Int]? {
        var path = [number]
        while rows[path.last!].parent != space {
            guard let parent = places[rows[path.last!].parent], path.count <= rows.count else { return nil }
            path.append(parent)
        }
        return path
    }

    @Test func `Agrees with following every chain up`() throws {
        for seed in TestScale.seeds(default: 200, full: 4000) {
            var random = SeededRandom(seed: seed)
            let rows = Self.rows(&random)
            let order = ChainOrder(rows)
            let places = Dictionary(uniqueKeysWithValues: rows.enumerated().map { ($1.key, $0) })
            var recency = rows.map(\.sequence)
            var reached: Set<Int> = []
            for number in rows.indices {
                guard let path = Self.ancestors(number, rows, places) else { continue }
                reached.insert(number)
                for ancestor in path { recency[ancestor] = max(recency[ancestor], rows[number].sequence) }
            }
            try #require(order.recency == recency, "seed \(seed)")
            try #require(order.reached.count == reached.count && Set(order.reached) == reached, "seed \(seed)")
            let orphans = Set(rows.indices).subtracting(reached)
            try #require(order.orphans.count == orphans.count && Set(order.orphans) == orphans, "seed \(seed)")
            var before: Set<BlockKey> = [Self.space]
            var last = UInt64.max
            for number in order.reached {
                try #require(before.contains(rows[number].parent), "a child before its parent, seed \(seed)")
                try #require(recency[number] <= last, "a hotter row after a colder one, seed \(seed)")
                before.insert(rows[number].key)
                last = recency[number]
            }
        }
    }

    /// A client made these: the table of rows must not take more than its few steps for each.
    @Test func `Keys that all begin alike are ordered like others`() throws {
        let count = 30_000
        func key(_ number: Int) -> BlockKey { BlockKey(word0: 7, word1: 7, word2: UInt64(number), word3: 7) }
        let rows = (0..<count).map { number in
            IndexRow(
                key: key(number),
                parent: number == 0 ? Self.space : key(number - 1),
                fingerprint: Self.space,
                tenant: 1,
                rawByteCount: 1,
                sequence: UInt64(number)
            )
        }
        let order = ChainOrder(rows)
        #expect(order.reached == Array(0..<count))
        #expect(order.recency == [UInt64](repeating: UInt64(count - 1), count: count))
        #expect(order.orphans.isEmpty)
    }

    @Test func `Sequences at both ends of the range are told apart`() {
        var rows = [UInt64.max, 0, 1 << 63, 1].enumerated().map { number, sequence in
            IndexRow(
                key: Self.key(number),
                parent: Self.space,
                fingerprint: Self.space,
                tenant: 1,
                rawByteCount: 1,
                sequence: sequence
            )
        }
        #expect(ChainOrder(rows).reached == [0, 2, 3, 1])
        rows = []
        #expect(ChainOrder(rows).reached.isEmpty)
    }
}
