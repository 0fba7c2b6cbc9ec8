/// What a block's bytes must be, from its id alone.
///
///     0        8        16             512      520            1024
///     | magic  |   id   |   template   | stamp  |   template   | stamp  | …
///
/// The templates look like KV cache to a codec; the header says which block this is; every 512 bytes a stamp derived
/// from seed, id and offset replaces the sign and mantissa bits of four elements. So a page of another block, of an
/// older run, or of another place in the same block differs in its first stamp, while the exponents, where all
/// lossless compression of bf16 comes from, stay those of the template.
struct PayloadSource: Sendable {
    static let stampStride = 512
    static let headerByteCount = 16
    /// "KVREPLAY" in memory order.
    private static let magic = UInt64(littleEndian: 0x5941_4C50_4552_564B)
    /// Sign and mantissa of four bf16 elements.
    private static let stampMask: UInt64 = 0x807F_807F_807F_807F
    /// The pool stays small enough to be made at once, also for blocks of many MiB.
    private static let poolByteCountLimit = 64 << 20
    private static let templateCountLimit = 16

    let blockByteCount: Int
    let templateCount: Int
    private let seed: UInt64
    /// All templates, one after the other.
    private let templates: [UInt8]

    /// Where the exponents of the templates come from.
    enum Origin: Sendable {
        /// Drawn with the exponent statistics of real KV.
        case generated
        /// Real KV bytes, repeated as often as needed.
        case bytes([UInt8])
    }

    init(blockByteCount: Int, seed: UInt64, origin: Origin = .generated) {
        precondition(blockByteCount >= 64 && blockByteCount % 2 == 0)
        self.blockByteCount = blockByteCount
        self.seed = seed
        templateCount = max(2, min(Self.templateCountLimit, Self.poolByteCountLimit / blockByteCount))
        switch origin {
        case .generated:
            templates = KVStatistics.elements(count: templateCount * blockByteCount / 2, seed: seed)
        case .bytes(let real):
            precondition(real.count >= 2 && real.count % 2 == 0)
            var pool = [UInt8]()
            pool.reserveCapacity(templateCount * blockByteCount)
            for template in 0..<templateCount {
                // Each template starts elsewhere in the real bytes, at a whole element.
                var source = real.count / 2 * template / templateCount * 2
                for _ in 0..<blockByteCount {
                    pool.append(real[source])
                    source = source + 1 == real.count ? 0 : source + 1
                }
            }
            templates = pool
        }
    }

    /// Two sources with equal fingerprints give every block the same bytes.
    var fingerprint: UInt64 {
        var result = SplitMix64.mix(seed ^ UInt64(blockByteCount))
        for index in stride(from: 0, to: templates.count, by: 61) {
            result = SplitMix64.mix(result ^ UInt64(templates[index]))
        }
        return result
    }

    /// Writes the bytes of a block.
    func fill(_ block: UInt64, into target: UnsafeMutableRawBufferPointer) {
        precondition(target.count == blockByteCount)
        let start = templateStart(block)
        // In bounds: a template has `blockByteCount` bytes, `target` too, and the loop ends 8 bytes before the end.
        unsafe templates.withUnsafeBytes { pool in
            unsafe target.copyMemory(from: UnsafeRawBufferPointer(rebasing: pool[start..<start + blockByteCount]))
            unsafe target.storeBytes(of: Self.magic.littleEndian, toByteOffset: 0, as: UInt64.self)
            unsafe target.storeBytes(of: block.littleEndian, toByteOffset: 8, as: UInt64.self)
            for offset in stride(from: Self.stampStride, through: blockByteCount - 8, by: Self.stampStride) {
                let template = unsafe pool.loadUnaligned(fromByteOffset: start + offset, as: UInt64.self)
                unsafe target.storeBytes(of: stamped(template, block, offset), toByteOffset: offset, as: UInt64.self)
            }
        }
    }

    /// Compares every byte. Returns nil when all are right.
    func fault(of block: UInt64, in bytes: UnsafeRawBufferPointer) -> PayloadFault? {
        guard bytes.count == blockByteCount else {
            return PayloadFault(wrongBytes: max(bytes.count, 1), firstOffset: 0, foundBlock: nil)
        }
        return unsafe isExact(block, bytes) ? nil : describeFault(of: block, in: bytes)
    }

