/// One pass of some tokens through the model: writes their K and V into their sequences' pages and gives the logits of
/// the last token of each sequence.
///
/// A token's numbers depend on its sequence's earlier tokens and on nothing else: rows are computed independently, and
/// attention reads K and V as they are stored (rounded to bf16), whether this pass computed them, an earlier one or
/// another process.
final class ForwardPass: Sendable {
    /// The tokens of one sequence that are to be computed.
    struct Segment: Sendable {
        /// The blocks of the sequence, with room for these tokens.
        let table: BlockTable
        /// Tokens, the first one at `firstPosition`.
        let tokens: ArraySlice<UInt32>
        /// Tokens before them, all of them in `table`.
        let firstPosition: Int
        /// Whether the last token's logits are wanted.
        let wantsLogits: Bool
    }

    private let model: LlamaModel
    private let layout: BlockLayout
    private let maximumRows: Int
    // Activations, one row a token.
    private let hidden: FloatRows
    private let normed: FloatRows
    private let queryKeyValue: FloatRows
    private let attended: FloatRows
    private let gateUp: FloatRows
    private let inner: FloatRows
    private let logits: FloatRows

    /// - Parameter maximumRows: Tokens of all segments together, at most.
    init(_ model: LlamaModel, layout: BlockLayout, maximumRows: Int, maximumSegments: Int) {
        let shape = model.configuration
        self.model = model
        self.layout = layout
        self.maximumRows = maximumRows
        hidden = FloatRows(rows: maximumRows, columns: shape.hiddenSize)
        normed = FloatRows(rows: maximumRows, columns: shape.hiddenSize)
        let heads = shape.heads + 2 * shape.keyValueHeads
        queryKeyValue = FloatRows(rows: maximumRows, columns: heads * shape.headDimension)
        attended = FloatRows(rows: maximumRows, columns: shape.heads * shape.headDimension)
        gateUp = FloatRows(rows: maximumRows, columns: 2 * shape.intermediateSize)
        inner = FloatRows(rows: maximumRows, columns: shape.intermediateSize)
        logits = FloatRows(rows: maximumSegments, columns: shape.vocabularySize)
    }

    /// Computes all segments; the logits of those that want them, nil for the others.
    func run(_ segments: [Segment]) -> [[Float]?] {
        let rows = segments.reduce(0) { $0 + $1.tokens.count }
        precondition(rows <= maximumRows && segments.count <= logits.capacity, "too many tokens for one pass")
        embed(segments)
        let angles = segments.flatMap { segment in
            segment.tokens.indices.map { index in
                model.rotary.angles(at: segment.firstPosition + index - segment.tokens.startIndex)
            }
        }
        for (number, layer) in model.layers.enumerated() {
            norm(rows, layer.attentionNorm)
            layer.queryKeyValue.multiply(normed, rows: rows, into: queryKeyValue)
            each(rows) { rotate($0, by: angles[$0]) }
            save(segments, layer: number)
            attend(segments, layer: number)
            layer.attentionOutput.multiply(attended, rows: rows, into: hidden, add: true)
            norm(rows, layer.feedForwardNorm)
            layer.gateUp.multiply(normed, rows: rows, into: gateUp)
            each(rows) { Kernels.swiglu(gateUp, row: $0, into: inner) }
            layer.down.multiply(inner, rows: rows, into: hidden, add: true)
        }
        return output(segments)
    }

    private func each(_ rows: Int, _ body: @Sendable (Int) -> Void) {
        Workers.split(rows, least: 8) { range in for row in range { body(row) } }
    }

    private func norm(_ rows: Int, _ weight: [Float]) {
        let epsilon = model.configuration.normEpsilon
        each(rows) { Kernels.rmsNorm(hidden, row: $0, weight: weight, epsilon: epsilon, into: normed, at: $0) }
    }

    private func embed(_ segments: [Segment]) {
        let rowBytes = 2 * hidden.columns
        var row = 0
        model.embedding.withBytes { bytes in
            for segment in segments {
                for token in segment.tokens {
                    Kernels.widen(bytes, at: Int(token) * rowBytes, into: hidden, row: row)
                    row += 1
                }
            }
        }
    }

    private func rotate(_ row: Int, by angles: RotaryEmbedding.Angles) {
        // Queries and keys lie side by side.
        let heads = model.configuration.heads + model.configuration.keyValueHeads
        Kernels.rotate(queryKeyValue, row: row, column: 0, heads: heads, by: angles)
    }

    /// Rounds K and V of all rows into the pages.
    private func save(_ segments: [Segment], layer: Int) {
        let width = layout.tokenStride
        let keys = model.configuration.heads * layout.dimension
        var row = 0
        for segment in segments {
            for position in segment.firstPosition..<segment.firstPosition + segment.tokens.count {
                let (block, token) = position.quotientAndRemainder(dividingBy: layout.tokens)
                segment.table.withMutableBytes(at: block) { bytes in
                    let offset = token * width * 2
                    let places = [
                        (keys, layout.keys(layer: layer, head: 0)),
                        (keys + width, layout.values(layer: layer, head: 0)),
                    ]
                    for (column, start) in places {
                        Kernels.narrow(
                            queryKeyValue, row: row, column: column, count: width, into: &bytes, at: start + offset)
                    }
                }
                row += 1
            }
        }
    }

    /// A part of attention that one worker does: some tokens of one segment, one KV head.
    private struct Piece: Sendable {
        let segment: Segment
        let row: Int
        let first: Int
        let count: Int
        let head: Int
    }

    private func attend(_ segments: [Segment], layer: Int) {
        let pieces = pieces(of: segments)
        let group = model.configuration.heads / layout.keyValueHeads
        Workers.each(pieces.count) { index in
            let piece = pieces[index]
            HeadAttention(
                tokens: piece.count, group: group, dimension: layout.dimension,
                firstPosition: piece.segment.firstPosition + piece.first, queries: queryKeyValue, row: piece.row,
                column: piece.head * group * layout.dimension
            ).run(layer: layer, head: piece.head, layout: layout, over: piece.segment.table, into: attended)
        }
    }

    private func pieces(of segments: [Segment]) -> [Piece] {
        // Scores of this many tokens fit the second-level cache.
        let most = 32
        var pieces: [Piece] = []
        var row = 0
        for segment in segments {
            for first in stride(from: 0, to: segment.tokens.count, by: most) {
                let count = min(most, segment.tokens.count - first)
                for head in 0..<layout.keyValueHeads {
                    pieces.append(Piece(segment: segment, row: row + first, first: first, count: count, head: head))
                }
            }
            row += segment.tokens.count
        }
        return pieces
    }

    private func output(_ segments: [Segment]) -> [[Float]?] {
        var last = -1
        var wanted = 0
        for segment in segments {
            last += segment.tokens.count
            guard segment.wantsLogits else { continue }
            Kernels.rmsNorm(
                hidden, row: last, weight: model.finalNorm, epsilon: model.configuration.normEpsilon, into: normed,
                at: wanted)
            wanted += 1
        }
        model.output.multiply(normed, rows: wanted, into: logits)
        var next = 0
        return segments.map { segment in
            guard segment.wantsLogits else { return nil }
            defer { next += 1 }
            return logits[next]
        }
    }
}
