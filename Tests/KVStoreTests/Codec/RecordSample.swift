import Glibc

@testable import KVStore

/// A pseudo-random sequence that a seed determines, so that a failure can be repeated.
struct RecordRandom: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
        return word ^ (word >> 31)
    }
}

/// Memory that ends exactly at a page nobody may touch, so that one byte read or written too far kills the test.
enum GuardedBytes {
    static func with<R, Failure: Error>(
        count: Int,
        _ body: (UnsafeMutableRawBufferPointer) throws(Failure) -> R
    ) throws(Failure) -> R {
        let page = 4096
        let usable = (max(count, 1) + page - 1) / page * page
        let base = mmap(nil, usable + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
        precondition(base != MAP_FAILED && mprotect(base + usable, page, PROT_NONE) == 0)
        defer { munmap(base, usable + page) }
        return try body(UnsafeMutableRawBufferPointer(start: base + (usable - count), count: count))
    }

    static func with<R, Failure: Error>(
        _ contents: [UInt8],
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> R
    ) throws(Failure) -> R {
        try with(count: contents.count) { bytes throws(Failure) in
            bytes.copyBytes(from: contents)
            return try body(UnsafeRawBufferPointer(bytes))
        }
    }
}

/// Records as arrays, for tests.
enum RecordSample {
    static let identity = RecordIdentity(
        key: BlockKey(bytes: 0..<32)!,
        parent: BlockKey(bytes: 32..<64)!,
        fingerprint: BlockKey(bytes: 64..<96)!,
        sequence: 0x0102_0304_0506_0708
    )

    static func opaque(_ elementType: ElementType = .opaque) -> FrameGeometry {
        FrameGeometry(
            elementType: elementType,
            tokens: 16,
            layers: 0,
            keyHeads: 0,
            headDimension: 0,
            layout: .opaque
        )
    }

    static func encode(
        _ raw: [UInt8],
        geometry: FrameGeometry = opaque(),
        codec: CodecChoice = .automatic,
        rawDigest: UInt64? = nil
    ) -> [UInt8] {
        let most = BlockRecord.maximumByteCount(rawByteCount: raw.count, geometry: geometry)
        return GuardedBytes.with(raw) { raw in
            GuardedBytes.with(count: most) { room in
                let byteCount = BlockRecord.encode(
                    identity,
                    geometry: geometry,
                    codec: codec,
                    raw: raw,
                    rawDigest: rawDigest,
                    into: room
                )
                return Array(room[..<byteCount])
            }
        }
    }

    static func decode(
        _ record: [UInt8],
        rawByteCount: Int,
        key: BlockKey = identity.key,
        fingerprint: BlockKey = identity.fingerprint
    ) throws(RecordDamage) -> [UInt8] {
        try GuardedBytes.with(record) { record throws(RecordDamage) in
            try GuardedBytes.with(count: rawByteCount) { slot throws(RecordDamage) in
                let digest = try BlockRecord.decode(
                    record,
                    expectingKey: key,
                    fingerprint: fingerprint,
                    into: slot
                )
                precondition(digest == XXH3.digest(UnsafeRawBufferPointer(slot)), "the digest is not that of the slot")
                return Array(slot)
            }
        }
    }

    static func verify(_ record: [UInt8]) throws(RecordDamage) {
        try GuardedBytes.with(record) { record throws(RecordDamage) in try BlockRecord.verify(record) }
    }

    static func inspect(
        _ record: [UInt8]
    ) throws(RecordDamage) -> (identity: RecordIdentity, rawByteCount: Int, storedByteCount: Int) {
        try GuardedBytes.with(record) { record throws(RecordDamage) in try BlockRecord.inspect(record) }
    }

    /// Makes all digests but that of the raw bytes right again, as somebody would who wants a bad record accepted.
    static func reseal(_ record: inout [UInt8]) {
        guard record.count >= 224 else { return }
        func digest(_ range: Range<Int>) -> UInt64 {
            record[range].withUnsafeBytes { XXH3.digest($0) }
        }
        func put(_ value: UInt64, at offset: Int, count: Int) {
            for position in 0..<count { record[offset + position] = UInt8(truncatingIfNeeded: value >> (8 * position)) }
        }
        put(digest(224..<record.count), at: 128 + 48, count: 8)
        put(digest(128..<220), at: 128 + 92, count: 4)
        put(digest(0..<120), at: 120, count: 8)
    }
}

/// A record of which only some bytes are at hand at a time, as from a file. What was lent before is overwritten.
struct RecordWindow: RecordSource {
    private let record: [UInt8]
    private let window: UnsafeMutableRawBufferPointer
    private var held = 0..<0

    init(_ record: [UInt8], windowByteCount: Int) {
        self.record = record
        window = .allocate(byteCount: windowByteCount, alignment: 16)
    }

    var byteCount: Int { record.count }
    var windowByteCount: Int { window.count }

    func heldByteCount(from offset: Int) -> Int { held.contains(offset) ? held.upperBound - offset : 0 }

    mutating func lend(_ range: Range<Int>) -> UnsafeRawBufferPointer? {
        guard range.count <= window.count, range.upperBound <= record.count else { return nil }
        if range.lowerBound < held.lowerBound || range.upperBound > held.upperBound {
            for index in window.indices { window[index] = 0xA5 }
            held = range.lowerBound..<min(record.count, range.lowerBound + window.count)
            window.copyBytes(from: record[held])
        }
        let start = range.lowerBound - held.lowerBound
        return UnsafeRawBufferPointer(rebasing: window[start..<start + range.count])
    }

    /// Of no further use afterwards.
    mutating func decode(rawByteCount: Int) throws(RecordDamage) -> [UInt8] {
        defer { window.deallocate() }
        let identity = RecordSample.identity
        var slot = [UInt8](repeating: 0, count: rawByteCount)
        let result = slot.withUnsafeMutableBytes { slot in
            Result { () throws(RecordDamage) in
                try BlockRecord.decode(
                    from: &self,
                    expectingKey: identity.key,
                    fingerprint: identity.fingerprint,
                    into: slot
                )
            }
        }
        let digest = try result.get()
        precondition(slot.withUnsafeBytes { XXH3.digest($0) } == digest, "the digest is not that of the slot")
        return slot
    }
}
