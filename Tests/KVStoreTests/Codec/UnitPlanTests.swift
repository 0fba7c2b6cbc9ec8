@testable import KVStore
import Testing

@Suite("Units of a block")
struct UnitPlanTests {
    private func units(tokens: UInt16, layers: UInt16, heads: UInt16, dimension: UInt16, values: UInt16 = 0) -> [Int] {
        let geometry = FrameGeometry(
            elementType: .bf16,
            tokens: tokens,
            layers: layers,
            keyHeads: heads,
            headDimension: dimension,
            valueHeadDimension: values
        )
        let plan = UnitPlan(geometry: geometry, rawByteCount: geometry.rawByteCount!)
        #expect(plan.unitCount == Array(plan).count)
        #expect(plan.reduce(0, +) == geometry.rawByteCount)
        return Array(plan)
    }

    @Test("small slabs are merged until they reach 64 KiB; what is left at the end is a smaller unit")
    func merging() {
        #expect(units(tokens: 16, layers: 4, heads: 8, dimension: 128) == [65_536, 65_536, 65_536, 65_536])
        #expect(units(tokens: 16, layers: 2, heads: 6, dimension: 128) == [73_728, 24_576])
        #expect(units(tokens: 16, layers: 1, heads: 1, dimension: 64) == [4_096])
    }

    @Test("a slab of 64 KiB to 1 MiB stands alone")
    func alone() {
        #expect(units(tokens: 256, layers: 1, heads: 8, dimension: 128) == [524_288, 524_288])
        #expect(units(tokens: 512, layers: 1, heads: 8, dimension: 128) == [1 << 20, 1 << 20])
    }

    @Test("a larger slab is cut into even parts of whole token rows")
    func cutting() {
        #expect(units(tokens: 513, layers: 1, heads: 8, dimension: 128) == [257, 256, 257, 256].map { $0 * 2_048 })
        #expect(units(tokens: 2_000, layers: 1, heads: 8, dimension: 128) == [Int](repeating: 500 * 2_048, count: 8))
        let rows = units(tokens: 3, layers: 1, heads: 1_024, dimension: 1_024)
        #expect(rows == [Int](repeating: 2 << 20, count: 6), "a row over 1 MiB is never cut")
    }

    @Test("a small slab before a large one is a unit of its own")
    func smallBeforeLarge() {
        #expect(
            units(tokens: 1_024, layers: 1, heads: 8, dimension: 1, values: 128) == [16_384, 1 << 20, 1 << 20]
        )
    }

    @Test("an opaque block is cut every 256 KiB")
    func opaque() {
        for (byteCount, expected) in [
            (1, [1]), (262_144, [262_144]), (262_145, [262_144, 1]), (600_000, [262_144, 262_144, 75_712]), (0, []),
        ] {
            let plan = UnitPlan(geometry: RecordSample.opaque(), rawByteCount: byteCount)
            #expect(Array(plan) == expected && plan.unitCount == expected.count)
        }
    }

    @Test("a block that is not as long as its geometry is a caller bug")
    func precondition() async {
        await #expect(processExitsWith: .failure) {
            let geometry = FrameGeometry(elementType: .bf16, tokens: 1, layers: 1, keyHeads: 1, headDimension: 1)
            _ = UnitPlan(geometry: geometry, rawByteCount: 3)
        }
    }
}
