import ArgumentParser
import Foundation
import KVStore

/// Every codec over the same blocks, and a copy of them, in turn.
///
/// Timed are a codec's units alone, one thread, from block to block through at least 8 MiB: more than fits a core's own
/// cache, as blocks do that come from a memory tier. The `record` rows are what a writer and a reader do: the same with
/// the frame and its digests. Every buffer has been touched before the first measurement.
struct Codec: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Code and decode blocks of KV with every codec, against memcpy of the same blocks."
    )
    @OptionGroup var output: Output
    @Option(help: "Directory with real KV and its manifest.json. (default: generated numbers of the same statistics)")
    var samples: String?

    /// A codec on blocks of one element type.
    private struct Lane {
        var codec: CodecChoice
        var type: ElementType
        var name: String { type == .bf16 ? codec.rawValue : "\(codec.rawValue)\(type == .fp16 ? "Fp16" : "Fp8")" }
    }

    private static let lanes = [
        Lane(codec: .nib4, type: .bf16), Lane(codec: .nib4h, type: .bf16), Lane(codec: .hsplit, type: .bf16),
        Lane(codec: .hsplit, type: .fp16), Lane(codec: .int8, type: .bf16), Lane(codec: .int8, type: .fp16),
        Lane(codec: .lz4, type: .bf16), Lane(codec: .raw, type: .bf16),
    ]

    func run() throws {
        let sets: [ElementType: BlockSet] = try [.bf16: BlockSet(.bf16, samples), .fp16: BlockSet(.fp16, samples)]
        let copySet = sets[.bf16]!
        var copies: [Double] = []
        var encodes = [[Double]](repeating: [], count: Self.lanes.count)
        var decodes = encodes
        var records: [[Double]] = [[], []]
        var ratios: [String: Double] = [:]
        // The speed of memory wanders, so that each measurement has a copy of its own just before it.
        var shares: [String: [Double]] = [:]
        func note(_ key: String, _ copy: Double, _ nanoseconds: Double, _ set: BlockSet) {
            let share = copy / Double(copySet.byteCount) / (nanoseconds / Double(set.byteCount))
            shares["\(key)VsMemcpy", default: []].append(share)
        }
        for round in -1..<output.pairs {
            // The first round only touches the pages.
            let isMeasured = round >= 0
            for (index, lane) in Self.lanes.enumerated() {
                let set = sets[lane.type]!
                let copy = copySet.copy()
                let result = try set.measure(lane.codec)
                guard isMeasured else { continue }
                copies.append(copy)
                encodes[index].append(result.encode)
                decodes[index].append(result.decode)
                ratios["\(lane.name)Ratio"] = result.ratio
                note("\(lane.name)Encode", copy, result.encode, set)
                note("\(lane.name)Decode", copy, result.decode, set)
            }
            let copy = copySet.copy()
            let record = try copySet.measureRecords(.nib4)
            guard isMeasured else { continue }
            records[0].append(record.encode)
            records[1].append(record.decode)
            note("nib4RecordEncode", copy, record.encode, copySet)
            note("nib4RecordDecode", copy, record.decode, copySet)
        }
        for (key, values) in shares { ratios[key] = Sample(nanoseconds: values).median }

        let copy = Sample(nanoseconds: copies)
        ratios["memcpyGBps"] = Double(copySet.byteCount) / copy.median
        var rows = [("memcpy, \(copySet.description)", copy)]
        func add(_ name: String, _ key: String, _ nanoseconds: [Double], _ set: BlockSet) {
            let sample = Sample(nanoseconds: nanoseconds)
            rows.append((name, sample))
            ratios["\(key)GBps"] = Double(set.byteCount) / sample.median
        }
        for (index, lane) in Self.lanes.enumerated() {
            add("\(lane.name) encode", "\(lane.name)Encode", encodes[index], sets[lane.type]!)
            add("\(lane.name) decode", "\(lane.name)Decode", decodes[index], sets[lane.type]!)
        }
        add("nib4 record, encode with digests", "nib4RecordEncode", records[0], copySet)
        add("nib4 record, decode with digests", "nib4RecordDecode", records[1], copySet)
        try output.show(rows, ratios: ratios)
    }
}

/// Blocks of one element type, and room for what becomes of them.
private final class BlockSet {
    private struct Block {
        var geometry: FrameGeometry
        var range: Range<Int>
    }

    private static let leastByteCount = 16 << 20
    private var blocks: [Block] = []
    private let raw: UnsafeMutableRawBufferPointer
    private let coded: UnsafeMutableRawBufferPointer
    private let decoded: UnsafeMutableRawBufferPointer
    private let origin: String
    let byteCount: Int

    init(_ type: ElementType, _ directory: String?) throws {
        let sources = try directory.map { try Self.real(type, $0) } ?? Self.generated(type)
        origin = directory == nil ? "generated" : "samples"
        var bytes: [UInt8] = []
        while bytes.count < Self.leastByteCount {
            for source in sources {
                blocks.append(Block(geometry: source.geometry, range: bytes.count..<bytes.count + source.raw.count))
                bytes += source.raw
            }
        }
        byteCount = bytes.count
        raw = .allocate(byteCount: byteCount, alignment: 4096)
        raw.copyBytes(from: bytes)
        // Records need a little more than their blocks.
        coded = .allocate(byteCount: byteCount + (4 << 20), alignment: 4096)
        decoded = .allocate(byteCount: byteCount, alignment: 4096)
    }

