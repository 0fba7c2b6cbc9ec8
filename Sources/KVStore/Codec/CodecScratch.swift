import Glibc
import Synchronization

/// What coding a frame needs beside its input and output: Huffman contexts, digest streams, rows of units, some bytes.
///
/// All of it is made at the first use and kept, so that coding one block after the other allocates nothing. One thread
/// uses it at a time: whoever codes borrows one from a pool, see ``ScratchLoan``.
@safe
final class CodecScratch: @unchecked Sendable {  // Only its borrower touches it; the pool's lock is between two.
    let huffman = Huffman()
    private var bytes: UnsafeMutableRawBufferPointer
    private var stream: XXH3.Stream?
    private var storedStream: XXH3.Stream?
    /// The rows of the frame that is being decoded.
    var units: [UnitEntry] = []

    /// More is given back after use; units are at most about 1 MiB unless one token alone is larger.
    private static let keptByteCount = 4 << 20
    private static let keptUnitCount = 1 << 14
    /// As many as code at once on most machines: what one holds is never given back.
    private static let poolLimit = 4
    private static let pool = Mutex<[CodecScratch]>([])

    init() { unsafe bytes = UnsafeMutableRawBufferPointer(start: nil, count: 0) }

    // Safe: malloc'ed here only, and freed once.
    deinit { unsafe free(bytes.baseAddress) }

    /// At least `count` bytes, aligned to 16, with anything in them; valid until the next call. Nil when there is no
    /// memory.
    func room(_ count: Int) -> UnsafeMutableRawBufferPointer? {
        if unsafe bytes.count < count {
            // Safe: the old bytes are freed before the new ones are taken, and nobody may use them any more.
            unsafe free(bytes.baseAddress)
            let base = unsafe malloc(count)
            unsafe bytes = UnsafeMutableRawBufferPointer(start: base, count: base == nil ? 0 : count)
        }
        return unsafe bytes.count >= count ? bytes : nil
    }

    /// A digest stream that has seen nothing yet; nil when there is no memory.
    func freshStream() -> XXH3.Stream? {
        if stream == nil { stream = XXH3.Stream() }
        stream?.restart()
        return stream
    }

    /// For decoding a frame: two digest streams that have seen nothing yet, and no rows; nil when there is no memory.
    func freshStreams() -> (stored: XXH3.Stream, raw: XXH3.Stream)? {
        units.removeAll(keepingCapacity: true)
        if storedStream == nil { storedStream = XXH3.Stream() }
        storedStream?.restart()
        guard let storedStream, let raw = freshStream() else { return nil }
        return (storedStream, raw)
    }

    static func borrow() -> CodecScratch { pool.withLock { $0.popLast() } ?? CodecScratch() }

    func giveBack() {
        if unsafe bytes.count > Self.keptByteCount {
            // Safe: as in `room`.
            unsafe free(bytes.baseAddress)
            unsafe bytes = UnsafeMutableRawBufferPointer(start: nil, count: 0)
        }
        if units.capacity > Self.keptUnitCount { units = [] }
        Self.pool.withLock { if $0.count < Self.poolLimit { $0.append(self) } }
    }
}

/// A scratch for the length of one frame, borrowed when it is first asked for: raw and constant units need none.
struct ScratchLoan: ~Copyable {
    private var held: CodecScratch?

    init() {}

    deinit { held?.giveBack() }

    mutating func get() -> CodecScratch {
        if let held { return held }
        let scratch = CodecScratch.borrow()
        held = scratch
        return scratch
    }
}
