/// The published shape of one model's KV cache: the fields of its `config.json` that decide the bytes per token.
struct ModelPreset: Hashable, Sendable {
    var name: String
    var layers: Int
    var keyValueHeads: Int
    var headDimension: Int
    /// 0 for models that keep one latent vector per token and layer (multi-head latent attention).
    var valueHeadDimension: Int
    var note: String

    private init(_ name: String, layers: Int, keyValueHeads: Int, headDimension: Int, _ note: String) {
        self.name = name
        self.layers = layers
        self.keyValueHeads = keyValueHeads
        self.headDimension = headDimension
        self.valueHeadDimension = headDimension
        self.note = note
    }

    private static func latent(_ name: String, layers: Int, latent: Int, rope: Int) -> ModelPreset {
        var preset = ModelPreset(
            name,
            layers: layers,
            keyValueHeads: 1,
            headDimension: latent + rope,
            "MLA: \(latent) latent + \(rope) rope"
        )
        preset.valueHeadDimension = 0
        return preset
    }

    static let all: [ModelPreset] = [
        .init("Llama-2-7B", layers: 32, keyValueHeads: 32, headDimension: 128, "MHA"),
        .init("Llama-2-13B", layers: 40, keyValueHeads: 40, headDimension: 128, "MHA"),
        .init("Llama-2-70B", layers: 80, keyValueHeads: 8, headDimension: 128, "GQA"),
        .init("Llama-3-8B", layers: 32, keyValueHeads: 8, headDimension: 128, "GQA; also 3.1"),
        .init("Llama-3-70B", layers: 80, keyValueHeads: 8, headDimension: 128, "GQA; also 3.1, 3.3"),
        .init("Llama-3.1-405B", layers: 126, keyValueHeads: 8, headDimension: 128, "GQA"),
        .init("Mistral-7B", layers: 32, keyValueHeads: 8, headDimension: 128, "GQA"),
        .init("Qwen2.5-7B", layers: 28, keyValueHeads: 4, headDimension: 128, "GQA"),
        .init("Qwen2.5-72B", layers: 80, keyValueHeads: 8, headDimension: 128, "GQA"),
        .latent("DeepSeek-V3", layers: 61, latent: 512, rope: 64),
        .latent("DeepSeek-R1", layers: 61, latent: 512, rope: 64),
    ]

    /// Finds a preset by name; case does not matter.
    static func named(_ name: String) -> ModelPreset? {
        all.first { $0.name.lowercased() == name.lowercased() }
    }
}
