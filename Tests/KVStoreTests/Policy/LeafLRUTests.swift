import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("LeafLRU against an array")
struct LeafLRUTests {
    /// The same order, kept the slow way: coldest first.
    private struct Model {
        var members: [(id: UInt32, tick: UInt32)] = []
        mutating func remove(_ id: UInt32) { members.removeAll { $0.id == id } }
        mutating func insert(_ id: UInt32, tick: UInt32) { members.append((id, tick)) }
        mutating func insertColdest(_ id: UInt32, tick: UInt32) {
            members.insert((id, min(tick, members.first?.tick ?? tick)), at: 0)
        }
    }

    @Test func `Thousands of operations agree with the array`() throws {
        for seed in TestScale.seeds(default: 40, full: 400) {
            var random = SeededRandom(seed: seed)
            let policy = try LeafLRU(capacity: 64)
            #expect(policy.grow(toCount: 64))
            var model = Model()
            for tick in UInt32(1)...500 {
                let id = UInt32.random(in: 0..<64, using: &random)
                let isMember = model.members.contains { $0.id == id }
                switch Int.random(in: 0..<5, using: &random) {
                case 0 where isMember:
                    policy.remove(id)
                    model.remove(id)
                case 1 where isMember:
                    policy.touch(id, tick: tick)
                    model.remove(id)
                    model.insert(id, tick: tick)
                case 2 where tick % 100 == 50:
                    policy.halveTicks()
                    model.members = model.members.map { ($0.id, $0.tick / 2 + 1) }
                case 3 where !isMember:
                    policy.insertColdest(id, tick: tick)
                    model.insertColdest(id, tick: tick)
                default:
                    if isMember { continue }
                    policy.insert(id, tick: tick)
                    model.insert(id, tick: tick)
                }
                try agree(policy, model, seed: seed, random: &random)
            }
        }
    }

    private func agree(_ policy: LeafLRU, _ model: Model, seed: UInt64, random: inout SeededRandom) throws {
        try #require(policy.count == model.members.count, "seed \(seed)")
        try #require(policy.coldestTick == model.members.first?.tick ?? 0, "seed \(seed)")
        for (id, tick) in model.members { try #require(policy.tick(of: id) == tick, "seed \(seed)") }
        let allowed = Set(UInt32(0)..<64).filter { _ in Bool.random(using: &random) }
        let victim = model.members.first { allowed.contains($0.id) }?.id
        try #require(policy.victim { allowed.contains($0) } == victim, "seed \(seed)")
    }

    @Test func `Touched from tail to head, a chain gives up its tail first`() throws {
        let policy = try LeafLRU(capacity: 8)
        #expect(policy.grow(toCount: 8))
        for id in (UInt32(0)..<4).reversed() { policy.insert(id, tick: 1) }
        var order: [UInt32] = []
        while let victim = policy.victim({ _ in true }) {
            order.append(victim)
            policy.remove(victim)
        }
        #expect(order == [3, 2, 1, 0])
        #expect(policy.coldestTick == 0)
    }

    @Test func `No room for an id means false and no change`() throws {
        let policy = try LeafLRU(capacity: 8)
        #expect(policy.metadataBytes == 0)
        #expect(policy.grow(toCount: 8))
        #expect(!policy.grow(toCount: 9))
        policy.insert(7, tick: 1)
        #expect(policy.victim { _ in true } == 7)
    }

    @Test func `Halving keeps every tick above zero`() throws {
        let policy = try LeafLRU(capacity: 2)
        #expect(policy.grow(toCount: 2))
        policy.insert(0, tick: 1)
        policy.insert(1, tick: .max - 1)
        for _ in 0..<40 { policy.halveTicks() }
        #expect(policy.tick(of: 0) > 0)
        #expect(policy.tick(of: 1) >= policy.tick(of: 0))
    }
}
