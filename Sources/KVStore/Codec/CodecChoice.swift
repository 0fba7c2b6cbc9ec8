/// How blocks are coded on disk. Whatever is asked for: a unit (64 KiB or more of a block) of one repeated word takes two
/// bytes, and one that does not shrink by a sixteenth is stored raw.
///
/// A codec that does not fit the element type, such as nib4 for fp16, is taken as ``automatic`` there.
public enum CodecChoice: String, Sendable, Hashable, CaseIterable {
    /// What suits the element type, and, where it matters, the measured speed of the disk: ``int8`` if the namespace
    /// allows it; bf16 ``nib4``, or ``nib4h`` where segments are written at 300 MB/s or less; fp16 and fp8 ``raw``, or ``hsplit``
    /// at 150 MB/s or less; opaque bytes and 8-bit integers ``lz4``; fp32 ``raw``.
    case automatic
    /// Everything as it is.
    case raw
    /// LZ4: for text, padding and integers. It finds nothing in floats.
    case lz4
    /// bf16: exponents as 4-bit distances from a base. Ratio 1.33, about as fast as a copy.
    case nib4
    /// bf16: nib4 with Huffman codes. Ratio 1.4 to 1.5, about 2 GB/s a core.
    case nib4h
    /// 16-bit and 8-bit floats: Huffman codes for the exponents. fp16 1.17, about 1 GB/s a core.
    case hsplit
    /// Lossy: 8-bit integers with a scale per channel (keys) or token (values). Ratio 1.9, relative error 0.6 %. Only for
    /// namespaces whose ``NamespaceIdentity/storage-swift.property`` is `int8`; a store that is configured for it refuses
    /// others.
    case int8
}

/// What the writer knows when it chooses a codec.
package struct WriteConditions: Hashable, Sendable {
    /// How fast the disk has been writing; nil when not yet known.
    package var diskBytesPerSecond: Double?
    /// More waits to be written than the writer keeps up with, so slow codecs are left out.
    package var isBacklogged: Bool

    package init(diskBytesPerSecond: Double? = nil, isBacklogged: Bool = false) {
        self.diskBytesPerSecond = diskBytesPerSecond
        self.isBacklogged = isBacklogged
    }

    /// Where Huffman codes over bf16 pay. The speed is that of segment files, and RocksDB writes them at some 800 MB/s a
    /// core however fast the disk is; at 2 GB/s, where a core could decode them, they made spilling slower than raw.
    static let nib4hBytesPerSecond = 300e6
    /// The same for fp16 and fp8, where there is less to gain.
    static let hsplitBytesPerSecond = 150e6

    fileprivate func allowsHuffman(upTo limit: Double) -> Bool {
        guard let diskBytesPerSecond, !isBacklogged else { return false }
        return diskBytesPerSecond <= limit
    }
}

extension CodecChoice {
    /// What to try for each unit of such a block. `constant` means nothing but units of one word.
    func target(for geometry: FrameGeometry, conditions: WriteConditions = WriteConditions()) -> UnitCodec {
        let type = geometry.elementType
        switch self {
        case .raw: return .raw
        case .lz4: return .lz4
        case .nib4 where type == .bf16: return .nib4
        case .nib4h where type == .bf16: return .nib4h
        case .hsplit where Self.hsplitTypes.contains(type): return .hsplit
        case .automatic, .nib4, .nib4h, .hsplit, .int8: break
        }
        if geometry.storage == .int8 { return .int8 }
        switch type {
        case .bf16: return conditions.allowsHuffman(upTo: WriteConditions.nib4hBytesPerSecond) ? .nib4h : .nib4
        case .fp16, .fp8e4m3, .fp8e5m2:
            return conditions.allowsHuffman(upTo: WriteConditions.hsplitBytesPerSecond) ? .hsplit : .constant
        case .opaque, .int8: return .lz4
        case .fp32: return .constant
        }
    }

    private static let hsplitTypes: [ElementType] = [.bf16, .fp16, .fp8e4m3, .fp8e5m2]
}
