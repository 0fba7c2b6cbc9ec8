internal import CLlamaKernels

/// A matrix of bf16 weights [outputs][inputs], repacked into panels of 16 outputs so that a multiplication reads them
/// in order. Several matrices with the same inputs may be one, one below the other.
///
/// @unchecked Sendable: written in init only.
@safe final class PackedMatrix: @unchecked Sendable {
    /// Numbers that go in.
    let inputs: Int
    /// Numbers that come out.
    let outputs: Int
    private let panelCount: Int
    // Owned from init to deinit; `panelCount * inputs * 16` words.
    private let panels: UnsafeMutablePointer<UInt16>

    /// Packs `parts`, whose outputs follow each other.
    ///
    /// - Precondition: all parts but the last have a multiple of 16 outputs; `Checkpoint.weights` has checked it.
    init(_ parts: [Tensor]) {
        let inputs = parts[0].shape[1]
        self.inputs = inputs
        outputs = parts.reduce(0) { $0 + $1.shape[0] }
        let lanes = Int(LLAMA_LANES)
        let panelCount = (outputs + lanes - 1) / lanes
        self.panelCount = panelCount
        unsafe panels = .allocate(capacity: panelCount * inputs * lanes)
        var panel = 0
        for part in parts {
            precondition(part.shape[1] == inputs && (part.shape[0] % lanes == 0 || part === parts.last))
            let to = unsafe panels + panel * inputs * lanes
            // Safe: a tensor has the bytes its shape says, and `to` has room for its panels.
            part.withBytes { bytes in
                unsafe bytes.withUnsafeBytes { unsafe llama_pack($0.baseAddress, part.shape[0], inputs, to) }
            }
            panel += (part.shape[0] + lanes - 1) / lanes
        }
    }

    deinit { unsafe panels.deallocate() }

    /// to[row] = matrix * from[row], or added to it, for the first `rows` rows.
    func multiply(_ from: FloatRows, rows: Int, into to: FloatRows, add: Bool = false) {
        precondition(from.columns == inputs && to.columns == outputs, "the shapes do not fit")
        guard rows > 0 else { return }
        Workers.split(panelCount, least: 4) { range in
            // Safe: both have `rows` rows, which `pointer` checks; tasks write different outputs.
            unsafe llama_multiply(
                from.pointer(row: 0, count: rows), rows, inputs, panels, range.lowerBound, range.upperBound, outputs,
                to.pointer(row: 0, count: rows), add)
        }
    }
}
