import Foundation

/// Blocks to be stored, made before anything is measured. Which block it is stands in its first 16 bytes, so that what
/// comes back can be told apart.
///
/// @unchecked Sendable: written by init only.
final class Payload: @unchecked Sendable {
    enum Kind {
        /// Random bytes: nothing to gain for any codec.
        case incompressible
        /// bf16 elements with the exponents of real KV (2.6 bits of entropy), everything else random.
        case bf16
        /// Real KV bytes, repeated as often as needed.
        case samples([UInt8])
    }

    let blockByteCount: Int
    /// Aligned for O_DIRECT; larger than the last-level cache, so that reading it costs what reading memory costs.
    let memory: UnsafeMutableRawBufferPointer
    private let blockCount: Int

    init(_ kind: Kind, blockByteCount: Int) throws {
        self.blockByteCount = blockByteCount
        blockCount = max(4, (96 << 20) / blockByteCount)
        memory = try allocateAligned(blockCount * blockByteCount)
        switch kind {
        case .incompressible:
            var random = Random(seed: 1)
            for offset in stride(from: 0, to: memory.count, by: 8) {
                memory.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
            }
        case .bf16: Self.fillLikeKV(memory)
        case .samples(let bytes):
            // Blocks start at different places of the samples, always at a whole element.
            for block in 0..<blockCount {
                let start = bytes.count / 2 * block / blockCount * 2
                for offset in 0..<blockByteCount {
                    memory[block * blockByteCount + offset] = bytes[(start + offset) % bytes.count]
                }
            }
        }
    }

    deinit { free(memory.baseAddress) }

    /// The bytes of block `number`; only the stamp of `fill` differs between blocks that share them.
    func bytes(_ number: Int) -> UnsafeRawBufferPointer {
        let start = number % blockCount * blockByteCount
        return UnsafeRawBufferPointer(rebasing: memory[start..<start + blockByteCount])
    }

    /// Copies block `number` and stamps it.
    func fill(_ number: Int, into span: inout MutableRawSpan) {
        span.withUnsafeMutableBytes { target in
            target.copyMemory(from: bytes(number))
            target.storeBytes(of: UInt64(number), toByteOffset: 0, as: UInt64.self)
            target.storeBytes(of: ~UInt64(number), toByteOffset: 8, as: UInt64.self)
        }
    }

    /// Whether bytes are those of block `number`, as far as its stamp tells; the store checks the rest.
    func isBlock(_ number: Int, _ bytes: RawSpan) -> Bool {
        bytes.withUnsafeBytes {
            $0.loadUnaligned(as: UInt64.self) == UInt64(number)
                && $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self) == ~UInt64(number)
        }
    }

    /// How often, in 1024, each exponent occurs in bf16 KV, from the largest (128, values of 2 to 4) down.
    private static let exponentWeights = [44, 268, 296, 188, 104, 56, 32, 16, 10, 6, 4]

    private static func fillLikeKV(_ memory: UnsafeMutableRawBufferPointer) {
        var exponents: [UInt16] = []
        for (index, weight) in exponentWeights.enumerated() {
            exponents += [UInt16](repeating: UInt16(128 - index) << 7, count: weight)
        }
        precondition(exponents.count == 1024)
        var random = Random(seed: 2)
        for offset in stride(from: 0, to: memory.count, by: 4) {
            let draw = random.next()
            let low = UInt16(truncatingIfNeeded: draw >> 20) & 0x807F | exponents[Int(draw & 1023)]
            let high = UInt16(truncatingIfNeeded: draw >> 36) & 0x807F | exponents[Int(draw >> 10 & 1023)]
            memory.storeBytes(of: UInt32(high) << 16 | UInt32(low), toByteOffset: offset, as: UInt32.self)
        }
    }
}

/// A small random number generator (SplitMix64) whose numbers are the same in every run.
struct Random: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed &* 0xD134_2543_DE82_EF95 }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }
}

/// Page-aligned memory, touched.
func allocateAligned(_ byteCount: Int) throws -> UnsafeMutableRawBufferPointer {
    var pointer: UnsafeMutableRawPointer?
    guard posix_memalign(&pointer, 4096, byteCount) == 0, let pointer else {
        throw BenchError("no memory for \(ByteCount(byteCount))")
    }
    memset(pointer, 1, byteCount)
    return UnsafeMutableRawBufferPointer(start: pointer, count: byteCount)
}
