import Foundation

@testable import SwiftLlama

/// A Llama from its definition, in doubles, without cache, blocks or vectors: what the engine is compared with.
struct NaiveLlama {
    typealias Matrix = [[Double]]

    let shape: ModelConfiguration
    let checkpoint: Checkpoint

    /// The logits of every token.
    func logits(_ tokens: [UInt32]) throws -> Matrix {
        let embedding = try matrix("model.embed_tokens.weight", shape.vocabularySize, shape.hiddenSize)
        var hidden = tokens.map { embedding[Int($0)] }
        for layer in 0..<shape.layers { hidden = try run(layer, hidden) }
        let output =
            shape.tiesEmbeddings ? embedding : try matrix("lm_head.weight", shape.vocabularySize, shape.hiddenSize)
        return times(try normed(hidden, "model.norm.weight"), output)
    }

    private func run(_ layer: Int, _ hidden: Matrix) throws -> Matrix {
        let name = "model.layers.\(layer)"
        let (size, inner) = (shape.hiddenSize, shape.intermediateSize)
        let queryWidth = shape.heads * shape.headDimension
        let keyWidth = shape.keyValueHeads * shape.headDimension
        let input = try normed(hidden, "\(name).input_layernorm.weight")
        let queries = rotated(times(input, try matrix("\(name).self_attn.q_proj.weight", queryWidth, size)))
        let keys = rotated(times(input, try matrix("\(name).self_attn.k_proj.weight", keyWidth, size))).map(rounded)
        let values = times(input, try matrix("\(name).self_attn.v_proj.weight", keyWidth, size)).map(rounded)
        let attended = attention(queries, keys, values)
        let middle = plus(hidden, times(attended, try matrix("\(name).self_attn.o_proj.weight", size, queryWidth)))
        let second = try normed(middle, "\(name).post_attention_layernorm.weight")
        let gate = times(second, try matrix("\(name).mlp.gate_proj.weight", inner, size))
        let up = times(second, try matrix("\(name).mlp.up_proj.weight", inner, size))
        let product = zip(gate, up).map { zip($0, $1).map { $0 / (1 + exp(-$0)) * $1 } }
        return plus(middle, times(product, try matrix("\(name).mlp.down_proj.weight", size, inner)))
    }

    private func attention(_ queries: Matrix, _ keys: Matrix, _ values: Matrix) -> Matrix {
        let dimension = shape.headDimension
        return queries.indices.map { token in
            (0..<shape.heads).flatMap { head -> [Double] in
                let from = head * dimension
                let shared = head / (shape.heads / shape.keyValueHeads) * dimension
                let scores = (0...token).map { other in
                    (0..<dimension).reduce(0) { $0 + queries[token][from + $1] * keys[other][shared + $1] }
                        / Double(dimension).squareRoot()
                }
                let weights = scores.map { exp($0 - scores.max()!) }
                let sum = weights.reduce(0, +)
                return (0..<dimension).map { d in
                    (0...token).reduce(0) { $0 + weights[$1] / sum * values[$1][shared + d] }
                }
            }
        }
    }

    /// Each head's pairs (i, i + half), turned by position times frequency.
    private func rotated(_ rows: Matrix) -> Matrix {
        let half = shape.headDimension / 2
        return rows.enumerated().map { position, row in
            var row = row
            for start in stride(from: 0, to: row.count, by: 2 * half) {
                for pair in 0..<half {
                    let angle = Double(position) * frequency(pair)
                    let (a, b) = (row[start + pair], row[start + pair + half])
                    row[start + pair] = a * cos(angle) - b * sin(angle)
                    row[start + pair + half] = b * cos(angle) + a * sin(angle)
                }
            }
            return row
        }
    }

    private func frequency(_ pair: Int) -> Double {
        let plain = 1 / pow(shape.ropeTheta, 2 * Double(pair) / Double(shape.headDimension))
        guard case .llama3(let factor, let low, let high, let original) = shape.ropeScaling else { return plain }
        let wavelength = 2 * Double.pi / plain
        if wavelength < original / high { return plain }
        if wavelength > original / low { return plain / factor }
        let smooth = (original / wavelength - low) / (high - low)
        return (1 - smooth) * plain / factor + smooth * plain
    }

    private func normed(_ rows: Matrix, _ name: String) throws -> Matrix {
        let weight = try matrix(name, shape.hiddenSize).map { $0[0] }
        return rows.map { row in
            let mean = row.reduce(0) { $0 + $1 * $1 } / Double(row.count)
            return zip(row, weight).map { $0 / (mean + Double(shape.normEpsilon)).squareRoot() * $1 }
        }
    }

    private func matrix(_ name: String, _ rows: Int, _ columns: Int? = nil) throws -> Matrix {
        let tensor = try columns.map { try checkpoint.tensor(name, rows, $0) } ?? checkpoint.tensor(name, rows)
        let columns = columns ?? 1
        return tensor.withBytes { bytes in
            (0..<rows).map { row in
                (0..<columns).map { column in
                    let at = 2 * (row * columns + column)
                    let word = UInt32(bytes.byte(at: at)) | UInt32(bytes.byte(at: at + 1)) << 8
                    return Double(Float(bitPattern: word << 16))
                }
            }
        }
    }

    /// Keys and values are kept as bf16.
    private func rounded(_ row: [Double]) -> [Double] {
        row.map { number in
            let bits = Float(number).bitPattern
            return Double(Float(bitPattern: (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000))
        }
    }

    private func times(_ rows: Matrix, _ weights: Matrix) -> Matrix {
        rows.map { row in weights.map { zip(row, $0).reduce(0) { $0 + $1.0 * $1.1 } } }
    }

    private func plus(_ left: Matrix, _ right: Matrix) -> Matrix {
        zip(left, right).map { zip($0, $1).map(+) }
    }
}
