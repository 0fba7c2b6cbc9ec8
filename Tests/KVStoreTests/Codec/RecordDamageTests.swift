@testable import KVStore
import Testing

/// Never a wrong byte: whatever happens to a record, reading it gives the block that was written or a reason.
@Suite("Damaged records")
struct RecordDamageTests {
    struct Sample {
        var raw: [UInt8]
        var record: [UInt8]
    }

    static let samples: [Sample] = {
        let noise = BlockRecordTests.noise
        let text = BlockRecordTests.text
        let shaped = FrameGeometry(elementType: .bf16, tokens: 4, layers: 2, keyHeads: 2, headDimension: 16)
        let blocks: [([UInt8], FrameGeometry)] = [
            (Array(noise.prefix(1_000)), RecordSample.opaque()),
            (Array(text.prefix(3_000)), RecordSample.opaque()),
            ([UInt8](repeating: 0, count: 777), RecordSample.opaque(.bf16)),
            (Array(noise.prefix(shaped.rawByteCount!)), shaped),
            (Array(text.prefix(262_144)) + Array(noise.prefix(300)), RecordSample.opaque()),
        ]
        return blocks.map { Sample(raw: $0.0, record: RecordSample.encode($0.0, geometry: $0.1)) }
            + floats
    }()

    /// One record for each codec of floats, small enough to be changed often.
    private static let floats: [Sample] = [CodecChoice.nib4, .nib4h, .hsplit, .int8].map { choice in
        var geometry = FrameGeometry(elementType: .bf16, tokens: 64, layers: 1, keyHeads: 1, headDimension: 16)
        geometry.storage = choice == .int8 ? .int8 : .lossless
        let raw = KVSample.generated(geometry)
        let record = RecordSample.encode(raw, geometry: geometry, codec: choice)
        precondition(record[128 + 5] == choice.target(for: geometry).rawValue, "the sample is not of its codec")
        // What a lossy record gives back is not what went in.
        return Sample(raw: try! RecordSample.decode(record, rawByteCount: raw.count), record: record)
    }
    private static let small = samples.filter { $0.record.count < 5_000 }

    private func damage(_ record: [UInt8], rawByteCount: Int) -> RecordDamage? {
        do {
            _ = try RecordSample.decode(record, rawByteCount: rawByteCount)
            return nil
        } catch { return error }
    }

    @Test("every flipped bit is found, wherever it is")
    func flips() {
        for sample in Self.samples where sample.record.count < 5_000 {
            for position in sample.record.indices {
                var record = sample.record
                record[position] ^= 1 << UInt8(position & 7)
                #expect(damage(record, rawByteCount: sample.raw.count) != nil, "byte \(position)")
                #expect(throws: RecordDamage.self) { try RecordSample.verify(record) }
            }
        }
    }

    @Test("every shortened and every lengthened record is found")
    func lengths() {
        for sample in Self.samples where sample.record.count < 5_000 {
            for count in 0..<sample.record.count {
                #expect(damage(Array(sample.record.prefix(count)), rawByteCount: sample.raw.count) != nil)
            }
            #expect(damage(sample.record + [0], rawByteCount: sample.raw.count) == .trailingBytes)
        }
    }

    @Test("40,000 random changes never trap and never give other bytes", arguments: 0..<4)
    func mutations(seed: Int) {
        var random = RecordRandom(seed: UInt64(100 + seed))
        for _ in 0..<10_000 {
            let sample = Self.small.randomElement(using: &random)!
            var record = sample.record
            mutate(&record, using: &random)
            let decoded = try? RecordSample.decode(record, rawByteCount: sample.raw.count)
            #expect(decoded == nil || (decoded == sample.raw && record == sample.record))
            _ = try? RecordSample.verify(record)
            _ = try? RecordSample.inspect(record)
        }
    }

    @Test("40,000 changes with digests made right again never trap and never give other bytes", arguments: 0..<4)
    func resealedMutations(seed: Int) {
        var random = RecordRandom(seed: UInt64(200 + seed))
        for _ in 0..<10_000 {
            let sample = Self.small.randomElement(using: &random)!
            var record = sample.record
            mutate(&record, using: &random)
            // The digest of the raw bytes stays what it was: only its owner can change it.
            for offset in [112, 168] where record.count >= offset + 8 {
                record.replaceSubrange(offset..<offset + 8, with: sample.record[offset..<offset + 8])
            }
            RecordSample.reseal(&record)
            let decoded = try? RecordSample.decode(record, rawByteCount: sample.raw.count)
            #expect(decoded == nil || decoded == sample.raw)
            _ = try? RecordSample.verify(record)
            _ = try? RecordSample.inspect(record)
        }
    }

    private func mutate(_ record: inout [UInt8], using random: inout RecordRandom) {
        for _ in 0..<Int.random(in: 1...4, using: &random) where !record.isEmpty {
            // Half of the changes hit header and unit table, where the lengths are.
            let head = Bool.random(using: &random) ? min(record.count, 256) : record.count
            let position = Int.random(in: 0..<head, using: &random)
            switch Int.random(in: 0..<8, using: &random) {
            case 0: record[position] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 1: record[position] = [0, 1, 0x7F, 0x80, 0xFF].randomElement(using: &random)!
            case 2: record.removeLast(record.count - position)
            case 3: record.append(UInt8.random(in: .min ... .max, using: &random))
            case 4: record.remove(at: position)
            case 5: for offset in position..<min(position + 8, record.count) { record[offset] = 0xFF }
            case 6: for offset in position..<min(position + 4, record.count) { record[offset] = 0 }
            default: record[position] = UInt8.random(in: .min ... .max, using: &random)
            }
        }
    }

