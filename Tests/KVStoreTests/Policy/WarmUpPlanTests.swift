import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("WarmUpPlan")
struct WarmUpPlanTests {
    private typealias Candidate = WarmUpPlan.Candidate

    private static func block(_ parent: Int?, uses: UInt32 = 0, recency: UInt64 = 0, bytes: Int = 1) -> Candidate {
        Candidate(parent: parent, uses: uses, recency: recency, byteCount: bytes)
    }

    @Test func `Used blocks come first and then the latest and then the nearest to the root`() {
        let candidates = [
            Self.block(nil, uses: 0, recency: 9),
            Self.block(nil, uses: 100, recency: 1),
            Self.block(nil, uses: 2, recency: 5),
            Self.block(nil, uses: 3, recency: 8),
            Self.block(3, uses: 3, recency: 8),
            Self.block(1, uses: 0, recency: 1),
        ]
        #expect(WarmUpPlan.order(candidates, budgetBytes: 100) == [1, 3, 4, 2, 0, 5])
    }

    @Test func `A block counts as much as what builds on it`() {
        let candidates = [
            Self.block(nil, uses: 1, recency: 50),
            Self.block(nil, uses: 0, recency: 1),
            Self.block(1, uses: 0, recency: 2),
            Self.block(2, uses: 200, recency: 3),
        ]
        #expect(WarmUpPlan.order(candidates, budgetBytes: 100) == [1, 2, 3, 0])
    }

    @Test func `The plan ends with the first block that does not fit`() {
        let candidates = [
            Self.block(nil, uses: 9, bytes: 60), Self.block(0, uses: 9, bytes: 50), Self.block(nil, bytes: 1),
        ]
        #expect(WarmUpPlan.order(candidates, budgetBytes: 110) == [0, 1])
        #expect(WarmUpPlan.order(candidates, budgetBytes: 109) == [0])
        #expect(WarmUpPlan.order(candidates, budgetBytes: 0).isEmpty)
        #expect(WarmUpPlan.order([], budgetBytes: 100).isEmpty)
    }

    @Test func `Any leading part of any plan is whole prefixes`() {
        var random = SeededRandom(seed: 3)
        for _ in 0..<200 {
            var candidates: [Candidate] = []
            for place in 0..<Int.random(in: 1...200, using: &random) {
                let isRoot = place == 0 || Int.random(in: 0..<5, using: &random) == 0
                candidates.append(
                    Self.block(
                        isRoot ? nil : Int.random(in: 0..<place, using: &random),
                        uses: UInt32.random(in: 0...8, using: &random),
                        recency: UInt64.random(in: 0...9, using: &random),
                        bytes: Int.random(in: 1...5, using: &random)
                    )
                )
            }
            let budget = Int.random(in: 0...600, using: &random)
            let order = WarmUpPlan.order(candidates, budgetBytes: budget)
            #expect(order.reduce(0) { $0 + candidates[$1].byteCount } <= budget)
            var seen: Set<Int> = []
            for place in order {
                if let parent = candidates[place].parent { #expect(seen.contains(parent)) }
                #expect(seen.insert(place).inserted)
            }
        }
    }
}

@Suite("RowRefresh")
struct RowRefreshTests {
    private static func state(_ row: Int, tick: UInt32, sequence: UInt64) -> RowState {
        RowState(row: row, tick: tick, uses: 0, sequence: sequence)
    }

    @Test func `Rows that are in order already are left alone`() {
        let states = [
            Self.state(0, tick: 5, sequence: 50), Self.state(1, tick: 2, sequence: 20),
            Self.state(2, tick: 5, sequence: 50),
        ]
        #expect(RowRefresh.outOfDate(states).isEmpty)
        #expect(RowRefresh.outOfDate([]).isEmpty)
    }

    @Test func `From the first row that is out of order all are written coldest first`() {
        let states = [
            Self.state(0, tick: 9, sequence: 10), Self.state(1, tick: 3, sequence: 30),
            Self.state(2, tick: 1, sequence: 20), Self.state(3, tick: 10, sequence: 40),
        ]
        // By use: 2, 1, 0, 3. Row 0 was written first and used late.
        #expect(RowRefresh.outOfDate(states).map(\.row) == [0, 3])
    }
}
