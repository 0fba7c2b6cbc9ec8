import Testing

@testable import KVStore

@Suite("Compression ratios")
struct CodecRatioTests {
    struct Case: CustomTestStringConvertible {
        var choice: CodecChoice
        var type: ElementType
        var leastTokens: UInt16
        var leastRatio: Double
        var testDescription: String { "\(choice) on \(type), at least \(leastRatio)" }
    }

    static let cases = [
        Case(choice: .nib4, type: .bf16, leastTokens: 16, leastRatio: 1.32),
        Case(choice: .nib4h, type: .bf16, leastTokens: 16, leastRatio: 1.46),
        Case(choice: .hsplit, type: .fp16, leastTokens: 16, leastRatio: 1.165),
        Case(choice: .hsplit, type: .bf16, leastTokens: 16, leastRatio: 1.45),
        Case(choice: .int8, type: .bf16, leastTokens: 64, leastRatio: 1.92),
        Case(choice: .int8, type: .fp16, leastTokens: 64, leastRatio: 1.92),
    ]

    /// Raw bytes per stored byte, without the record's 224 bytes: what a unit of at least 48 KiB makes of itself.
    private func ratio(_ raw: [UInt8], _ geometry: FrameGeometry, _ choice: CodecChoice) throws -> Double {
        var geometry = geometry
        if choice == .int8 { geometry.storage = .int8 }
        let record = RecordSample.encode(raw, geometry: geometry, codec: choice)
        let decoded = try RecordSample.decode(record, rawByteCount: raw.count)
        if choice == .int8 {
            #expect(CodecReference.relativeError(decoded, of: raw, geometry.elementType) <= 0.007)
        } else {
            #expect(decoded == raw)
        }
        return Double(raw.count) / Double(record.count - 224)
    }

    @Test(arguments: cases)
    func `Ratios hold on generated data with the exponents of real KV`(expected: Case) throws {
        for (tokens, heads, dimension) in [(64, 8, 128), (256, 2, 64)] as [(UInt16, UInt16, UInt16)] {
            let geometry = CodecTests.shape(expected.type, tokens: tokens, heads: heads, dimension: dimension)
            let found = try ratio(KVSample.generated(geometry), geometry, expected.choice)
            #expect(found >= expected.leastRatio, "\(tokens) tokens: \(found)")
        }
    }

    @Test(arguments: cases)
    func `Ratios hold on real tensors where they are present`(expected: Case) throws {
        guard let samples = KVSample.real else { return }
        var (raw, stored, count) = (0.0, 0.0, 0)
        for sample in samples where sample.geometry.elementType == expected.type {
            // Sixteen tokens of one file are one unit of 48 KiB and a smaller one; the others have whole units.
            guard sample.geometry.tokens >= expected.leastTokens, sample.raw.count >= 48 << 10 else { continue }
            let found = try ratio(sample.raw, sample.geometry, expected.choice)
            raw += Double(sample.raw.count)
            stored += Double(sample.raw.count) / found
            count += 1
        }
        try #require(count > 0)
        print("ratio of \(expected.choice) on \(count) real \(expected.type) blocks: \(raw / stored)")
        #expect(raw / stored >= expected.leastRatio)
    }
}
