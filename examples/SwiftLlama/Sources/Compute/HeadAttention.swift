internal import CLlamaKernels

/// Attention of some tokens' queries over the blocks of their sequence, for one KV head: scores of all blocks, softmax,
/// mix of all values. Blocks are read where they lie, a slot of the store or a page of the engine.
struct HeadAttention {
    /// Tokens with a query.
    let tokens: Int
    /// Query heads that share the KV head.
    let group: Int
    /// Numbers in a head.
    let dimension: Int
    /// Place of the first token in the sequence.
    let firstPosition: Int
    /// Queries, one row a token.
    let queries: FloatRows
    /// The first token's row in them, and the column of its first head.
    let row: Int, column: Int

    private var rows: Int { tokens * group }
    private var shape: llama_queries {
        llama_queries(
            rows: rows, group: group, dimension: dimension, token_stride: queries.columns,
            first_position: firstPosition)
    }

    /// Computes the heads' outputs and writes them to the same rows and `column` of `to`, less `queries`' other columns.
    ///
    /// - Parameters:
    ///   - layout: Where keys and values lie in a block.
    ///   - layer: The layer.
    ///   - head: The KV head.
    ///   - table: The blocks of the sequence.
    func run(layer: Int, head: Int, layout: BlockLayout, over table: BlockTable, into to: FloatRows) {
        let end = firstPosition + tokens
        let blocks = (end + layout.tokens - 1) / layout.tokens
        let stride = blocks * layout.tokens + 16
        let scores = FloatRows(rows: rows, columns: stride)
        let sums = FloatRows(rows: 1, columns: rows)
        let mixed = FloatRows(rows: rows, columns: dimension)
        let shape = shape
        let scale = 1 / Float(dimension).squareRoot()
        precondition(column + group * dimension <= queries.columns && to.columns >= column + group * dimension)
        // Safe here and below: queries, scores, sums and mixed have the rows that `shape` names, a block has the bytes of
        // `layout`, and a span does not leave its closure.
        let query = unsafe queries.pointer(row: row, count: tokens) + column
        for block in 0..<blocks {
            let count = min(layout.tokens, end - block * layout.tokens)
            table.withBytes(at: block) { bytes in
                let offset = layout.keys(layer: layer, head: head)
                unsafe Self.block(bytes, offset, count, block * layout.tokens, layout) {
                    unsafe llama_scores(query, shape, $0, scale, scores.pointer(row: 0), stride)
                }
            }
        }
        unsafe llama_exponentials(scores.pointer(row: 0), shape, stride, sums.pointer(row: 0))
        for block in 0..<blocks {
            let count = min(layout.tokens, end - block * layout.tokens)
            table.withBytes(at: block) { bytes in
                let offset = layout.values(layer: layer, head: head)
                unsafe Self.block(bytes, offset, count, block * layout.tokens, layout) {
                    unsafe llama_mix(scores.pointer(row: 0), shape, stride, $0, mixed.pointer(row: 0))
                }
            }
        }
        for index in 0..<rows {
            let sum = unsafe sums.pointer(row: 0)[index]
            let from = unsafe mixed.pointer(row: index)
            let target = unsafe to.pointer(row: row + index / group) + column + index % group * dimension
            for d in 0..<dimension { unsafe target[d] = from[d] / sum }
        }
    }

    private static func block(
        _ bytes: RawSpan, _ offset: Int, _ count: Int, _ position: Int, _ layout: BlockLayout,
        _ body: (llama_block) -> Void
    ) {
        precondition(bytes.byteCount == layout.byteCount, "not a block of this model")
        unsafe bytes.withUnsafeBytes { memory in
            unsafe body(
                llama_block(
                    vectors: memory.baseAddress! + offset, tokens: count, token_stride: layout.tokenStride,
                    first_position: position))
        }
    }
}
