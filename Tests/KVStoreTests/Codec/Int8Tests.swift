import Testing

@testable import KVStore

@Suite("The lossy codec int8")
struct Int8Tests {
    private func shape(
        _ type: ElementType,
        tokens: UInt16 = 64,
        heads: UInt16 = 2,
        dimension: UInt16 = 64,
        values: UInt16 = 0,
        tensors: UInt8 = 2
    ) -> FrameGeometry {
        FrameGeometry(
            elementType: type,
            tokens: tokens,
            layers: 2,
            keyHeads: heads,
            headDimension: dimension,
            valueHeadDimension: values,
            tensors: tensors,
            storage: .int8
        )
    }

    @Test(arguments: [ElementType.bf16, .fp16])
    func `Every level gives the reference's codes and numbers`(type: ElementType) throws {
        let shapes = [
            shape(type), shape(type, tokens: 17, heads: 3, dimension: 40), shape(type, heads: 12, dimension: 32),
            shape(type, tokens: 5, heads: 1, dimension: 7, values: 9), shape(type, dimension: 96, tensors: 1),
            shape(type, tokens: 33, heads: 5, dimension: 24, values: 48),
        ]
        for geometry in shapes {
            for outliers in [false, true] {
                let raw = KVSample.generated(geometry, outliers: outliers)
                let (payload, decoded) = CodecReference.int8(raw, geometry)
                for level in KernelLevel.available {
                    let most = max(payload.count, 1)
                    let stored = try #require(
                        UnitSample.encode(raw, as: .int8, geometry, most: most, level: level)
                    )
                    #expect(stored.bytes == payload)
                    let found = try UnitSample.decode(stored, geometry, rawByteCount: raw.count, level: level)
                    #expect(found == decoded)
                }
            }
        }
    }

    @Test(arguments: [ElementType.bf16, .fp16])
    func `Zeros and subnormals quantise like the reference`(type: ElementType) throws {
        let geometry = shape(type)
        // Each channel, and each row of values, has something large, but most numbers are tiny, zero or negative zero.
        let words = (0..<geometry.rawByteCount! / 2).map { index -> UInt16 in
            if index % 64 == index / 128 % 64 { return 0x3C00 }
            return [0, 0x8000, 1, 0x8001, 0x03FF, 0x0400, 0x0080][index % 7]
        }
        let raw = CodecReference.bytes(words)
        let (payload, decoded) = CodecReference.int8(raw, geometry)
        for level in KernelLevel.available {
            let stored = try #require(UnitSample.encode(raw, as: .int8, geometry, level: level))
            #expect(stored.bytes == payload)
            #expect(try UnitSample.decode(stored, geometry, rawByteCount: raw.count, level: level) == decoded)
        }
    }

    @Test(arguments: [ElementType.bf16, .fp16])
    func `Any scales and codes decode the same at every level`(type: ElementType) throws {
        var random = RecordRandom(seed: 5)
        let geometry = shape(type, tokens: 19, heads: 3, dimension: 40)
        let count = try #require(
            Int8Quantiser.byteCount(UnitPlace(geometry: geometry, offset: 0, byteCount: geometry.rawByteCount!))
        )
        for _ in 0..<50 {
            let bytes = (0..<count).map { _ in UInt8.random(in: .min ... .max, using: &random) }
            let stored = UnitSample.Stored(codec: .int8, bytes: bytes)
            let decoded = try KernelLevel.available.map {
                try UnitSample.decode(stored, geometry, rawByteCount: geometry.rawByteCount!, level: $0)
            }
            // NaN may keep another payload at another level, so they only have to be NaN.
            let limit: UInt16 = type == .bf16 ? 0x7F80 : 0x7C00
            let words = decoded.map { CodecReference.words($0).map { $0 & 0x7FFF > limit ? 0x7FFF : $0 } }
            #expect(words.allSatisfy { $0 == words[0] })
        }
        for length in [0, 1, count - 1, count + 1] {
            let stored = UnitSample.Stored(codec: .int8, bytes: [UInt8](repeating: 0, count: length))
            #expect(throws: RecordDamage.undecodable) {
                try UnitSample.decode(stored, geometry, rawByteCount: geometry.rawByteCount!)
            }
        }
    }

    @Test(arguments: [ElementType.bf16, .fp16])
    func `Outlier channels of keys do not change the error`(type: ElementType) throws {
        let geometry = shape(type, tokens: 128)
        let raw = KVSample.generated(geometry)
        let loud = KVSample.generated(geometry, outliers: true)
        func error(_ raw: [UInt8], only isCompared: (Int) -> Bool) throws -> Double {
            let record = RecordSample.encode(raw, geometry: geometry)
            let decoded = try RecordSample.decode(record, rawByteCount: raw.count)
            func chosen(_ bytes: [UInt8]) -> [UInt8] {
                CodecReference.bytes(
                    CodecReference.words(bytes).enumerated().filter { isCompared($0.offset) }.map(\.element)
                )
            }
            return CodecReference.relativeError(chosen(decoded), of: chosen(raw), type)
        }
        // All channels, and those that are as they were: both as precise as without outliers.
        let before = try error(raw) { _ in true }
        #expect(before <= 0.007)
        #expect(abs(try error(loud) { _ in true } - before) <= 0.0007)
        let quiet: (Int) -> Bool = { $0 % 64 >= 2 }
        #expect(abs(try error(loud, only: quiet) - error(raw, only: quiet)) <= 0.0001)
    }

    @Test func `A lossy record is verified against what it decodes to and says that it is lossy`() throws {
        for type in [ElementType.bf16, .fp16] {
            let geometry = shape(type, tokens: 300, heads: 4)
            let raw = KVSample.generated(geometry)
            let digest = raw.withUnsafeBytes { XXH3.digest($0) }
            let record = RecordSample.encode(raw, geometry: geometry, rawDigest: digest)
            #expect(record[128 + 7] & 1 == 1 && record[128 + 5] == 16)
            let decoded = try RecordSample.decode(record, rawByteCount: raw.count)
            #expect(decoded != raw)
            #expect(CodecReference.relativeError(decoded, of: raw, type) <= 0.007)
            #expect(Double(raw.count) / Double(record.count) >= 1.92)
            try RecordSample.verify(record)
            // What was decoded codes to the same numbers again, or nearly: errors do not add up.
            let again = RecordSample.encode(decoded, geometry: geometry)
            let twice = try RecordSample.decode(again, rawByteCount: raw.count)
            #expect(CodecReference.relativeError(twice, of: raw, type) <= 0.010)
        }
    }

    @Test func `The flag and the codecs must agree`() throws {
        let geometry = shape(.bf16)
        var record = RecordSample.encode(KVSample.generated(geometry), geometry: geometry)
        record[128 + 7] &= ~1
        RecordSample.reseal(&record)
        #expect(throws: RecordDamage.malformed) {
            try RecordSample.decode(record, rawByteCount: geometry.rawByteCount!)
        }
        var lossless = RecordSample.encode(Array(BlockRecordTests.noise.prefix(1_000)))
        lossless[128 + 7] |= 1
        RecordSample.reseal(&lossless)
        #expect(throws: RecordDamage.malformed) { try RecordSample.decode(lossless, rawByteCount: 1_000) }
    }

    @Test func `What cannot be quantised is stored without loss the rest of the block with it`() throws {
        for type in [ElementType.bf16, .fp16] {
            let geometry = shape(type, tokens: 256)
            let infinity: UInt16 = type == .bf16 ? 0x7F80 : 0x7C00
            for bad in [infinity, infinity | 1, 0x8000 | infinity, infinity - 1, type == .bf16 ? 0x0001 : infinity] {
                var words = CodecReference.words(KVSample.generated(geometry))
                words[77] = bad
                // A denormal among zeros is what a scale cannot be made of; among others it is as good as zero.
                if bad == 1 { for row in 0..<256 where row > 0 { words[row * 128 + 77] = 0 } }
                if bad == 1 { words[77] = 1 }
                let raw = CodecReference.bytes(words)
                let record = RecordSample.encode(raw, geometry: geometry)
                let unit = 2 * 256 * 128
                #expect(record[232] == (type == .bf16 ? 3 : 0) && record[248] == 16, "\(bad)")
                let decoded = try RecordSample.decode(record, rawByteCount: raw.count)
                #expect(decoded[..<unit] == raw[..<unit] && decoded != raw)
                try RecordSample.verify(record)
            }
        }
    }

    @Test func `A unit decodes alone and from the middle of a slab`() throws {
        let geometry = shape(.bf16, tokens: 100)
        let row = 256
        let raw = KVSample.generated(geometry)
        // Rows 40 to 99 of the first keys, the first values, and one row of the second keys.
        let (start, end) = (40 * row, 201 * row)
        let unit = Array(raw[start..<end])
        let stored = try #require(UnitSample.encode(unit, as: .int8, geometry, offset: start))
        let decoded = try UnitSample.decode(stored, geometry, offset: start, rawByteCount: unit.count)
        #expect(CodecReference.relativeError(decoded, of: unit, .bf16) <= 0.007)
        // Not whole rows, or elsewhere: refused.
        for (offset, count) in [(start + 2, unit.count), (start, unit.count - 2), (start + 100 * row, unit.count)] {
            #expect(throws: RecordDamage.undecodable) {
                try UnitSample.decode(stored, geometry, offset: offset, rawByteCount: count)
            }
        }
    }
}
