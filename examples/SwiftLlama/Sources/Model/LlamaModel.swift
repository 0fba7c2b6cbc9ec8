/// A Llama in memory, ready to compute. Never changes; may be shared by engines and threads.
final class LlamaModel: Sendable {
    /// The shape.
    let configuration: ModelConfiguration
    /// SHA-256 of the weights.
    let weightsDigest: [UInt8]
    let rotary: RotaryEmbedding
    let embedding: Tensor
    let layers: [Layer]
    let finalNorm: [Float]
    let output: PackedMatrix

    /// The weights of one layer.
    struct Layer: Sendable {
        let attentionNorm: [Float]
        /// Query, key and value, one below the other.
        let queryKeyValue: PackedMatrix
        let attentionOutput: PackedMatrix
        let feedForwardNorm: [Float]
        /// Gate and up, one below the other.
        let gateUp: PackedMatrix
        let down: PackedMatrix
    }

    /// Loads a Hugging Face directory.
    convenience init(directory: String) throws(ModelError) { try self.init(Checkpoint(directory)) }

    /// Repacks the weights of a checkpoint.
    init(_ checkpoint: Checkpoint) throws(ModelError) {
        let shape = checkpoint.configuration
        configuration = shape
        weightsDigest = checkpoint.weightsDigest
        rotary = RotaryEmbedding(shape)
        let embedding = try checkpoint.tensor("model.embed_tokens.weight", shape.vocabularySize, shape.hiddenSize)
        self.embedding = embedding
        var layers: [Layer] = []
        for number in 0..<shape.layers { layers.append(try Self.layer(number, shape, checkpoint)) }
        self.layers = layers
        finalNorm = Self.floats(try checkpoint.tensor("model.norm.weight", shape.hiddenSize))
        output = PackedMatrix([
            shape.tiesEmbeddings
                ? embedding : try checkpoint.tensor("lm_head.weight", shape.vocabularySize, shape.hiddenSize)
        ])
    }

    private static func layer(
        _ number: Int, _ shape: ModelConfiguration, _ checkpoint: Checkpoint
    ) throws(ModelError) -> Layer {
        let name = "model.layers.\(number)"
        let queries = shape.heads * shape.headDimension
        let keys = shape.keyValueHeads * shape.headDimension
        let (hidden, inner) = (shape.hiddenSize, shape.intermediateSize)
        return Layer(
            attentionNorm: floats(try checkpoint.tensor("\(name).input_layernorm.weight", hidden)),
            queryKeyValue: PackedMatrix([
                try checkpoint.tensor("\(name).self_attn.q_proj.weight", queries, hidden),
                try checkpoint.tensor("\(name).self_attn.k_proj.weight", keys, hidden),
                try checkpoint.tensor("\(name).self_attn.v_proj.weight", keys, hidden),
            ]),
            attentionOutput: PackedMatrix([
                try checkpoint.tensor("\(name).self_attn.o_proj.weight", hidden, queries)
            ]),
            feedForwardNorm: floats(try checkpoint.tensor("\(name).post_attention_layernorm.weight", hidden)),
            gateUp: PackedMatrix([
                try checkpoint.tensor("\(name).mlp.gate_proj.weight", inner, hidden),
                try checkpoint.tensor("\(name).mlp.up_proj.weight", inner, hidden),
            ]),
            down: PackedMatrix([try checkpoint.tensor("\(name).mlp.down_proj.weight", hidden, inner)]))
    }

    private static func floats(_ tensor: Tensor) -> [Float] {
        let row = FloatRows(rows: 1, columns: tensor.shape[0])
        tensor.withBytes { Kernels.widen($0, at: 0, into: row, row: 0) }
        return row[0]
    }
}
