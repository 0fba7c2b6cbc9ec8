internal import Foundation

/// Makes a Hugging Face directory of a Llama with random weights: config, safetensors, tokenizer. The same seed makes
/// the same bytes.
///
/// With the usual initial weights attention is all but even and the model repeats one token, whatever the cache holds.
/// So embeddings, queries, values and outputs are scaled up until each token depends on the whole prefix; the negative
/// control of the demo shows that it does.
struct RandomModel {
    /// The shape of the model.
    var configuration: ModelConfiguration
    /// Starts the weights' random numbers.
    var seed: UInt64 = 1

    /// Shapes by name.
    static let presets: [String: ModelConfiguration] = [
        // For tests: a prompt takes milliseconds.
        "tiny": shape(hidden: 64, inner: 160, layers: 2, heads: 4, keyValueHeads: 2, dimension: 16),
        // Prefill of 2000 tokens takes seconds on two cores.
        "small": shape(hidden: 512, inner: 1408, layers: 8, heads: 8, keyValueHeads: 4, dimension: 64),
        "medium": shape(hidden: 1024, inner: 2816, layers: 8, heads: 16, keyValueHeads: 8, dimension: 64),
    ]

    private static func shape(
        hidden: Int, inner: Int, layers: Int, heads: Int, keyValueHeads: Int, dimension: Int
    ) -> ModelConfiguration {
        ModelConfiguration(
            hiddenSize: hidden, intermediateSize: inner, layers: layers, heads: heads, keyValueHeads: keyValueHeads,
            headDimension: dimension, vocabularySize: Tokenizer.bytes.vocabularySize, maximumPositions: 16_384)
    }

    /// Writes the model into a directory, which is made if missing.
    func write(to directory: String) throws {
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        try Data(configurationText.utf8).write(to: URL(filePath: "\(directory)/config.json"))
        try Tokenizer.bytes.fileText.write(to: URL(filePath: "\(directory)/tokenizer.json"))
        try weights().write(to: URL(filePath: "\(directory)/model.safetensors"))
    }

    private var configurationText: String {
        let shape = configuration
        return """
            {
              "architectures": ["LlamaForCausalLM"],
              "model_type": "llama",
              "hidden_size": \(shape.hiddenSize),
              "intermediate_size": \(shape.intermediateSize),
              "num_hidden_layers": \(shape.layers),
              "num_attention_heads": \(shape.heads),
              "num_key_value_heads": \(shape.keyValueHeads),
              "head_dim": \(shape.headDimension),
              "vocab_size": \(shape.vocabularySize),
              "max_position_embeddings": \(shape.maximumPositions),
              "rms_norm_eps": \(shape.normEpsilon),
              "rope_theta": \(shape.ropeTheta),
              "rope_scaling": \(shape.ropeScaling.text),
              "tie_word_embeddings": \(shape.tiesEmbeddings),
              "torch_dtype": "bfloat16",
              "hidden_act": "silu",
              "attention_bias": false,
              "mlp_bias": false
            }

            """
    }

    private struct Part {
        let name: String
        let shape: [Int]
        /// Standard deviation; nil for all ones.
        let deviation: Double?
    }

    private var parts: [Part] {
        let shape = configuration
        let (hidden, inner) = (shape.hiddenSize, shape.intermediateSize)
        let queries = shape.heads * shape.headDimension
        let keys = shape.keyValueHeads * shape.headDimension
        // Keeps the size of what goes in.
        func even(_ inputs: Int) -> Double { 1 / Double(inputs).squareRoot() }
        var parts = [
            Part(name: "model.embed_tokens.weight", shape: [shape.vocabularySize, hidden], deviation: 1),
            Part(name: "model.norm.weight", shape: [hidden], deviation: nil),
        ]
        if !shape.tiesEmbeddings {
            parts.append(
                Part(name: "lm_head.weight", shape: [shape.vocabularySize, hidden], deviation: 2 * even(hidden)))
        }
        for layer in 0..<shape.layers {
            let name = "model.layers.\(layer)"
            parts += [
                Part(name: "\(name).input_layernorm.weight", shape: [hidden], deviation: nil),
                Part(name: "\(name).post_attention_layernorm.weight", shape: [hidden], deviation: nil),
                // Scores with a deviation of about 5: a few tokens matter much more than all others.
                Part(name: "\(name).self_attn.q_proj.weight", shape: [queries, hidden], deviation: 5 * even(hidden)),
                Part(name: "\(name).self_attn.k_proj.weight", shape: [keys, hidden], deviation: even(hidden)),
                Part(name: "\(name).self_attn.v_proj.weight", shape: [keys, hidden], deviation: 2 * even(hidden)),
                Part(name: "\(name).self_attn.o_proj.weight", shape: [hidden, queries], deviation: 2 * even(queries)),
                Part(name: "\(name).mlp.gate_proj.weight", shape: [inner, hidden], deviation: even(hidden)),
                Part(name: "\(name).mlp.up_proj.weight", shape: [inner, hidden], deviation: even(hidden)),
                Part(name: "\(name).mlp.down_proj.weight", shape: [hidden, inner], deviation: even(inner)),
            ]
        }
        return parts
    }

    private func weights() -> Data {
        let parts = parts
        var header: [String] = [#""__metadata__":{"format":"pt"}"#]
        var offset = 0
        for part in parts {
            let end = offset + 2 * part.shape.reduce(1, *)
            header.append(
                #""\#(part.name)":{"dtype":"BF16","shape":\#(part.shape),"data_offsets":[\#(offset),\#(end)]}"#)
            offset = end
        }
        var text = "{" + header.joined(separator: ",") + "}"
        text += String(repeating: " ", count: (8 - text.utf8.count % 8) % 8)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(8 + text.utf8.count + offset)
        let length = UInt64(text.utf8.count)
        for shift in stride(from: 0, to: 64, by: 8) { bytes.append(UInt8(truncatingIfNeeded: length >> shift)) }
        bytes += text.utf8
        var random = WeightNumbers(state: seed)
        for part in parts {
            for _ in 0..<part.shape.reduce(1, *) {
                let value = part.deviation.map { Float($0) * random.next() } ?? 1
                let word = UInt16((value.bitPattern + 0x7FFF + (value.bitPattern >> 16 & 1)) >> 16)
                bytes.append(UInt8(truncatingIfNeeded: word))
                bytes.append(UInt8(word >> 8))
            }
        }
        return Data(bytes)
    }
}

extension ModelConfiguration.RopeScaling {
    /// As `config.json` has it.
    fileprivate var text: String {
        switch self {
        case .none: return "null"
        case .linear(let factor): return #"{"rope_type": "linear", "factor": \#(factor)}"#
        case .llama3(let factor, let low, let high, let original):
            return #"{"rope_type": "llama3", "factor": \#(factor), "low_freq_factor": \#(low), "#
                + #""high_freq_factor": \#(high), "original_max_position_embeddings": \#(original)}"#
        }
    }
}

/// About normal numbers: the sum of four 16-bit parts of a SplitMix64 number, whole arithmetic, the same everywhere.
private struct WeightNumbers {
    var state: UInt64

    mutating func next() -> Float {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        mixed ^= mixed >> 31
        let sum = (mixed & 0xFFFF) + (mixed >> 16 & 0xFFFF) + (mixed >> 32 & 0xFFFF) + mixed >> 48
        // Four even numbers of deviation 65536 / sqrt(12) each.
        return (Float(sum) - 131_070) / 37_837.2
    }
}