    @Test("random bytes are not a record")
    func noise() {
        var random = RecordRandom(seed: 3)
        for _ in 0..<5_000 {
            var bytes = (0..<Int.random(in: 0...400, using: &random)).map { _ in
                UInt8.random(in: .min ... .max, using: &random)
            }
            #expect(damage(bytes, rawByteCount: 64) != nil)
            for (offset, byte) in zip(0..., Array("KVR1".utf8) + [1, 0]) where offset < bytes.count {
                bytes[offset] = byte
            }
            for (offset, byte) in zip(128..., Array("KVF1".utf8) + [1]) where offset < bytes.count {
                bytes[offset] = byte
            }
            RecordSample.reseal(&bytes)
            #expect(damage(bytes, rawByteCount: 64) != nil)
        }
    }

    @Test("a record of another block, namespace or length is refused")
    func identity() throws {
        let sample = Self.samples[0]
        let other = RecordSample.identity.parent
        #expect(throws: RecordDamage.otherKey) {
            try RecordSample.decode(sample.record, rawByteCount: 1_000, key: other)
        }
        #expect(throws: RecordDamage.otherNamespace) {
            try RecordSample.decode(sample.record, rawByteCount: 1_000, fingerprint: other)
        }
        for count in [0, 999, 1_001] { #expect(damage(sample.record, rawByteCount: count) == .lengthMismatch) }
        #expect(damage(sample.record, rawByteCount: 1_000) == nil)
    }

    @Test("another block's frame under this block's identity is refused")
    func swappedFrames() {
        let (first, second) = (Array(BlockRecordTests.noise[..<500]), Array(BlockRecordTests.noise[500..<1_000]))
        let (firstRecord, secondRecord) = (RecordSample.encode(first), RecordSample.encode(second))
        let mixed = Array(firstRecord[..<128]) + secondRecord[128...]
        #expect(damage(mixed, rawByteCount: 500) == .mismatchedParts)
    }

    @Test("what a later version may write is a miss, not a crash: version, codec, flags, profile, key, nonce")
    func laterVersions() {
        let changes: [(offset: Int, value: UInt8)] = [
            (4, 2), (128 + 4, 2), (128 + 6, 7), (128 + 7, 0), (128 + 7, 18), (128 + 17, 1),
            (128 + 18, 112),
            (128 + 56, 1), (128 + 62, 1), (128 + 64, 1), (128 + 68, 1), (128 + 91, 1),
        ]
        for (offset, value) in changes {
            var record = Self.samples[0].record
            record[offset] = value
            RecordSample.reseal(&record)
            #expect(damage(record, rawByteCount: 1_000) == .unsupported, "offset \(offset)")
        }
        for codec in [6, 15, 17, 18, 255] as [UInt8] {
            var record = Self.samples[0].record
            (record[128 + 5], record[224 + 8]) = (codec, codec)
            RecordSample.reseal(&record)
            #expect(damage(record, rawByteCount: 1_000) == .unsupported)
            #expect(throws: Never.self) { try RecordSample.inspect(record) }
        }
    }

    @Test("impossible lengths are refused before anything is written")
    func impossibleLengths() {
        // Units, raw bytes, stored bytes, the first unit's stored and raw bytes: huge, and off by one.
        for (offset, width) in [(128 + 20, 4), (128 + 24, 8), (128 + 32, 8), (224, 4), (228, 4)] {
            for sample in Self.samples {
                for value in [[UInt8](repeating: 0xFF, count: width), [UInt8](repeating: 0, count: width)] {
                    var record = sample.record
                    record.replaceSubrange(offset..<offset + width, with: value)
                    RecordSample.reseal(&record)
                    #expect(damage(record, rawByteCount: sample.raw.count) != nil)
                }
                for step in [1, 255] as [UInt8] {
                    var record = sample.record
                    record[offset] &+= step
                    RecordSample.reseal(&record)
                    #expect(damage(record, rawByteCount: sample.raw.count) != nil)
                }
            }
        }
    }

    @Test("a shape too large for any machine is refused, not multiplied")
    func hugeGeometry() {
        var record = Self.samples[3].record
        for offset in (128 + 8)..<(128 + 16) { record[offset] = 0xFF }
        record[128 + 60] = 0xFF
        record[128 + 61] = 0xFF
        RecordSample.reseal(&record)
        #expect(damage(record, rawByteCount: Self.samples[3].raw.count) == .malformed)
    }

    @Test("a scrub finds a wrong unit digest, which a whole read does not need")
    func unitDigest() throws {
        var record = Self.samples[0].record
        record[224 + 12] ^= 1
        RecordSample.reseal(&record)
        #expect(damage(record, rawByteCount: 1_000) == nil)
        #expect(throws: RecordDamage.unitDigest) { try RecordSample.verify(record) }
    }

    @Test("every reason has a text of its own")
    func texts() {
        #expect(Set(RecordDamage.allCases.map(\.description)).count == RecordDamage.allCases.count)
    }
}
