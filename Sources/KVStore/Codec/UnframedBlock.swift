/// A block's coded units one after the other, without digests and frame: what a codec costs by itself, for measuring.
package struct UnframedBlock {
    private struct Unit {
        var coded: Nib4.Coded
        var rawByteCount: Int
    }

    private let geometry: FrameGeometry
    private let units: [Unit]

    /// The bytes of all units.
    package var storedByteCount: Int { units.reduce(0) { $0 + $1.coded.byteCount } }

    /// Codes `raw` into the start of `output`, which has at least as many bytes.
    package init(
        coding raw: UnsafeRawBufferPointer,
        geometry: FrameGeometry,
        codec: CodecChoice,
        into output: UnsafeMutableRawBufferPointer
    ) {
        precondition(output.count >= raw.count, "no room for the units")
        self.geometry = geometry
        let target = codec.target(for: geometry)
        var scratch = ScratchLoan()
        var units: [Unit] = []
        var (rawOffset, storedOffset) = (0, 0)
        // Safe: the plan adds up to the block, and no unit grows.
        for rawByteCount in UnitPlan(geometry: geometry, rawByteCount: raw.count) {
            let coded = unsafe UnitCodec.encode(
                UnsafeRawBufferPointer(rebasing: raw[rawOffset..<rawOffset + rawByteCount]),
                place: UnitPlace(geometry: geometry, offset: rawOffset, byteCount: rawByteCount),
                target: target,
                scratch: &scratch,
                into: UnsafeMutableRawBufferPointer(rebasing: output[storedOffset...])
            )
            units.append(Unit(coded: coded, rawByteCount: rawByteCount))
            rawOffset += rawByteCount
            storedOffset += coded.byteCount
        }
        self.units = units
    }

    /// Decodes what `init` wrote to the start of `stored`, filling the start of `output`.
    package func decode(
        _ stored: UnsafeRawBufferPointer,
        into output: UnsafeMutableRawBufferPointer
    ) throws(RecordDamage) {
        var scratch = ScratchLoan()
        var (rawOffset, storedOffset) = (0, 0)
        // Safe: slicing checks that every unit is inside both buffers.
        for unit in units {
            let storedEnd = storedOffset + unit.coded.byteCount
            try unsafe unit.coded.codec.decode(
                UnsafeRawBufferPointer(rebasing: stored[storedOffset..<storedEnd]),
                baseMode: unit.coded.baseMode,
                place: UnitPlace(geometry: geometry, offset: rawOffset, byteCount: unit.rawByteCount),
                scratch: &scratch,
                into: UnsafeMutableRawBufferPointer(rebasing: output[rawOffset..<rawOffset + unit.rawByteCount])
            )
            rawOffset += unit.rawByteCount
            storedOffset = storedEnd
        }
    }
}
