import Testing

@testable import KVStore

/// Units as a hostile disk would hand them out: below the digests of a record, which usually stop them long before.
@Suite("Damaged units")
struct CodecDamageTests {
    struct Sample: Sendable {
        var geometry: FrameGeometry
        var rawByteCount: Int
        var stored: UnitSample.Stored
    }

    static let samples: [Sample] = {
        var samples: [Sample] = []
        func add(_ raw: [UInt8], _ codec: UnitCodec, _ geometry: FrameGeometry) {
            let stored = UnitSample.encode(raw, as: codec, geometry)!
            samples.append(Sample(geometry: geometry, rawByteCount: raw.count, stored: stored))
        }
        let geometry = CodecTests.shape(tokens: 64, layers: 1, heads: 1, dimension: 16)
        let plain = KVSample.generated(geometry)
        let loud = CodecReference.bytes(
            CodecReference.words(plain).enumerated().map { $0 % 16 == 3 ? $1 &+ 20 << 7 : $1 }
        )
        for raw in [plain, loud, plain + [1, 2, 3]] {
            let shape = raw.count == plain.count ? geometry : RecordSample.opaque(.bf16)
            for codec in [UnitCodec.nib4, .nib4h, .hsplit] { add(raw, codec, shape) }
        }
        add(plain, .hsplit, RecordSample.opaque(.fp8e4m3))
        add(plain, .int8, geometry)
        precondition(Set(samples.map { "\($0.stored.codec) \($0.stored.baseMode)" }).count == 6)
        return samples
    }()

    @Test(arguments: 0..<4)
    func `100000 changed units never trap and decode the same at every level`(seed: Int) {
        var random = RecordRandom(seed: UInt64(300 + seed))
        var (decoded, refused) = (0, 0)
        for _ in 0..<25_000 {
            let sample = Self.samples.randomElement(using: &random)!
            var stored = sample.stored
            Self.mutate(&stored.bytes, using: &random)
            if Int.random(in: 0..<16, using: &random) == 0 { stored.baseMode ^= 1 }
            let rawByteCount =
                Int.random(in: 0..<8, using: &random) == 0
                ? Int.random(in: 1...5_000, using: &random) : sample.rawByteCount
            let results = KernelLevel.available.map { level in
                try? UnitSample.decode(stored, sample.geometry, rawByteCount: rawByteCount, level: level)
            }
            #expect(results.allSatisfy { $0 == results[0] })
            if results[0] == nil { refused += 1 } else { decoded += 1 }
        }
        // Both must happen often, or the changes are not worth much.
        #expect(decoded > 2_500 && refused > 2_500, "\(decoded) decoded, \(refused) refused")
    }

    private static func mutate(_ bytes: inout [UInt8], using random: inout RecordRandom) {
        for _ in 0..<Int.random(in: 1...3, using: &random) where !bytes.isEmpty {
            // Lengths, modes, and the heads of zstd frames matter most.
            let head = Bool.random(using: &random) ? min(bytes.count, 24) : bytes.count
            let position = Int.random(in: 0..<head, using: &random)
            switch Int.random(in: 0..<8, using: &random) {
            case 0, 1, 2: bytes[position] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 3: bytes[position] = [0, 1, 0x7F, 0x80, 0xFF].randomElement(using: &random)!
            case 4: bytes.removeLast(Int.random(in: 1...min(8, bytes.count), using: &random))
            case 5: bytes.append(UInt8.random(in: .min ... .max, using: &random))
            case 6: for offset in position..<min(position + 4, bytes.count) { bytes[offset] = 0xFF }
            default: bytes[position] = UInt8.random(in: .min ... .max, using: &random)
            }
        }
    }

    @Test func `Escapes outside the unit or out of order are refused`() throws {
        let sample = Self.samples.first { $0.stored.codec == .nib4 && $0.stored.bytes[0] >= 2 }
        var (geometry, stored, count) = (RecordSample.opaque(.bf16), UnitSample.Stored?.none, 0)
        if let sample {
            (geometry, stored, count) = (sample.geometry, sample.stored, sample.rawByteCount)
        } else {
            var words = CodecReference.words(KVSample.generated(CodecTests.shape()))
            for index in [5, 700, 701, 8_000] { words[index] = 0x7FC0 }
            let raw = CodecReference.bytes(words)
            (stored, count) = (UnitSample.encode(raw, as: .nib4, geometry), raw.count)
        }
        let whole = try #require(stored)
        let escapes = Int(whole.bytes[0]) | Int(whole.bytes[1]) << 8
        let first = whole.bytes.count - 4 * escapes
        #expect(throws: Never.self) { try UnitSample.decode(whole, geometry, rawByteCount: count) }
        for change in [
            { (bytes: inout [UInt8]) in bytes.replaceSubrange(first + 4..<first + 8, with: bytes[first..<first + 4]) },
            { bytes in for offset in 0..<3 { bytes.swapAt(first + offset, first + 4 + offset) } },
            { bytes in bytes.replaceSubrange(bytes.count - 4..<bytes.count - 1, with: [0xFF, 0xFF, 0xFF]) },
            { bytes in bytes[0] &+= 1 }, { bytes in bytes[3] = 0xFF },
        ] {
            var changed = whole
            change(&changed.bytes)
            for level in KernelLevel.available {
                #expect(throws: RecordDamage.undecodable) {
                    try UnitSample.decode(changed, geometry, rawByteCount: count, level: level)
                }
            }
        }
    }
}
