/// How a block is cut into units: the parts that are coded, checked and loaded on their own.
///
/// A unit is a run of whole slabs (one layer's keys or values) of at least 64 KiB, because smaller ones cost more per
/// byte; a slab over 1 MiB is cut at token rows into even parts, so that parts can be decoded in parallel. Only the last
/// unit, and one before such a slab, can be smaller. An opaque block is cut every 256 KiB.
///
/// The decoder takes the lengths from the unit table, so the plan can change without a new format.
struct UnitPlan: Sequence, IteratorProtocol {
    static let leastByteCount = 64 << 10
    static let mostByteCount = 1 << 20
    static let opaqueByteCount = 256 << 10

    private let geometry: FrameGeometry
    private var opaqueBytesLeft: Int
    private var nextSlab = 0
    private var rowsLeftOfSlab = 0
    private var rowsPerUnit = 0
    private var rowByteCount = 0

    /// - Precondition: `rawByteCount` is what the geometry says, where it says something.
    init(geometry: FrameGeometry, rawByteCount: Int) {
        if let expected = geometry.rawByteCount {
            precondition(rawByteCount == expected, "the block has another length than its geometry")
        }
        self.geometry = geometry
        opaqueBytesLeft = geometry.layout == .opaque ? rawByteCount : 0
    }

    /// The units of the whole plan.
    var unitCount: Int {
        if geometry.layout == .opaque { return (opaqueBytesLeft + Self.opaqueByteCount - 1) / Self.opaqueByteCount }
        return reduce(0) { count, _ in count + 1 }
    }

    /// The raw bytes of the next unit.
    mutating func next() -> Int? {
        if geometry.layout == .opaque {
            guard opaqueBytesLeft > 0 else { return nil }
            let byteCount = Swift.min(opaqueBytesLeft, Self.opaqueByteCount)
            opaqueBytesLeft -= byteCount
            return byteCount
        }
        if rowsLeftOfSlab > 0 { return nextRows() }
        return nextSlabs()
    }

    private mutating func nextSlabs() -> Int? {
        let slabCount = Int(geometry.layers) * Int(geometry.tensors)
        var byteCount = 0
        while nextSlab < slabCount, byteCount < Self.leastByteCount {
            let isValue = geometry.tensors == 2 && nextSlab & 1 == 1
            let slabByteCount = isValue ? geometry.valueSlabByteCount : geometry.keySlabByteCount
            if slabByteCount > Self.mostByteCount {
                if byteCount > 0 { break }
                nextSlab += 1
                startSlab(byteCount: slabByteCount)
                return nextRows()
            }
            nextSlab += 1
            byteCount += slabByteCount
        }
        return byteCount > 0 ? byteCount : nil
    }

    private mutating func startSlab(byteCount: Int) {
        let rows = Int(geometry.tokens)
        rowByteCount = byteCount / rows
        let mostRows = Swift.max(1, Self.mostByteCount / rowByteCount)
        let parts = (rows + mostRows - 1) / mostRows
        rowsPerUnit = (rows + parts - 1) / parts
        rowsLeftOfSlab = rows
    }

    private mutating func nextRows() -> Int {
        let rows = Swift.min(rowsPerUnit, rowsLeftOfSlab)
        rowsLeftOfSlab -= rows
        return rows * rowByteCount
    }
}
