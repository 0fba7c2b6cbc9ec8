internal import CLlamaKernels

/// The C kernels that work on single rows and blocks, with their shapes checked.
enum Kernels {
    /// The instruction set in use. Results depend on it in the last bit, so it belongs to the cache's identity.
    // Safe: a string constant.
    static var instructionSet: String { unsafe String(cString: llama_level_name()) }

    /// to = x / rms(x) * weight, for one row of each.
    static func rmsNorm(_ x: FloatRows, row: Int, weight: [Float], epsilon: Float, into to: FloatRows, at target: Int) {
        precondition(x.columns == weight.count && to.columns == weight.count, "the shapes do not fit")
        // Safe: rows and weight have `weight.count` numbers each, checked above; the same for all below.
        unsafe weight.withUnsafeBufferPointer {
            unsafe llama_rms_norm(
                x.pointer(row: row), $0.baseAddress, weight.count, epsilon, to.pointer(row: target))
        }
    }

    /// Rotates `heads` heads of one row, from column `column` on, by the angles of one position.
    static func rotate(_ x: FloatRows, row: Int, column: Int, heads: Int, by angles: RotaryEmbedding.Angles) {
        let dimension = angles.cosines.count * 2
        precondition(column + heads * dimension <= x.columns, "the shapes do not fit")
        // Safe: the columns were checked above.
        unsafe angles.cosines.withUnsafeBufferPointer { cosines in
            unsafe angles.sines.withUnsafeBufferPointer { sines in
                unsafe llama_rotate(
                    x.pointer(row: row) + column, heads, dimension, cosines.baseAddress, sines.baseAddress)
            }
        }
    }

    /// to = silu(left half of x) * right half of x, for one row.
    static func swiglu(_ x: FloatRows, row: Int, into to: FloatRows) {
        precondition(x.columns == 2 * to.columns, "the shapes do not fit")
        let from = unsafe x.pointer(row: row)
        unsafe llama_swiglu(from, from + to.columns, to.columns, to.pointer(row: row))
    }

    /// Writes `count` numbers of a row as bf16.
    static func narrow(
        _ x: FloatRows, row: Int, column: Int, count: Int, into bytes: inout MutableRawSpan, at offset: Int
    ) {
        precondition(column + count <= x.columns && offset >= 0 && offset + 2 * count <= bytes.byteCount)
        unsafe bytes.withUnsafeMutableBytes {
            unsafe llama_narrow(x.pointer(row: row) + column, count, $0.baseAddress! + offset)
        }
    }

    /// Reads a row of numbers from bf16.
    static func widen(_ bytes: RawSpan, at offset: Int, into to: FloatRows, row: Int) {
        precondition(offset >= 0 && offset + 2 * to.columns <= bytes.byteCount)
        unsafe bytes.withUnsafeBytes {
            unsafe llama_widen($0.baseAddress! + offset, to.columns, to.pointer(row: row))
        }
    }
}
