/// Where a unit lies in its block.
struct UnitPlace {
    var geometry: FrameGeometry
    /// Of its first byte, in the raw block.
    var offset: Int
    var byteCount: Int

    /// The slabs, or rows of a slab, of which the unit consists.
    var parts: UnitParts { UnitParts(self) }
}

/// Walks over the slabs of a unit; a unit can also begin or end inside a slab, between two rows.
///
/// It stops early at anything that is not whole rows, and always for an opaque layout. ``isComplete`` then says no.
struct UnitParts: Sequence, IteratorProtocol {
    struct Part: Hashable {
        var isValue: Bool
        var rows: Int
        /// Numbers of one row: heads times dimension.
        var channels: Int
        var headDimension: Int
    }

    private let geometry: FrameGeometry
    private var offset: Int
    private let end: Int

    fileprivate init(_ place: UnitPlace) {
        geometry = place.geometry
        offset = place.offset
        end = place.offset + place.byteCount
    }

    /// Whether all of the unit has been walked over.
    var isComplete: Bool { offset == end }

    mutating func next() -> Part? {
        guard geometry.layout == .layerKindTokenHeadDimension, offset < end else { return nil }
        // A frame header's shape gives exactly its raw bytes, at most 1 GiB, so none of these overflows.
        let layerByteCount = geometry.keySlabByteCount + geometry.valueSlabByteCount
        guard layerByteCount > 0 else { return nil }
        let offsetInLayer = offset % layerByteCount
        let isValue = offsetInLayer >= geometry.keySlabByteCount
        let rowByteCount = isValue ? geometry.valueRowByteCount : geometry.keyRowByteCount
        let offsetInSlab = isValue ? offsetInLayer - geometry.keySlabByteCount : offsetInLayer
        let slabByteCount = isValue ? geometry.valueSlabByteCount : geometry.keySlabByteCount
        let byteCount = Swift.min(end - offset, slabByteCount - offsetInSlab)
        guard offsetInSlab % rowByteCount == 0, byteCount % rowByteCount == 0 else { return nil }
        offset += byteCount
        let channels = rowByteCount / geometry.elementType.byteCount
        return Part(
            isValue: isValue,
            rows: byteCount / rowByteCount,
            channels: channels,
            headDimension: channels / Int(geometry.keyHeads)
        )
    }
}
