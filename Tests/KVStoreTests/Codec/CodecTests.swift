import Testing

@testable import KVStore

@Suite("Codecs for floats")
struct CodecTests {
    static let codecs: [UnitCodec] = [.nib4, .nib4h, .hsplit]

    static func shape(
        _ type: ElementType = .bf16,
        tokens: UInt16 = 64,
        layers: UInt16 = 2,
        heads: UInt16 = 2,
        dimension: UInt16 = 64
    ) -> FrameGeometry {
        FrameGeometry(elementType: type, tokens: tokens, layers: layers, keyHeads: heads, headDimension: dimension)
    }

    /// Units that codecs find hard, by name: words in the order of memory.
    static let hardUnits: [(name: String, raw: [UInt8])] = {
        var random = RecordRandom(seed: 9)
        let special: [UInt16] = [
            0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF, 0x7C00, 0xFC00, 0x7E00, 0x0001, 0x8001, 0x007F, 0x8000, 0,
        ]
        let usual = CodecReference.words(KVSample.generated(shape()))
        func words(_ count: Int, _ make: (Int) -> UInt16) -> [UInt8] { CodecReference.bytes((0..<count).map(make)) }
        var units: [(String, [UInt8])] = [
            ("zeros", words(4_096) { _ in 0 }), ("one word", words(4_096) { _ in 0x3F80 }),
            ("special words only", words(4_096) { special[$0 % special.count] }),
            ("a special word in 40", words(8_192) { $0 % 40 == 0 ? special[$0 / 40 % special.count] : usual[$0] }),
            ("a special word in 400", words(8_192) { $0 % 400 == 0 ? special[$0 / 400 % special.count] : usual[$0] }),
            ("subnormals", words(4_096) { UInt16(truncatingIfNeeded: $0 & 0x807F) }),
            ("random", words(4_096) { _ in UInt16.random(in: 0...UInt16.max, using: &random) }),
            ("text", Array(BlockRecordTests.text.prefix(10_000))),
            ("every exponent", words(4_096) { UInt16($0 & 255) << 7 | 0x15 }),
        ]
        for count in [1, 2, 3, 63, 64, 65, 127, 128, 129, 130, 191, 192, 255, 1_000, 4_097, 10_001] {
            units.append(("\(count) bytes", Array(CodecReference.bytes(usual).prefix(count))))
        }
        return units
    }()

    @Test(arguments: codecs)
    func `Every level codes to the same bytes and decodes what every other made`(codec: UnitCodec) throws {
        let geometry = RecordSample.opaque(.bf16)
        for (name, raw) in Self.hardUnits {
            let stored = KernelLevel.available.map { UnitSample.encode(raw, as: codec, geometry, level: $0) }
            #expect(Set(stored.map { $0?.bytes ?? [] }).count == 1, "\(name)")
            guard let first = stored[0] else { continue }
            for level in KernelLevel.available {
                let decoded = try UnitSample.decode(first, geometry, rawByteCount: raw.count, level: level)
                #expect(decoded == raw, "\(name) at \(level)")
            }
        }
    }

