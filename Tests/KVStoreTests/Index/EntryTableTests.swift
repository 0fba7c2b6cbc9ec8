import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("EntryTable against a dictionary")
struct EntryTableTests {
    /// Keys that share their home position as often as `spread` says; word 0 chooses shard and position.
    private static func key(_ number: UInt64, spread: UInt64) -> BlockKey {
        BlockKey(word0: number % spread, word1: number, word2: number &* 3, word3: 7)
    }

    @Test(arguments: [UInt64(1), 3, 200, 1 << 60])
    func `Thousands of insertions and removals agree with a dictionary`(spread: UInt64) throws {
        for seed in TestScale.seeds(default: 4, full: 40) {
            var random = SeededRandom(seed: seed)
            var table = try EntryTable(capacity: 600)
            var model: [BlockKey: EntryID] = [:]
            for step in 0..<6000 {
                let key = Self.key(UInt64.random(in: 1...900, using: &random), spread: spread)
                if let id = model[key], Bool.random(using: &random) {
                    table.remove(id)
                    model[key] = nil
                } else if model[key] == nil {
                    if let id = table.insert(key, parent: .none, namespace: 3) {
                        model[key] = id
                    } else {
                        try #require(model.count == 600, "refused before its capacity, seed \(seed)")
                    }
                }
                let (count, found) = (table.count, table.find(key))
                try #require(count == model.count && found == model[key], "seed \(seed) step \(step)")
                guard step % 500 == 0 else { continue }
                let wrong = model.count { table.find($0.key) != $0.value }
                try #require(wrong == 0, "seed \(seed) step \(step)")
            }
            let highWater = table.highWater
            #expect(Set(model.values).count == model.count, "no two keys share an entry")
            #expect(highWater <= 600)
        }
    }

    @Test func `Children are linked both ways and can leave in any order`() throws {
        var table = try EntryTable(capacity: 100)
        let root = table.insert(Self.key(1, spread: 5), parent: .none, namespace: 0)!
        var children = (2..<12).map { table.insert(Self.key($0, spread: 5), parent: root, namespace: 0)! }
        var random = SeededRandom(seed: 5)
        while !children.isEmpty {
            var linked: Set<EntryID> = []
            var child = table[root].firstChild
            while child != .none {
                let (parent, isNew) = (table[child].parent, linked.insert(child).inserted)
                #expect(parent == root && isNew)
                child = table[child].nextSibling
            }
            #expect(linked == Set(children))
            let leaver = children.remove(at: Int.random(in: 0..<children.count, using: &random))
            table.remove(leaver)
        }
        let firstChild = table[root].firstChild
        table.remove(root)
        let count = table.count
        #expect(firstChild == .none)
        #expect(count == 0)
    }

    @Test func `A freed entry is reused before the table grows`() throws {
        var table = try EntryTable(capacity: 10)
        let first = table.insert(Self.key(1, spread: 9), parent: .none, namespace: 0)!
        _ = table.insert(Self.key(2, spread: 9), parent: .none, namespace: 0)
        table.remove(first)
        let third = table.insert(Self.key(3, spread: 9), parent: .none, namespace: 0)
        let (highWater, old) = (table.highWater, table.find(Self.key(1, spread: 9)))
        #expect(third == first)
        #expect(highWater == 2)
        #expect(old == nil)
    }

    @Test func `Room made beforehand is neither outgrown nor taken beyond the limit`() throws {
        var random = SeededRandom(seed: 8)
        func key() -> BlockKey {
            BlockKey(word0: random.next(), word1: random.next(), word2: random.next(), word3: random.next())
        }
        var table = try EntryTable(capacity: 60_000)
        let old = (0..<500).map { _ in key() }
        for key in old { _ = table.insert(key, parent: .none, namespace: 0) }
        let small = table.metadataBytes
        for shard in 0..<EntryTable.shardCount { table.reserve(shard: shard, forNewEntries: 40_000, byteLimit: 100) }
        let limited = table.metadataBytes
        #expect(limited == small)
        for shard in 0..<EntryTable.shardCount { table.reserve(shard: shard, forNewEntries: 40_000, byteLimit: .max) }
        let keyBytes = table.metadataBytes - small
        #expect(keyBytes == 16 * (4096 - 256) * 4)
        let found = old.map { table.find($0) != nil }
        #expect(!found.contains(false))
        let new = (0..<40_000).map { _ in key() }
        for key in new { _ = table.insert(key, parent: .none, namespace: 0) }
        let ids = Set((old + new).compactMap { table.find($0) })
        #expect(ids.count == 40_500)
        let grown = table.metadataBytes - small - keyBytes
        #expect(grown == roundUp(40_500 * 64, to: 64 << 10) - roundUp(500 * 64, to: 64 << 10), "only the entries grew")
    }

    @Test func `An entry takes 64 bytes`() {
        #expect(MemoryLayout<Entry>.stride == 64)
    }
}
