import Foundation
@testable import KVStore

/// Blocks of numbers for the codec tests.
enum KVSample {
    /// Normally distributed, each channel with its own spread: the exponents of real KV, 2.6 bits of entropy each.
    static func generated(_ geometry: FrameGeometry, seed: UInt64 = 1, outliers: Bool = false) -> [UInt8] {
        var random = RecordRandom(seed: seed)
        var spreads: [Int: Float] = [:]
        var words: [UInt16] = []
        let place = UnitPlace(geometry: geometry, offset: 0, byteCount: geometry.rawByteCount!)
        for part in place.parts {
            for _ in 0..<part.rows {
                for channel in 0..<part.channels {
                    let key = channel * 2 + (part.isValue ? 1 : 0)
                    let spread = spreads[key] ?? Float.random(in: 0.7...1.4, using: &random)
                    spreads[key] = spread
                    // Two outlier channels per head of keys, as large models have them.
                    let isOutlier = outliers && !part.isValue && channel % part.headDimension < 2
                    words.append(
                        CodecReference.word(
                            normal(&random) * spread * (isOutlier ? 32 : 1),
                            geometry.elementType == .fp16 ? .fp16 : .bf16
                        )
                    )
                }
            }
        }
        return CodecReference.bytes(words)
    }

    private static func normal(_ random: inout RecordRandom) -> Float {
        let uniform = Float.random(in: Float.leastNormalMagnitude..<1, using: &random)
        return (-2 * log(uniform)).squareRoot() * cos(2 * .pi * Float.random(in: 0..<1, using: &random))
    }

    struct Real {
        var name: String
        var geometry: FrameGeometry
        var raw: [UInt8]
    }

    private struct Manifest: Decodable {
        struct Block: Decodable {
            var file: String
            var kind: String
            var dtype: String
            var tokens: UInt16
            // Only K/V files have these.
            var layers: UInt16?
            var kv_heads: UInt16?
            var head_dim: UInt16?
        }
        var blocks: [Block]
    }

    /// Real tensors: in `KVSTORE_SHARED/kv-samples`, or in `shared/kv-samples` beside the package or above it. Nil, said on
    /// standard output, where there are none.
    static let real: [Real]? = {
        guard let directory = realDirectory,
            let text = FileManager.default.contents(atPath: directory + "/manifest.json"),
            let manifest = try? JSONDecoder().decode(Manifest.self, from: text)
        else {
            print("no kv-samples (set KVSTORE_SHARED): ratios are checked on generated data only")
            return nil
        }
        return manifest.blocks.compactMap { block in
            guard block.kind == "kv", let layers = block.layers, let heads = block.kv_heads,
                let dimension = block.head_dim,
                let raw = FileManager.default.contents(atPath: directory + "/" + block.file)
            else { return nil }
            let geometry = FrameGeometry(
                elementType: block.dtype == "fp16" ? .fp16 : .bf16,
                tokens: block.tokens,
                layers: layers,
                keyHeads: heads,
                headDimension: dimension
            )
            guard raw.count == geometry.rawByteCount else { return nil }
            return Real(name: block.file, geometry: geometry, raw: [UInt8](raw))
        }
    }()

    private static var realDirectory: String? {
        var candidates: [URL] = []
        if let shared = ProcessInfo.processInfo.environment["KVSTORE_SHARED"] {
            candidates.append(URL(fileURLWithPath: shared))
        }
        var folder = URL(fileURLWithPath: #filePath)
        while folder.path != "/" {
            folder.deleteLastPathComponent()
            candidates.append(folder.appendingPathComponent("shared"))
        }
        return candidates.map { $0.path + "/kv-samples" }.first {
            FileManager.default.fileExists(atPath: $0 + "/manifest.json")
        }
    }
}

/// One unit coded and decoded between pages that nobody may touch.
enum UnitSample {
    struct Stored: Equatable {
        var codec: UnitCodec
        var baseMode: UInt8 = 0
        var bytes: [UInt8]
    }

    /// Nil when the codec will not have the unit. `most` is how long the result may be.
    static func encode(
        _ raw: [UInt8],
        as codec: UnitCodec,
        _ geometry: FrameGeometry,
        offset: Int = 0,
        most: Int? = nil,
        level: KernelLevel = .best
    ) -> Stored? {
        let scratch = CodecScratch.borrow()
        defer { scratch.giveBack() }
        let place = UnitPlace(geometry: geometry, offset: offset, byteCount: raw.count)
        return GuardedBytes.with(raw) { raw in
            GuardedBytes.with(count: most ?? raw.count * 15 / 16) { room -> Stored? in
                switch codec {
                case .nib4, .nib4h:
                    let coded = Nib4.encode(
                        raw,
                        place: place,
                        wantsHuffman: codec == .nib4h,
                        scratch: scratch,
                        into: room,
                        level: level
                    )
                    return coded.map {
                        Stored(codec: $0.codec, baseMode: $0.baseMode, bytes: Array(room[..<$0.byteCount]))
                    }
                case .hsplit:
                    let width = geometry.elementType.byteCount
                    let count = HSplit.encode(raw, elementByteCount: width, scratch: scratch, into: room, level: level)
                    return count.map { Stored(codec: .hsplit, bytes: Array(room[..<$0])) }
                case .int8:
                    let count = Int8Quantiser.encode(raw, place: place, scratch: scratch, into: room, level: level)
                    return count.map { Stored(codec: .int8, bytes: Array(room[..<$0])) }
                case .raw, .constant, .lz4: preconditionFailure("not a codec with levels")
                }
            }
        }
    }

    static func decode(
        _ stored: Stored,
        _ geometry: FrameGeometry,
        offset: Int = 0,
        rawByteCount: Int,
        level: KernelLevel = .best
    ) throws(RecordDamage) -> [UInt8] {
        let scratch = CodecScratch.borrow()
        defer { scratch.giveBack() }
        let place = UnitPlace(geometry: geometry, offset: offset, byteCount: rawByteCount)
        return try GuardedBytes.with(stored.bytes) { bytes throws(RecordDamage) in
            try GuardedBytes.with(count: rawByteCount) { output throws(RecordDamage) in
                switch stored.codec {
                case .nib4, .nib4h:
                    try Nib4.decode(
                        bytes,
                        isHuffman: stored.codec == .nib4h,
                        baseMode: stored.baseMode,
                        scratch: scratch,
                        into: output,
                        level: level
                    )
                case .hsplit: try HSplit.decode(bytes, scratch: scratch, into: output, level: level)
                case .int8: try Int8Quantiser.decode(bytes, place: place, scratch: scratch, into: output, level: level)
                case .raw, .constant, .lz4: preconditionFailure("not a codec with levels")
                }
                return Array(output)
            }
        }
    }
}
