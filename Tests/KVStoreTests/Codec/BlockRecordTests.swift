import Testing

@testable import KVStore

@Suite("Block records")
struct BlockRecordTests {
    static let noise: [UInt8] = {
        var random = RecordRandom(seed: 1)
        return (0..<700_001).map { _ in UInt8.random(in: .min ... .max, using: &random) }
    }()
    static let text = Array(String(repeating: "the quick brown fox jumps over the lazy dog; ", count: 9_000).utf8)

    @Test("what goes in comes out, for every codec, element type and length", arguments: CodecChoice.allCases)
    func roundTrips(codec: CodecChoice) throws {
        var random = RecordRandom(seed: 2)
        let lengths =
            [
                1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145,
                600_001,
            ]
            + (0..<40).map { _ in Int.random(in: 1...5_000, using: &random) }
        for length in lengths {
            let elementType = ElementType.allCases.randomElement(using: &random)!
            for raw in [
                Array(Self.noise.prefix(length)), Array(Self.text.prefix(length)), [UInt8](repeating: 0, count: length),
            ] {
                let record = RecordSample.encode(raw, geometry: RecordSample.opaque(elementType), codec: codec)
                #expect(
                    try RecordSample.decode(record, rawByteCount: raw.count) == raw,
                    "\(length) bytes of \(elementType)"
                )
                try RecordSample.verify(record)
                let found = try RecordSample.inspect(record)
                #expect(found.identity == RecordSample.identity)
                #expect(found.rawByteCount == raw.count && found.storedByteCount == record.count)
            }
        }
    }

    @Test("a record is the same through a window that it does not fit into", arguments: CodecChoice.allCases)
    func windows(codec: CodecChoice) throws {
        var random = RecordRandom(seed: 3)
        for raw in [Self.noise, Self.text, [UInt8](repeating: 0, count: 700_001)] {
            let record = RecordSample.encode(raw, geometry: RecordSample.opaque(.bf16), codec: codec)
            for windowByteCount in [262_144, 300_000, 524_288, record.count] {
                var window = RecordWindow(record, windowByteCount: windowByteCount)
                #expect(try window.decode(rawByteCount: raw.count) == raw, "\(windowByteCount)")
            }
            // A unit of noise is as long as it is, so nothing is lent.
            var tooSmall = RecordWindow(record, windowByteCount: 4096)
            if record.count > 300_000 {
                #expect(throws: RecordDamage.truncated) { try tooSmall.decode(rawByteCount: raw.count) }
            }
            var damaged = record
            let place = Int.random(in: 240..<record.count, using: &random)
            damaged[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            var window = RecordWindow(damaged, windowByteCount: 262_144)
            #expect(throws: RecordDamage.self, "byte \(place)") { try window.decode(rawByteCount: raw.count) }
        }
    }

    @Test("padding takes two bytes a unit, and an odd length comes back whole")
    func constantUnits() throws {
        let cases: [(word: [UInt8], length: Int)] = [
            ([0, 0], 600_001), ([0x80, 0x3F], 600_000), ([0xFF, 0x7F], 600_001), ([1, 2], 3),
        ]
        for (word, length) in cases {
            let raw = (0..<length).map { word[$0 & 1] }
            let record = RecordSample.encode(raw, geometry: RecordSample.opaque(.bf16))
            let unitCount = (length + 262_143) / 262_144
            #expect(record.count == 128 + 96 + unitCount * (16 + 2))
            #expect(try RecordSample.decode(record, rawByteCount: length) == raw)
        }
        // One byte that differs, anywhere, and the unit is not constant.
        for position in [0, 1, 2, 7, 8, 500, 997, 998, 999, 1_000] {
            var raw = [UInt8](repeating: 0, count: 1_001)
            raw[position] = 1
            let record = RecordSample.encode(raw, geometry: RecordSample.opaque(.fp16))
            #expect(record.count == 128 + 96 + 16 + 1_001)
            #expect(try RecordSample.decode(record, rawByteCount: raw.count) == raw)
        }
    }

    @Test("text shrinks with LZ4 where the element type asks for it, and not where it is said to be floats")
    func choices() throws {
        for (elementType, shrinks) in [(ElementType.opaque, true), (.int8, true), (.bf16, false), (.fp16, false)] {
            let record = RecordSample.encode(Self.text, geometry: RecordSample.opaque(elementType))
            #expect((record.count < Self.text.count / 10) == shrinks, "\(elementType)")
            #expect(try RecordSample.decode(record, rawByteCount: Self.text.count) == Self.text)
        }
    }

    @Test("a unit that would save less than a sixteenth is stored raw")
    func bypass() throws {
        // 64 KiB of which a thirtieth is zeros: LZ4 saves something, but not enough.
        var raw = Array(Self.noise.prefix(65_536))
        for position in 0..<2_184 { raw[position] = 0 }
        #expect(RecordSample.encode(raw, codec: .lz4).count == 128 + 96 + 16 + raw.count)
        for position in 0..<6_554 { raw[position] = 0 }
        let record = RecordSample.encode(raw, codec: .lz4)
        #expect(record.count < raw.count * 15 / 16 + 240)
        #expect(try RecordSample.decode(record, rawByteCount: raw.count) == raw)
    }

    @Test("units of one record can have different codecs")
    func mixedUnits() throws {
        let unit = 262_144
        let raw = Array(Self.noise.prefix(unit)) + Array(Self.text.prefix(unit)) + [UInt8](repeating: 0, count: unit)
        let record = RecordSample.encode(raw)
        let codecs: [UInt8] = [232, 248, 264].map { record[$0] }
        #expect(codecs == [0, 2, 1])
        #expect(record[128 + 7] == 2 | 8)
        #expect(try RecordSample.decode(record, rawByteCount: raw.count) == raw)
        try RecordSample.verify(record)
    }

    @Test(
        "NaN, infinities and denormals keep their bits",
        arguments: [ElementType.bf16, .fp16, .fp32, .fp8e4m3, .fp8e5m2]
    )
    func specialValues(elementType: ElementType) throws {
        let words: [UInt16] = [
            0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF, 0x7C00, 0xFC00, 0x7E00, 0x7C01, 0x0001, 0x8000, 0,
        ]
        let raw = (0..<4_096).flatMap { index -> [UInt8] in
            let word = words[(index * 7 + index / 11) % words.count]
            return [UInt8(truncatingIfNeeded: word), UInt8(word >> 8)]
        }
        for codec in CodecChoice.allCases {
            let record = RecordSample.encode(raw, geometry: RecordSample.opaque(elementType), codec: codec)
            #expect(try RecordSample.decode(record, rawByteCount: raw.count) == raw)
        }
    }

    @Test("the geometry of a namespace goes into its frames")
    func namespaceGeometry() throws {
        var identity = NamespaceIdentity(
            model: "m",
            layers: 3,
            keyHeads: 2,
            keyHeadDimension: 8,
            valueHeadDimension: 4,
            tokensPerBlock: 5
        )
        let raw = Array(Self.noise.prefix(identity.blockByteCount))
        let record = RecordSample.encode(raw, geometry: FrameGeometry(identity))
        #expect(try RecordSample.decode(record, rawByteCount: raw.count) == raw)
        #expect(FrameGeometry(identity).rawByteCount == identity.blockByteCount)
        #expect(record[128 + 60] == 4)
        // What a header cannot state is stored as opaque.
        identity.valueHeads = 1
        #expect(FrameGeometry(identity).layout == .opaque)
        identity.valueHeads = 2
        identity.layoutTag = "LKHTD"
        #expect(FrameGeometry(identity).layout == .opaque)
        (identity.layoutTag, identity.valueHeadDimension) = (NamespaceIdentity.defaultLayoutTag, 0)
        #expect(FrameGeometry(identity).tensors == 1)
        #expect(FrameGeometry(identity).rawByteCount == identity.blockByteCount)
    }

    @Test("a known digest of the block is taken as it is")
    func digestGiven() throws {
        let raw = Array(Self.noise.prefix(1_000))
        let digest = raw.withUnsafeBytes { XXH3.digest($0) }
        for (given, isRight) in [(digest, true), (digest ^ 1, false)] {
            let record = RecordSample.encode(raw, codec: .raw, rawDigest: given)
            let decoded = try? RecordSample.decode(record, rawByteCount: 1_000)
            #expect(decoded == (isRight ? raw : nil))
        }
    }

    // Made by a separate Python program from the tables in BlockRecord.swift and FrameHeader.swift, with struct.pack, and
    // XXH3_64bits of libxxhash through ctypes. A change here makes every stored block unreadable.
    @Test("a record's bytes are what they were in the first version")
    func golden() throws {
        let geometry = FrameGeometry(elementType: .bf16, tokens: 2, layers: 1, keyHeads: 1, headDimension: 2)
        let record = RecordSample.encode(Array(1...16), geometry: geometry)
        let expected = """
            4b56523101000000000102030405060708090a0b0c0d0e0f1011121314151617
            18191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637
            38393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f5051525354555657
            58595a5b5c5d5e5f08070605040302016a0f45329aeb5aebbf6825036f0b4492
            4b56463101000102020001000100020002006000010000001000000000000000
            10000000000000006a0f45329aeb5aebca3317d8c72bdc600000000000000000
            00000000000000000000000000000000000000000000000000000000d5871114
            1000000010000000000000006a0f45320102030405060708090a0b0c0d0e0f10
            """
        let lines = stride(from: 0, to: record.count, by: 32).map { hex(record[$0..<min($0 + 32, record.count)]) }
        #expect(lines.joined(separator: "\n") == expected)
    }
}