    deinit {
        raw.deallocate()
        coded.deallocate()
        decoded.deallocate()
    }

    var description: String { "\(blocks.count) \(origin) blocks, \(byteCount >> 20) MiB" }

    private func slice(_ buffer: UnsafeMutableRawBufferPointer, _ range: Range<Int>) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(rebasing: buffer[range])
    }

    func copy() -> Double {
        Sample.measure(count: 1) {
            for block in blocks {
                slice(decoded, block.range).copyMemory(from: UnsafeRawBufferPointer(slice(raw, block.range)))
            }
        }
    }

    func measure(_ codec: CodecChoice) throws -> (encode: Double, decode: Double, ratio: Double) {
        var units: [UnframedBlock] = []
        units.reserveCapacity(blocks.count)
        let encode = Sample.measure(count: 1) {
            for block in blocks {
                var geometry = block.geometry
                geometry.storage = codec == .int8 ? .int8 : .lossless
                let source = UnsafeRawBufferPointer(slice(raw, block.range))
                units.append(
                    UnframedBlock(coding: source, geometry: geometry, codec: codec, into: slice(coded, block.range))
                )
            }
        }
        var isDecoded = true
        let decode = Sample.measure(count: 1) {
            for (block, units) in zip(blocks, units) {
                let stored = UnsafeRawBufferPointer(slice(coded, block.range))
                do { try units.decode(stored, into: slice(decoded, block.range)) } catch { isDecoded = false }
            }
        }
        let isExact = memcmp(raw.baseAddress!, decoded.baseAddress!, byteCount) == 0
        precondition(isDecoded && (isExact || codec == .int8), "\(codec) gave other bytes")
        let stored = units.reduce(0) { $0 + $1.storedByteCount }
        return (encode, decode, Double(byteCount) / Double(stored))
    }

    func measureRecords(_ codec: CodecChoice) throws -> (encode: Double, decode: Double) {
        var random = SystemRandomNumberGenerator()
        let key = BlockKey(bytes: (0..<32).map { _ in UInt8.random(in: 0...255, using: &random) })!
        let identity = RecordIdentity(key: key, parent: key, fingerprint: key, sequence: 1)
        // The writer has the block's digest from when it was committed.
        let digests = blocks.map { XXH3.digest(UnsafeRawBufferPointer(slice(raw, $0.range))) }
        var ranges: [Range<Int>] = []
        let encode = Sample.measure(count: 1) {
            var start = 0
            for (block, digest) in zip(blocks, digests) {
                let written = BlockRecord.encode(
                    identity,
                    geometry: block.geometry,
                    codec: codec,
                    raw: UnsafeRawBufferPointer(slice(raw, block.range)),
                    rawDigest: digest,
                    into: UnsafeMutableRawBufferPointer(rebasing: coded[start...])
                )
                ranges.append(start..<start + written)
                start += written
            }
        }
        var isDecoded = true
        let decode = Sample.measure(count: 1) {
            for (block, range) in zip(blocks, ranges) {
                do {
                    _ = try BlockRecord.decode(
                        UnsafeRawBufferPointer(slice(coded, range)),
                        expectingKey: key,
                        fingerprint: key,
                        into: slice(decoded, block.range)
                    )
                } catch { isDecoded = false }
            }
        }
        precondition(isDecoded && memcmp(raw.baseAddress!, decoded.baseAddress!, byteCount) == 0, "a record is damaged")
        return (encode, decode)
    }
}

// MARK: Where blocks come from

extension BlockSet {
    typealias Source = (geometry: FrameGeometry, raw: [UInt8])

    /// Files of at least 64 tokens: what one block of an engine holds.
    fileprivate static func real(_ type: ElementType, _ directory: String) throws -> [Source] {
        try SampleFiles(in: directory).tensors(of: type, leastTokens: 64).map { file in
            (file.geometry, try file.bytes())
        }
    }

    /// Blocks of 64 tokens of normally distributed numbers, whose exponents are those of real KV.
    fileprivate static func generated(_ type: ElementType) -> [Source] {
        let geometry = FrameGeometry(elementType: type, tokens: 64, layers: 8, keyHeads: 8, headDimension: 128)
        var random = Random(seed: 1)
        func uniform() -> Double { Double.random(in: Double.leastNormalMagnitude..<1, using: &random) }
        return (0..<4).map { _ in
            var raw: [UInt8] = []
            raw.reserveCapacity(geometry.rawByteCount!)
            for _ in 0..<geometry.rawByteCount! / 2 {
                let number = Float((-2 * log(uniform())).squareRoot() * cos(2 * .pi * uniform()))
                let bits = number.bitPattern
                let rounded = UInt16(truncatingIfNeeded: (bits &+ 0x7FFF &+ (bits >> 16 & 1)) >> 16)
                let word = type == .fp16 ? Float16(number).bitPattern : rounded
                raw.append(UInt8(truncatingIfNeeded: word))
                raw.append(UInt8(word >> 8))
            }
            return (geometry, raw)
        }
    }
}
