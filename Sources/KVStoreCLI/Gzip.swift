import CZlib

/// Undoes gzip, chunk by chunk. Several members in a row count as one stream, as with gunzip.
///
/// The only importer of CZlib. `stream` is made in `init`, freed in `deinit`, and never leaves this file.
@safe
final class GzipDecoder {
    enum Failure: Error, Hashable {
        /// The input ended before the stream did.
        case truncated
        /// The bytes are not gzip, or a checksum differs.
        case damaged(String)
    }

    /// The two bytes every gzip file starts with.
    static let magic: [UInt8] = [0x1F, 0x8B]

    private let stream: UnsafeMutablePointer<z_stream>
    private var isBetweenMembers = false
    private static let outputByteCount = 256 << 10

    init() {
        unsafe stream = .allocate(capacity: 1)
        unsafe stream.initialize(to: z_stream())
        // 15 bits of window, + 16 for a gzip header and trailer, whose checksum zlib then compares.
        let status = unsafe inflateInit2_(stream, 15 + 16, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
        precondition(status == Z_OK, "zlib could not start: \(status)")
    }

    deinit {
        unsafe inflateEnd(stream)
        unsafe stream.deallocate()
    }

    /// Decodes one chunk of input and hands out what it holds, in pieces.
    func decode(_ input: [UInt8], _ body: ([UInt8]) throws -> Void) throws {
        var consumed = 0
        while consumed < input.count {
            if isBetweenMembers {
                // gzip files may be padded with zeros at the end; anything else there starts another member.
                if input[consumed] == 0 {
                    consumed += 1
                    continue
                }
                unsafe inflateReset(stream)
                isBetweenMembers = false
            }
            try body(try decodePiece(input, from: &consumed))
        }
    }

    /// One call of zlib: moves `consumed` forward and returns up to `outputByteCount` bytes.
    private func decodePiece(_ input: [UInt8], from consumed: inout Int) throws(Failure) -> [UInt8] {
        var status: Int32 = Z_OK
        var used = 0
        let piece = unsafe input.withUnsafeBufferPointer { source in
            unsafe [UInt8](unsafeUninitializedCapacity: Self.outputByteCount) { target, initialized in
                // zlib reads avail_in bytes from next_in and writes at most avail_out bytes to next_out; both are set
                // from the buffers' own counts, and both buffers outlive the call. It does not write to next_in.
                unsafe stream.pointee.next_in = UnsafeMutablePointer(mutating: source.baseAddress! + consumed)
                unsafe stream.pointee.avail_in = UInt32(source.count - consumed)
                unsafe stream.pointee.next_out = target.baseAddress
                unsafe stream.pointee.avail_out = UInt32(target.count)
                status = unsafe inflate(stream, Z_NO_FLUSH)
                used = unsafe source.count - consumed - Int(stream.pointee.avail_in)
                initialized = unsafe target.count - Int(stream.pointee.avail_out)
            }
        }
        consumed += used
        switch status {
        case Z_STREAM_END: isBetweenMembers = true
        case Z_OK: break
        case Z_BUF_ERROR where used > 0 || !piece.isEmpty: break
        default:
            // msg is a constant string inside zlib, or nil.
            let message = unsafe stream.pointee.msg.map { unsafe String(cString: $0) }
            throw .damaged(message ?? "zlib error \(status)")
        }
        return piece
    }

    /// Call when the input has ended; throws when the stream has not.
    func finish() throws(Failure) {
        guard isBetweenMembers else { throw .truncated }
    }
}
