import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("Latencies and ages")
struct LatencyTests {
    @Test func `Buckets count what is at most their bound`() throws {
        for seed in TestScale.seeds(default: 4, full: 40) {
            var random = SeededRandom(seed: seed)
            var histogram = LatencyHistogram()
            var values: [UInt64] = LatencySummary.bucketBounds.map(UInt64.init)
            for _ in 0..<2000 {
                let limit: UInt64 = 1 << Int.random(in: 1...36, using: &random)
                values.append(UInt64.random(in: 0...limit, using: &random))
            }
            for value in values { histogram.record(value) }
            let summary = histogram.summary
            #expect(summary.count == values.count)
            #expect(summary.sumNanoseconds == values.reduce(0) { $0 + Int($1) })
            #expect(summary.buckets.map(\.upToNanoseconds) == LatencySummary.bucketBounds)
            for bucket in summary.buckets {
                #expect(bucket.count == values.count { $0 <= UInt64(bucket.upToNanoseconds) }, "seed \(seed)")
            }
            values.sort()
            for (percentile, shown) in [
                (0.5, summary.p50Nanoseconds), (0.99, summary.p99Nanoseconds), (0.999, summary.p999Nanoseconds),
            ] {
                let exact = Double(min(values[Int(Double(values.count) * percentile)], 60_000_000_000))
                #expect(abs(Double(shown) - exact) <= exact * 0.05, "seed \(seed) percentile \(percentile)")
            }
        }
    }

    @Test func `Bounds go from a microsecond to ten seconds`() {
        #expect(LatencySummary.bucketBounds.first == 1_000)
        #expect(LatencySummary.bucketBounds.last == 10_000_000_000)
        #expect(LatencySummary.bucketBounds == LatencySummary.bucketBounds.sorted())
        #expect(LatencySummary.bucketBounds.count == 22)
    }

    @Test func `The clock tells the age of a tick to the second while it remembers all`() {
        var clock = TickClock()
        #expect(clock.age(ofTick: 5) == nil)
        for second in UInt32(100)...UInt32(600) { clock.note(tick: second * 10, seconds: second) }
        #expect(clock.age(ofTick: 999) == nil)
        #expect(clock.age(ofTick: 1000) == 500)
        #expect(clock.age(ofTick: 3005) == 300)
        #expect(clock.age(ofTick: 6000) == 0)
        #expect(clock.age(ofTick: .max) == 0)
        clock.halveTicks()
        #expect(clock.age(ofTick: 3005 / 2 + 1) == 300)
    }

    @Test func `The clock forgets details of the past and not of the present`() {
        var clock = TickClock()
        for second in UInt32(1)...100_000 { clock.note(tick: second, seconds: second) }
        for age in UInt32(0)...60 { #expect(clock.age(ofTick: 100_000 - age) == age) }
        for age in stride(from: UInt32(61), to: 100_000, by: 97) {
            guard let told = clock.age(ofTick: 100_000 - age) else {
                Issue.record("the age of a tick \(age) s ago is not known")
                continue
            }
            #expect(told >= age)
            #expect(told <= age + age / 32 + 2, "\(age)")
        }
    }

    @Test func `Evictions are counted with their age and operations with their time`() throws {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        let space = try store.namespace(.test())
        for number in 0..<5000 { BlockStoreTests.put(store, space.prefix([number])) }
        _ = BlockStoreTests.get(store, space.prefix([4999]))
        let statistics = store.statistics
        #expect(statistics.memory.evictedBlocks > 0)
        #expect(statistics.memory.ageAtEviction.count == statistics.memory.evictedBlocks)
        #expect(statistics.memory.ageAtEviction.buckets.map(\.upToSeconds) == AgeSummary.bucketBounds)
        let latencies = store.latencies()
        #expect(Set(latencies.keys) == ["acquire.memory", "acquire.disk", "reserve", "commit", "promote"])
        #expect(latencies["acquire.memory"]?.count == 1)
        #expect(latencies["reserve"]?.count == 5000)
        #expect(latencies["commit"]?.count == 5000)
        #expect(latencies["commit"]!.sumNanoseconds > 0)
        #expect(latencies["promote"]?.count == 0)
    }
}

@Suite("SharedLeafLRU against an array")
struct SharedLeafLRUTests {
    @Test func `Thousands of operations of several tenants agree with the array`() throws {
        for seed in TestScale.seeds(default: 40, full: 400) {
            var random = SeededRandom(seed: seed)
            let policy = try SharedLeafLRU(capacity: 64)
            #expect(policy.grow(toCount: 64))
            var members: [(id: UInt32, tick: UInt32)] = []
            for tick in UInt32(1)...500 {
                let id = UInt32.random(in: 0..<64, using: &random)
                let tenant = Int(id % 3)
                let isMember = members.contains { $0.id == id }
                switch Int.random(in: 0..<4, using: &random) {
                case 0 where isMember:
                    policy.remove(id, tenant: tenant)
                    members.removeAll { $0.id == id }
                case 1 where isMember:
                    policy.touch(id, tenant: tenant, tick: tick)
                    members.removeAll { $0.id == id }
                    members.append((id, tick))
                default:
                    if isMember { continue }
                    policy.insert(id, tenant: tenant, tick: tick)
                    members.append((id, tick))
                }
                try #require(policy.count == members.count)
                try #require(policy.coldestTick == members.first?.tick ?? 0)
                let allowed = Set(UInt32(0)..<64).filter { _ in Bool.random(using: &random) }
                let all = policy.victim { allowed.contains($0) }
                try #require(all == members.first { allowed.contains($0.id) }?.id, "seed \(seed)")
                for tenant in 0..<4 {
                    let own = policy.victim(ofTenant: tenant) { allowed.contains($0) }
                    let expected = members.first { allowed.contains($0.id) && Int($0.id % 3) == tenant }?.id
                    try #require(own == expected, "seed \(seed)")
                }
            }
        }
    }
}
