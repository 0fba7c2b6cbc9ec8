import Testing

@testable import KVStore

/// Units as they were first written. Later versions, other machines and other levels of instructions must read them.
@Suite("Stored units stay readable")
struct CodecGoldenTests {
    /// Exponents one below the other, each half as frequent as the one above; sign and mantissa all over.
    private static func words(_ count: Int) -> [UInt8] {
        CodecReference.bytes(
            (0..<count).map { index in
                let exponent = UInt16(127 - (index | 16).trailingZeroBitCount)
                let noise = UInt16(truncatingIfNeeded: index * 37)
                // One word far off, so that there is an escape.
                return index == 70 ? 0x0042 : exponent << 7 | (noise & 0x7F) | (noise & 0x80) << 8
            }
        )
    }

    private static let shape = FrameGeometry(
        elementType: .bf16,
        tokens: 4,
        layers: 1,
        keyHeads: 1,
        headDimension: 16,
        storage: .int8
    )

    struct Golden: Sendable, CustomTestStringConvertible {
        var codec: UnitCodec
        var wordCount: Int
        /// Whether the bytes depend on nothing but this project: Huffman codes are another library's.
        var isExact: Bool
        var hex: String
        var testDescription: String { "\(codec)" }
    }

    static let goldens = [
        Golden(
            codec: .nib4, wordCount: 130, isExact: true,
            hex: """
                01000000007f0000004a94de2973bd06509ae42f79c30c56a0ea357fc9125ca6f03b85cf1862acf6418bd51e68b2fc47
                91db246eb8034d97e12a74be09539de7307ac40f59a3ed3680ca155fa9f38486d01b65aff9428cd6216bb5ff4892dc27
                71bb044e98e22d77c10a549ee8337dc7105aa4ee3983cd1660aaf43f89d31c66b0fa458fd9226cb64400110022001100
                3300110022001100440011002200110033001100220011004400110022001f0033001100220011004400110022001100
                33001100220011004600000080bda5bf
                """),
        Golden(
            codec: .nib4h, wordCount: 256, isExact: false,
            hex: """
                01000000007f0000004a94de2973bd06509ae42f79c30c56a0ea357fc9125ca6f03b85cf1862acf6418bd51e68b2fc47
                91db246eb8034d97e12a74be09539de7307ac40f59a3ed3680ca155fa9f38486d01b65aff9428cd6216bb5ff4892dc27
                71bb044e98e22d77c10a549ee8337dc7105aa4ee3983cd1660aaf43f89d31c66b0fa458fd9226cb6014b95df2872bc07
                519be52e78c20d57a1eb347ec8135da7f13a84ce1963adf7408ad41f69b3fd4690da256fb9024c96e02b75bf08529ce6
                317bc50e58a2ec3781cb145ea8f23d87d11a64aef8438dd7206ab4fe4993dd2670ba054f99e32c76c00b559fe9327cc6
                115ba5ef3882cc1761abf53e88d21d67b1fb448ed8236db73800000028b52ffd20807d010002c80a0ac0251ddfbe9901
                e299029b8dcd86cdc666c36663b361b3b1d9b0d9d86cd86c04b361b3b1d9b0d9d86c080046000000
                """),
        Golden(
            codec: .hsplit, wordCount: 256, isExact: false,
            hex: """
                5f00000002000000004a94de2973bd06509ae42f79c30c56a0ea357fc9125ca6f03b85cf1862acf6418bd51e68b2fc47
                91db246eb8034d97e12a74be09539de7307ac40f59a3ed3680ca155fa9f38486d01b65aff9428cd6216bb5ff4892dc27
                71bb044e98e22d77c10a549ee8337dc7105aa4ee3983cd1660aaf43f89d31c66b0fa458fd9226cb6014b95df2872bc07
                519be52e78c20d57a1eb347ec8135da7f13a84ce1963adf7408ad41f69b3fd4690da256fb9024c96e02b75bf08529ce6
                317bc50e58a2ec3781cb145ea8f23d87d11a64aef8438dd7206ab4fe4993dd2670ba054f99e32c76c00b559fe9327cc6
                115ba5ef3882cc1761abf53e88d21d67b1fb448ed8236db728b52ffd600000ad02000650140ad0a503492e0000388104
                1000100010009b0d9b8dcd86cdc666c36663b361b3119b0d9b8dcd86cdc666c36663b321988d9b0d9b8dcd86cdc666c3
                6663b361b3119b0d9b8dcd86cdc666c36663b361b31100
                """),
        Golden(
            codec: .int8, wordCount: 128, isExact: true,
            hex: """
                723a773cec3b713c663b5b3c003c753cfa3a6f3cf43b693c5e3b633cf83b7d3c44566e7fae949144566e7fad94814557
                6e7fac9b8150576e7fac9a8151646e7fab9a814c647f7fab9a814d657fb7aa99814d6576b79d99814e6577b69d8a814e
                7b3c813c793c7f3c0675dda7e58100630fb8d392e0523278fca6ca8114643bb7f59220531978dba3f9442c6a1fb1cf8b
                0959367fec9dc547066b3fb0e78b245a0e7fd79ce2492e6e
                """),
    ]

    @Test(arguments: goldens)
    func `A unit that was stored once is read back at every level`(golden: Golden) throws {
        let raw = Self.words(golden.wordCount)
        let geometry = golden.codec == .int8 ? Self.shape : RecordSample.opaque(.bf16)
        let made = try #require(UnitSample.encode(raw, as: golden.codec, geometry, most: raw.count))
        #expect(made.codec == golden.codec)
        if golden.isExact { #expect(made.bytes == bytes(golden.hex)) }
        let expected = golden.codec == .int8 ? CodecReference.int8(raw, geometry).decoded : raw
        let stored = UnitSample.Stored(codec: golden.codec, bytes: bytes(golden.hex))
        for level in KernelLevel.available {
            let decoded = try UnitSample.decode(stored, geometry, rawByteCount: raw.count, level: level)
            #expect(decoded == expected)
        }
    }

    private func bytes(_ hex: String) -> [UInt8] {
        let digits = hex.utf8.compactMap { Character(UnicodeScalar($0)).hexDigitValue.map(UInt8.init) }
        return stride(from: 0, to: digits.count - 1, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
    }
}