    private func isExact(_ block: UInt64, _ bytes: UnsafeRawBufferPointer) -> Bool {
        let start = templateStart(block)
        // In bounds as in `fill`: `bytes` has `blockByteCount` bytes, checked by the caller.
        return unsafe templates.withUnsafeBytes { pool in
            var isEqual = unsafe bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self) == Self.magic.littleEndian
            isEqual =
                unsafe isEqual && bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self) == block.littleEndian
            var offset = Self.headerByteCount
            while isEqual && offset < blockByteCount {
                if offset % Self.stampStride == 0 && offset <= blockByteCount - 8 {
                    let template = unsafe pool.loadUnaligned(fromByteOffset: start + offset, as: UInt64.self)
                    let found = unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
                    isEqual = found == stamped(template, block, offset)
                    offset += 8
                }
                let end = min((offset / Self.stampStride + 1) * Self.stampStride, blockByteCount)
                isEqual =
                    unsafe isEqual
                    && haveEqualBytes(bytes[offset..<end], pool[start + offset..<start + end])
                offset = end
            }
            return isEqual
        }
    }

    /// The slow way, once something is known to be wrong.
    private func describeFault(of block: UInt64, in bytes: UnsafeRawBufferPointer) -> PayloadFault {
        let expected = unsafe [UInt8](unsafeUninitializedCapacity: blockByteCount) { buffer, count in
            unsafe fill(block, into: UnsafeMutableRawBufferPointer(buffer))
            count = blockByteCount
        }
        // `bytes` has `blockByteCount` bytes, checked by the caller.
        let wrong = expected.indices.filter { unsafe expected[$0] != bytes[$0] }
        let magic = unsafe bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self)
        let found = unsafe UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        return PayloadFault(
            wrongBytes: wrong.count,
            firstOffset: wrong.first ?? 0,
            foundBlock: magic == Self.magic.littleEndian && found != block ? found : nil
        )
    }

    private func templateStart(_ block: UInt64) -> Int {
        Int(truncatingIfNeeded: block % UInt64(templateCount)) * blockByteCount
    }

    private func stamped(_ template: UInt64, _ block: UInt64, _ offset: Int) -> UInt64 {
        let stamp = SplitMix64.mix(seed ^ SplitMix64.mix(block ^ UInt64(truncatingIfNeeded: offset) << 40))
        return (template & ~Self.stampMask) | (stamp.littleEndian & Self.stampMask)
    }
}

/// How a block's bytes differ from what they must be.
struct PayloadFault: Hashable, Sendable {
    var wrongBytes: Int
    var firstOffset: Int
    /// The block these bytes say they belong to, when that is another one.
    var foundBlock: UInt64?
}

/// bf16 elements with the statistics of real KV cache: 2.6 bits of entropy in the exponent, and sign and mantissa so
/// close to uniform that no codec gains from them.
enum KVStatistics {
    /// How often, in 1024, each exponent occurs, from the largest down. Entropy 2.62 bits.
    private static let exponentWeights = [44, 268, 296, 188, 104, 56, 32, 16, 10, 6, 4]
    /// The largest exponent: values between 2 and 4.
    private static let largestExponent = 128

    /// The elements' bytes, little-endian.
    static func elements(count: Int, seed: UInt64) -> [UInt8] {
        var exponents: [UInt8] = []
        for (index, weight) in exponentWeights.enumerated() {
            exponents += [UInt8](repeating: UInt8(largestExponent - index), count: weight)
        }
        precondition(exponents.count == 1024)
        var random = SplitMix64(seed: seed ^ 0x6B76_5F62_6631_3600)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count * 2)
        for _ in 0..<count {
            let draw = random.next()
            let exponent = UInt16(exponents[Int(truncatingIfNeeded: draw & 1023)])
            let signAndMantissa = UInt16(truncatingIfNeeded: draw &>> 10) & 0x807F
            let element = signAndMantissa | exponent &<< 7
            bytes.append(UInt8(truncatingIfNeeded: element))
            bytes.append(UInt8(truncatingIfNeeded: element &>> 8))
        }
        return bytes
    }
}
