/// A matrix of floats, row after row: activations.
///
/// @unchecked Sendable: the memory belongs to one forward pass; workers write disjoint parts of it.
@safe final class FloatRows: @unchecked Sendable {
    /// Numbers in a row.
    let columns: Int
    /// Rows there is room for.
    let capacity: Int
    // Owned from init to deinit; kernels get it through `pointer`, which checks the row.
    private let base: UnsafeMutablePointer<Float>

    /// Zeros.
    init(rows: Int, columns: Int) {
        self.columns = columns
        capacity = rows
        // Vectors end at most 15 numbers after the last row, see `llama_scores`.
        let count = rows * columns + 16
        unsafe base = .allocate(capacity: count)
        unsafe base.initialize(repeating: 0, count: count)
    }

    deinit { unsafe base.deallocate() }

    /// The memory from `row` on, which must have `count` rows more.
    func pointer(row: Int, count: Int = 1) -> UnsafeMutablePointer<Float> {
        precondition(row >= 0 && count >= 0 && row + count <= capacity, "no such row")
        return unsafe base + row * columns
    }

    /// A copy of one row.
    subscript(row: Int) -> [Float] {
        // Safe: `pointer` checked the row, which has `columns` numbers.
        unsafe Array(UnsafeBufferPointer(start: pointer(row: row), count: columns))
    }

    /// Makes rows zero.
    func clear(rows: Int) {
        unsafe pointer(row: 0, count: rows).update(repeating: 0, count: rows * columns)
    }
}
