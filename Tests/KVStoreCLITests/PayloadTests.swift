import Foundation
import Testing

@testable import KVStoreCLI

@Suite("Payloads that describe themselves")
struct PayloadTests {
    private static let blockByteCount = 8192
    private let source = PayloadSource(blockByteCount: Self.blockByteCount, seed: 1)

    private func bytes(of block: UInt64, from source: PayloadSource) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: source.blockByteCount)
        bytes.withUnsafeMutableBytes { source.fill(block, into: $0) }
        return bytes
    }

    private func fault(of block: UInt64, in bytes: [UInt8], source: PayloadSource? = nil) -> PayloadFault? {
        bytes.withUnsafeBytes { (source ?? self.source).fault(of: block, in: $0) }
    }

    @Test("are accepted as written", arguments: [64, 66, 510, 512, 518, 520, 522, 1000, 8192, 65_536])
    func accepted(blockByteCount: Int) {
        let source = PayloadSource(blockByteCount: blockByteCount, seed: 3)
        for block: UInt64 in [0, 1, 16, 17, 1 << 56, .max] {
            #expect(fault(of: block, in: bytes(of: block, from: source), source: source) == nil)
        }
    }

    @Test func catchAFlippedBitInEveryByte() {
        let source = PayloadSource(blockByteCount: 1536, seed: 1)
        let good = bytes(of: 42, from: source)
        for position in good.indices {
            var bad = good
            bad[position] ^= 1 << UInt8(position % 8)
            let fault = fault(of: 42, in: bad, source: source)
            #expect(fault?.wrongBytes == 1)
            #expect(fault?.firstOffset == position)
        }
    }

    @Test func catchEveryBitOfABlockWithAnOddTail() {
        let source = PayloadSource(blockByteCount: 522, seed: 3)
        let good = bytes(of: 5, from: source)
        for bit in 0..<good.count * 8 {
            var bad = good
            bad[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(fault(of: 5, in: bad, source: source) != nil, "bit \(bit)")
        }
    }

    @Test func sayWhichBlockTheyBelongTo() {
        // 42 and 58 share a template; only header and stamps tell them apart.
        #expect(source.templateCount == 16)
        #expect(fault(of: 42, in: bytes(of: 58, from: source))?.foundBlock == 58)
    }

    @Test("catch a page of another block that uses the same template", arguments: [512, 1024, 4096])
    func swappedPages(pageByteCount: Int) {
        let (good, other) = (bytes(of: 42, from: source), bytes(of: 58, from: source))
        for start in stride(from: 0, to: good.count, by: pageByteCount) {
            var mixed = good
            mixed.replaceSubrange(start..<start + pageByteCount, with: other[start..<start + pageByteCount])
            #expect(fault(of: 42, in: mixed) != nil, "page at \(start)")
        }
    }

    @Test("catch pages of the same block in the wrong order", arguments: [512, 4096])
    func movedPages(pageByteCount: Int) {
        let good = bytes(of: 42, from: source)
        var moved = good
        moved.replaceSubrange(0..<pageByteCount, with: good[pageByteCount..<2 * pageByteCount])
        moved.replaceSubrange(pageByteCount..<2 * pageByteCount, with: good[0..<pageByteCount])
        #expect(fault(of: 42, in: moved) != nil)
    }

    @Test("catch shifted bytes", arguments: [1, 2, 8, 512, 4096])
    func shifted(distance: Int) {
        let good = bytes(of: 42, from: source)
        #expect(fault(of: 42, in: Array(good[distance...] + good[..<distance])) != nil)
    }

    @Test func catchStaleZeroedAndShortBytes() {
        let stale = bytes(of: 42, from: PayloadSource(blockByteCount: Self.blockByteCount, seed: 2))
        #expect(fault(of: 42, in: stale) != nil, "another run's seed")
        #expect(fault(of: 42, in: [UInt8](repeating: 0, count: Self.blockByteCount)) != nil)
        var torn = bytes(of: 42, from: source)
        torn.replaceSubrange(4096..., with: [UInt8](repeating: 0, count: 4096))
        #expect(fault(of: 42, in: torn)?.firstOffset ?? 0 >= 4096)
        #expect(fault(of: 42, in: Array(bytes(of: 42, from: source).dropLast(2))) != nil)
    }

    @Test func catchAnEqualTemplateMadeOfOneRepeatedValue() {
        // With real bytes all templates may be equal; the stamps alone must do.
        let flat = PayloadSource(blockByteCount: Self.blockByteCount, seed: 1, origin: .bytes([0x80, 0x3F]))
        let (good, other) = (bytes(of: 1, from: flat), bytes(of: 2, from: flat))
        for start in stride(from: 512, to: good.count, by: 512) {
            var mixed = good
            mixed.replaceSubrange(start..<start + 512, with: other[start..<start + 512])
            #expect(fault(of: 1, in: mixed, source: flat) != nil)
        }
    }

    @Test func haveTheExponentsOfRealKV() {
        let source = PayloadSource(blockByteCount: 65_536, seed: 1)
        var exponents = [Int](repeating: 0, count: 256)
        var (signs, mantissaBits, count) = (0, 0, 0)
        for block: UInt64 in 0..<16 {
            let bytes = bytes(of: block, from: source)
            for offset in stride(from: 16, to: bytes.count, by: 2) {
                let element = UInt16(bytes[offset]) | UInt16(bytes[offset + 1]) << 8
                exponents[Int(element >> 7 & 0xFF)] += 1
                signs += Int(element >> 15)
                mantissaBits += (element & 0x7F).nonzeroBitCount
                count += 1
            }
        }
        let entropy = exponents.filter { $0 > 0 }.map { Double($0) / Double(count) }.reduce(0) { $0 - $1 * log2($1) }
        #expect((2.55...2.7).contains(entropy), "\(entropy) bits")
        #expect(abs(Double(signs) / Double(count) - 0.5) < 0.01)
        #expect(abs(Double(mantissaBits) / Double(count) - 3.5) < 0.02)
    }

    @Test func differByFingerprintWhenTheirBytesDiffer() {
        #expect(source.fingerprint == PayloadSource(blockByteCount: Self.blockByteCount, seed: 1).fingerprint)
        #expect(source.fingerprint != PayloadSource(blockByteCount: Self.blockByteCount, seed: 2).fingerprint)
        #expect(source.fingerprint != PayloadSource(blockByteCount: 4096, seed: 1).fingerprint)
    }

    @Test func comeFromADirectoryOfRealTensors() throws {
        let scratch = try ScratchDirectory()
        _ = try scratch.write([1, 2, 3, 4], to: "a.bin")
        _ = try scratch.write([9, 9], to: "q.bin")
        _ = try scratch.write(
            #"{"blocks":[{"file":"a.bin","kind":"kv","dtype":"bf16","bytes":4},{"file":"q.bin","kind":"q","dtype":"bf16"}]}"#,
            to: "manifest.json"
        )
        let real = try PayloadDirectory.read(scratch.path)
        #expect(real == [1, 2, 3, 4])
        let source = PayloadSource(blockByteCount: 64, seed: 1, origin: .bytes(real))
        #expect(Array(bytes(of: 0, from: source)[16..<24]) == [1, 2, 3, 4, 1, 2, 3, 4])
        #expect(fault(of: 0, in: bytes(of: 0, from: source), source: source) == nil)
    }

    @Test(
        "from a directory that is not one are refused with its name",
        arguments: [
            ("not json", "is not a payload manifest"), (#"{"blocks":[]}"#, "lists no bf16 K/V file"),
            (#"{"blocks":[{"file":"gone.bin","dtype":"bf16"}]}"#, "gone.bin"),
            (#"{"blocks":[{"file":"manifest.json","dtype":"bf16","bytes":7}]}"#, "where the manifest says 7"),
        ]
    )
    func badDirectory(manifest: String, reason: String) throws {
        let scratch = try ScratchDirectory()
        _ = try scratch.write(manifest, to: "manifest.json")
        let error = #expect(throws: StartError.self) { try PayloadDirectory.read(scratch.path) }
        #expect(error?.description.contains(reason) == true)
        #expect(error?.description.contains(scratch.path) == true)
    }
}
