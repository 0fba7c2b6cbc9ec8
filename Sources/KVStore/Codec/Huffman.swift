import CZstd

// The only file that imports CZstd.

/// Huffman coding of bytes, as zstd frames of nothing but literals: zstd's coder is fast, and any zstd reads them.
///
/// Holds the library's two contexts, each made at its first use and then used again. Not thread-safe.
@safe
final class Huffman {
    private var compressor: OpaquePointer?
    private var decompressor: OpaquePointer?

    // Safe, here and below: the contexts belong to this object and are freed once; freeing null does nothing.
    deinit {
        unsafe ZSTD_freeCCtx(compressor)
        unsafe ZSTD_freeDCtx(decompressor)
    }

    /// Codes `bytes` into the start of `output`.
    ///
    /// - Returns: the bytes written; nil when they do not fit, or when there is no memory.
    func encode(_ bytes: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Int? {
        if unsafe compressor == nil { unsafe compressor = Self.makeCompressor() }
        guard let compressor = unsafe compressor else { return nil }
        // Safe: both pointers come with their counts, and the library stays inside them.
        let written = unsafe ZSTD_compress2(
            compressor,
            output.baseAddress,
            output.count,
            bytes.baseAddress,
            bytes.count
        )
        return ZSTD_isError(written) == 0 && written > 0 ? written : nil
    }

    /// Decodes `stored`, whatever it holds, into `output`.
    ///
    /// - Returns: whether the result fills `output` exactly.
    func decode(
        _ stored: UnsafeRawBufferPointer,
        into output: UnsafeMutableRawBufferPointer
    ) throws(RecordDamage) -> Bool {
        if unsafe decompressor == nil { unsafe decompressor = ZSTD_createDCtx() }
        guard let decompressor = unsafe decompressor else { throw .noMemory }
        // Safe: made for hostile input; stays inside both counts, and needs no window of its own in this form.
        let written = unsafe ZSTD_decompressDCtx(
            decompressor,
            output.baseAddress,
            output.count,
            stored.baseAddress,
            stored.count
        )
        return ZSTD_isError(written) == 0 && written == output.count
    }

    private static func makeCompressor() -> OpaquePointer? {
        guard let context = unsafe ZSTD_createCCtx() else { return nil }
        // The lowest level searches for no matches; then literals must be asked for to be coded at all. No tables for
        // matches: the least size. Nobody needs the frame's own checksum.
        let parameters: [(ZSTD_cParameter, Int32)] = [
            (ZSTD_c_compressionLevel, ZSTD_minCLevel()),
            (kvstore_zstd_literal_compression_mode, kvstore_zstd_literals_huffman),
            (ZSTD_c_hashLog, 6), (ZSTD_c_chainLog, 6), (ZSTD_c_checksumFlag, 0),
        ]
        for (parameter, value) in parameters {
            guard unsafe ZSTD_isError(ZSTD_CCtx_setParameter(context, parameter, value)) == 0 else {
                unsafe ZSTD_freeCCtx(context)
                return nil
            }
        }
        return unsafe context
    }
}
