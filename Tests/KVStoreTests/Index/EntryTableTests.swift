import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("EntryTable against a dictionary")
struct EntryTableTests {
    /// Without a secret, the product of words 0 and 1 chooses shard and position.
    private static let openHash = KeyHash(secret: (0, 0, 0, 0))

    /// Keys that share their home position as often as `spread` says.
    private static func key(_ number: UInt64, spread: UInt64) -> BlockKey {
        BlockKey(word0: number % spread &* 0x9E37_79B9_7F4A_7C15, word1: 1, word2: number, word3: 0)
    }

    @Test(arguments: [UInt64(1), 3, 200, 1 << 60])
    func `Thousands of insertions and removals agree with a dictionary`(spread: UInt64) throws {
        for seed in TestScale.seeds(default: 4, full: 40) {
            var random = SeededRandom(seed: seed)
            var table = try EntryTable(capacity: 600, hash: Self.openHash)
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
        var table = try EntryTable(capacity: 100, hash: Self.openHash)
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
        var table = try EntryTable(capacity: 10, hash: Self.openHash)
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

    /// What a client could send: all keys alike but for one word, counted up.
    @Test(arguments: 0..<4)
    func `Keys of somebody's own making are spread like digests`(word: Int) {
        let hash = KeyHash()
        var places = Set<UInt64>()
        for number in 0..<UInt64(65_536) {
            var words: [UInt64] = [7, 7, 7, 7]
            words[word] = number
            let key = BlockKey(word0: words[0], word1: words[1], word2: words[2], word3: words[3])
            places.insert(hash(key) & 0xFFFF)
        }
        // Digests would fill 1 - 1/e of the places, 41,427.
        #expect(places.count > 30_000)
    }

    @Test func `An entry takes 64 bytes`() {
        #expect(MemoryLayout<Entry>.stride == 64)
    }
}
