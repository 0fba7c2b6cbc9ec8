internal import Foundation

/// The shape of a Llama, from `config.json`.
struct ModelConfiguration: Sendable, Hashable {
    /// Numbers in a token's activation.
    var hiddenSize: Int
    /// Numbers inside the feed-forward part.
    var intermediateSize: Int
    var layers: Int
    /// Query heads.
    var heads: Int
    /// KV heads, each shared by `heads / keyValueHeads` query heads.
    var keyValueHeads: Int
    var headDimension: Int
    var vocabularySize: Int
    /// Tokens of the longest sequence.
    var maximumPositions: Int
    var normEpsilon: Float = 1e-5
    var ropeTheta: Double = 10_000
    var ropeScaling = RopeScaling.none
    /// Whether the output matrix is the embedding.
    var tiesEmbeddings = false
    /// Tokens that end a text.
    var endTokens: Set<UInt32> = []

    /// How rotary frequencies are changed for longer sequences.
    enum RopeScaling: Sendable, Hashable {
        case none
        /// All frequencies divided by a factor.
        case linear(factor: Double)
        /// Llama 3: low frequencies divided, high ones kept, those between blended.
        case llama3(factor: Double, lowFactor: Double, highFactor: Double, originalPositions: Double)
    }
}

extension ModelConfiguration {
    private struct File: Decodable {
        let model_type: String?
        let hidden_size: Int
        let intermediate_size: Int
        let num_hidden_layers: Int
        let num_attention_heads: Int
        let num_key_value_heads: Int?
        let head_dim: Int?
        let vocab_size: Int
        let max_position_embeddings: Int?
        let rms_norm_eps: Float?
        let rope_theta: Double?
        let rope_scaling: Scaling?
        let rope_parameters: Scaling?
        let tie_word_embeddings: Bool?
        let eos_token_id: OneOrMany?
        let attention_bias: Bool?
        let mlp_bias: Bool?
        let hidden_act: String?
    }

    private struct Scaling: Decodable {
        let rope_type: String?
        let type: String?
        let rope_theta: Double?
        let factor: Double?
        let low_freq_factor: Double?
        let high_freq_factor: Double?
        let original_max_position_embeddings: Double?
    }

    private struct OneOrMany: Decodable {
        let values: [UInt32]
        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let one = try? container.decode(UInt32.self) {
                values = [one]
            } else {
                values = try container.decode([UInt32].self)
            }
        }
    }

    /// Reads `config.json` and refuses what this engine would compute wrongly.
    init(json: Data, path: String) throws(ModelError) {
        let file: File
        do {
            file = try JSONDecoder().decode(File.self, from: json)
        } catch {
            throw ModelError("\(path): \(error)")
        }
        guard file.model_type ?? "llama" == "llama" else {
            throw ModelError("\(path): model_type is \(file.model_type ?? ""); this engine runs llama only")
        }
        guard file.attention_bias != true, file.mlp_bias != true else {
            throw ModelError("\(path): biases are not supported")
        }
        guard file.hidden_act ?? "silu" == "silu" else { throw ModelError("\(path): hidden_act must be silu") }
        self.init(
            hiddenSize: file.hidden_size, intermediateSize: file.intermediate_size, layers: file.num_hidden_layers,
            heads: file.num_attention_heads, keyValueHeads: file.num_key_value_heads ?? file.num_attention_heads,
            headDimension: file.head_dim ?? file.hidden_size / max(1, file.num_attention_heads),
            vocabularySize: file.vocab_size, maximumPositions: file.max_position_embeddings ?? 2048)
        normEpsilon = file.rms_norm_eps ?? 1e-6
        ropeTheta = file.rope_theta ?? file.rope_parameters?.rope_theta ?? 10_000
        tiesEmbeddings = file.tie_word_embeddings ?? false
        endTokens = Set(file.eos_token_id?.values ?? [])
        if let scaling = file.rope_scaling ?? file.rope_parameters { ropeScaling = try Self.scaling(scaling, path) }
        let problems = problems
        guard problems.isEmpty else { throw ModelError("\(path): \(problems.joined(separator: "; "))") }
    }

    private static func scaling(_ scaling: Scaling, _ path: String) throws(ModelError) -> RopeScaling {
        switch scaling.rope_type ?? scaling.type ?? "default" {
        case "default": return .none
        case "linear": return .linear(factor: scaling.factor ?? 1)
        case "llama3":
            guard let factor = scaling.factor, let low = scaling.low_freq_factor, let high = scaling.high_freq_factor,
                let original = scaling.original_max_position_embeddings, high > low
            else { throw ModelError("\(path): rope_scaling of llama3 is not complete") }
            return .llama3(factor: factor, lowFactor: low, highFactor: high, originalPositions: original)
        case let other: throw ModelError("\(path): rope_scaling \(other) is not supported")
        }
    }

    /// All that changes K and V and is not counted in the shape of a block. Spelled out: the description of a set, such
    /// as `endTokens`, has another order in each process.
    var numbersText: String {
        "hidden \(hiddenSize) inner \(intermediateSize) heads \(heads) epsilon \(normEpsilon) theta \(ropeTheta) "
            + "scaling \(ropeScaling)"
    }

    /// What is wrong with the shape.
    var problems: [String] {
        var problems: [String] = []
        let sizes = [
            ("hidden_size", hiddenSize, 1 << 17), ("intermediate_size", intermediateSize, 1 << 20),
            ("num_hidden_layers", layers, 1 << 10), ("num_attention_heads", heads, 1 << 10),
            ("num_key_value_heads", keyValueHeads, 1 << 10), ("head_dim", headDimension, 256),
            ("vocab_size", vocabularySize, 1 << 22), ("max_position_embeddings", maximumPositions, 1 << 24),
        ]
        for (name, value, most) in sizes where !(1...most).contains(value) {
            problems.append("\(name) is \(value); it must be 1 to \(most)")
        }
        guard problems.isEmpty else { return problems }
        if headDimension % 16 != 0 { problems.append("head_dim is \(headDimension); it must be a multiple of 16") }
        if intermediateSize % 16 != 0 { problems.append("intermediate_size must be a multiple of 16") }
        if heads % keyValueHeads != 0 { problems.append("num_key_value_heads must divide num_attention_heads") }
        return problems
    }
}