    @Test(arguments: KernelLevel.available)
    func `A copy to two places is the same in both, at every length and address`(level: KernelLevel) {
        let source = (0..<1_000).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }
        for count in [0, 1, 31, 32, 63, 64, 65, 128, 500, 900] {
            for offset in [0, 1, 32, 64] {
                withUnsafeTemporaryAllocation(byteCount: 2_048, alignment: 64) { room in
                    room.initializeMemory(as: UInt8.self, repeating: 0xEE)
                    let cached = UnsafeMutableRawBufferPointer(rebasing: room[1_024 + offset..<1_024 + offset + count])
                    let streamed = UnsafeMutableRawBufferPointer(rebasing: room[offset..<offset + count])
                    source.withUnsafeBytes { bytes in
                        let part = UnsafeRawBufferPointer(rebasing: bytes[3..<3 + count])
                        Kernels.copyTwice(part, cached: cached, streamed: streamed, level: level)
                    }
                    Kernels.copiesAreDone()
                    #expect(Array(cached) == Array(source[3..<3 + count]))
                    #expect(Array(streamed) == Array(source[3..<3 + count]))
                    #expect(room[offset + count] == 0xEE && room[1_024 + offset + count] == 0xEE)
                    #expect(offset == 0 || room[offset - 1] == 0xEE)
                }
            }
        }
    }

    @Test func `This processor's levels are all compared`() {
        #expect(KernelLevel.available.first == .portable && KernelLevel.available.last == .best)
        print("levels of instructions compared: \(KernelLevel.available.map { "\($0)" }.joined(separator: ", "))")
    }

    @Test func `Nib4 is what its description says byte for byte with one base and with one per channel`() throws {
        for (name, raw) in Self.hardUnits {
            guard let stored = UnitSample.encode(raw, as: .nib4, RecordSample.opaque(.bf16)) else { continue }
            #expect(stored.bytes == CodecReference.nib4(raw, base: stored.bytes[5]), "\(name)")
        }
        // Rows of 96 words do not divide into groups, those of 40 are shorter than one, and 192 are three.
        for (heads, dimension) in [(2, 48), (1, 40), (3, 64)] as [(UInt16, UInt16)] {
            let geometry = Self.shape(layers: 1, heads: heads, dimension: dimension)
            let raw = Self.withOutlierChannel(KVSample.generated(geometry), channels: Int(heads * dimension))
            for level in KernelLevel.available {
                let stored = try #require(UnitSample.encode(raw, as: .nib4, geometry, level: level))
                #expect(stored.baseMode == 1)
                let channels = Int(heads * dimension)
                #expect(stored.bytes == CodecReference.nib4(raw, base: 0, channels: channels, slabs: 2))
                #expect(try UnitSample.decode(stored, geometry, rawByteCount: raw.count, level: level) == raw)
            }
        }
    }

    /// Every seventh channel 2^20 times as large.
    private static func withOutlierChannel(_ raw: [UInt8], channels: Int) -> [UInt8] {
        let words = CodecReference.words(raw).enumerated().map { index, word in
            index % channels % 7 == 0 && word & 0x7F80 != 0 ? word &+ 20 << 7 : word
        }
        return CodecReference.bytes(words)
    }

    @Test func `An outlier channel costs nib4 a base per channel not its gain`() throws {
        let geometry = Self.shape(tokens: 256, layers: 1)
        let raw = Self.withOutlierChannel(KVSample.generated(geometry), channels: 128)
        let stored = try #require(UnitSample.encode(raw, as: .nib4, geometry))
        #expect(stored.baseMode == 1)
        #expect(Double(raw.count) / Double(stored.bytes.count) >= 1.31)
        // The same bytes without a known shape have to do with one base, which does not pay.
        #expect(UnitSample.encode(raw, as: .nib4, RecordSample.opaque(.bf16)) == nil)
        let record = RecordSample.encode(raw, geometry: geometry)
        #expect(record[224 + 8] == 3 && record[224 + 9] == 1)
        #expect(try RecordSample.decode(record, rawByteCount: raw.count) == raw)
        try RecordSample.verify(record)
    }

    @Test func `A few NaN and infinities are escapes they do not move the base`() throws {
        let geometry = Self.shape()
        var words = CodecReference.words(KVSample.generated(geometry))
        for index in stride(from: 0, to: words.count, by: 1_000) { words[index] = index % 2_000 == 0 ? 0x7FC0 : 0xFF80 }
        let raw = CodecReference.bytes(words)
        let stored = try #require(UnitSample.encode(raw, as: .nib4, geometry))
        #expect(stored.bytes[5] < 140 && stored.baseMode == 0)
        #expect(Double(raw.count) / Double(stored.bytes.count) >= 1.32)
        #expect(try UnitSample.decode(stored, geometry, rawByteCount: raw.count) == raw)
    }

    @Test func `Hsplit's planes are those of the words rotated by one`() throws {
        for (_, raw) in Self.hardUnits {
            let rotated = CodecReference.words(raw).map(CodecReference.rotatedLeft)
            for level in KernelLevel.available {
                GuardedBytes.with(raw) { raw in
                    GuardedBytes.with(count: raw.count / 2) { low in
                        GuardedBytes.with(count: raw.count / 2) { high in
                            Kernels.split(raw, low: low, high: high, level: level)
                            #expect(Array(low) == rotated.map { UInt8(truncatingIfNeeded: $0) })
                            #expect(Array(high) == rotated.map { UInt8($0 >> 8) })
                        }
                    }
                }
            }
        }
    }

    @Test(arguments: CodecChoice.allCases)
    func `What goes in comes out for every codec and element type whatever the bytes`(choice: CodecChoice) throws {
        for type in ElementType.allCases {
            for (name, raw) in Self.hardUnits {
                let record = RecordSample.encode(raw, geometry: RecordSample.opaque(type), codec: choice)
                #expect(try RecordSample.decode(record, rawByteCount: raw.count) == raw, "\(name) as \(type)")
                try RecordSample.verify(record)
                let rawRecord = 128 + 96 + 16 * ((raw.count + 262_143) / 262_144) + raw.count
                #expect(record.count <= rawRecord, "\(name) as \(type) grew")
            }
            guard type.byteCount == 2 else { continue }
            for tokens in [1, 16, 64, 300] as [UInt16] {
                let geometry = Self.shape(type, tokens: tokens, layers: 3, heads: 3, dimension: 40)
                for outliers in [false, true] {
                    let raw = KVSample.generated(geometry, seed: UInt64(tokens), outliers: outliers)
                    let record = RecordSample.encode(raw, geometry: geometry, codec: choice)
                    #expect(try RecordSample.decode(record, rawByteCount: raw.count) == raw)
                    try RecordSample.verify(record)
                }
            }
        }
    }

    @Test func `The bypass rules no floats no gain too many escapes`() throws {
        let random = Self.hardUnits.first { $0.name == "random" }!.raw
        for codec in Self.codecs {
            #expect(UnitSample.encode(random, as: codec, RecordSample.opaque(.bf16)) == nil, "\(codec)")
        }
        // Escapes just below and just above a sixteenth of the words.
        var words = CodecReference.words(KVSample.generated(Self.shape()))
        for (step, isCoded) in [(17, true), (15, false)] {
            for index in words.indices { words[index] = index % step == 0 ? 0x0001 : words[index] & 0x807F | 0x3F00 }
            let stored = UnitSample.encode(CodecReference.bytes(words), as: .nib4, RecordSample.opaque(.bf16))
            #expect((stored != nil) == isCoded, "every \(step)th word an escape")
        }
        // A result one byte too long for its room is none, and one that fits exactly is the same as with more room.
        let raw = KVSample.generated(Self.shape())
        for codec in Self.codecs {
            let stored = try #require(UnitSample.encode(raw, as: codec, Self.shape()))
            let exact = UnitSample.encode(raw, as: codec, Self.shape(), most: stored.bytes.count)
            if codec == .nib4 { #expect(exact == stored) }
            #expect(UnitSample.encode(raw, as: codec, Self.shape(), most: raw.count / 2) == nil)
        }
    }

    @Test func `Nib4h falls back to nib4 where Huffman codes gain nothing`() throws {
        // Exponents over 15 values alike: four bits each, no fewer.
        var random = RecordRandom(seed: 4)
        let words = (0..<16_384).map { _ in
            UInt16.random(in: 113...127, using: &random) << 7 | UInt16.random(in: 0...127, using: &random)
        }
        let raw = CodecReference.bytes(words)
        let stored = try #require(UnitSample.encode(raw, as: .nib4h, RecordSample.opaque(.bf16)))
        #expect(stored.codec == .nib4)
        #expect(stored == UnitSample.encode(raw, as: .nib4, RecordSample.opaque(.bf16)))
    }

    @Test func `Units of mixed codecs say so and each decodes alone`() throws {
        let unit = 262_144
        let kv = KVSample.generated(Self.shape(tokens: 1_024, layers: 1))
        var raw = Array(kv.prefix(unit)) + Array(BlockRecordTests.noise.prefix(unit))
        raw += [UInt8](repeating: 0, count: 1_000)
        let record = RecordSample.encode(raw, geometry: RecordSample.opaque(.bf16))
        #expect([232, 248, 264].map { record[$0] } == [3, 0, 1])
        #expect(record[128 + 7] == 2 | 8 && record[128 + 5] == 3)
        #expect(try RecordSample.decode(record, rawByteCount: raw.count) == raw)
    }
}
