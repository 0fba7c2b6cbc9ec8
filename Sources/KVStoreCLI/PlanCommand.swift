import ArgumentParser

/// `kvstore plan`: arithmetic only, opens nothing.
struct PlanCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan",
        abstract: "Calculate KV cache sizes: bytes per token, block and request, and what fits each tier.",
        discussion: """
            bytes per token = layers × KV heads × (K dim + V dim) × bytes per element

            Take a preset with --model (see --list), or give --layers, --kv-heads and --head-dim from the model's \
            config.json (num_hidden_layers, num_key_value_heads, head_dim). Options override the preset.

            Examples:
              kvstore plan --model Llama-3-8B --memory 16GiB --disk 500GiB
              kvstore plan --model Llama-2-13B --batch 8 --tokens 4096
              kvstore plan --layers 48 --kv-heads 8 --head-dim 128 --dtype fp8
            """
    )

    @Option(help: "Preset of a published model; --list shows them.")
    var model: String?
    @Flag(help: "List the presets and their bytes per token.")
    var list = false
    @Option(help: "Layers of the model.")
    var layers: Int?
    @Option(name: .customLong("kv-heads"), help: "KV heads per layer (with GQA fewer than query heads).")
    var keyValueHeads: Int?
    @Option(name: .customLong("head-dim"), help: "Elements per head of K.")
    var headDimension: Int?
    @Option(
        name: .customLong("value-head-dim"),
        help: "Elements per head of V; 0 when only one vector is kept, as in MLA. (default: as --head-dim)"
    )
    var valueHeadDimension: Int?
    @Option(name: .customLong("dtype"), help: "Element type of the cache.")
    var elementType = PlanElementType.bf16
    @Option(help: "Tokens of one request.")
    var tokens = 4096
    @Option(help: "Requests at the same time.")
    var batch = 1
    @Option(help: "Tokens per block.")
    var blockTokens = 16
    @Option(help: "Capacity of the memory tier, for example 64GiB.", transform: ByteSize.init(parsing:))
    var memory: ByteSize?
    @Option(help: "Capacity of the disk tier, for example 1TiB.", transform: ByteSize.init(parsing:))
    var disk: ByteSize?
    @Flag(help: "Print one JSON object instead of the table.")
    var json = false

    func validate() throws {
        if !list { _ = try plan() }
    }

    func run() throws {
        if list {
            Terminal.print(json ? try JSONText.encode(Self.presetRows()) : Self.presetTable())
        } else {
            let plan = try plan()
            Terminal.print(json ? try JSONText.encode(plan) : plan.table)
        }
    }

    /// The plan for these options; errors name the option to change.
    func plan() throws(ValidationError) -> KVSizePlan {
        let preset = try preset()
        guard let layers = layers ?? preset?.layers, let heads = keyValueHeads ?? preset?.keyValueHeads,
            let dimension = headDimension ?? preset?.headDimension
        else {
            throw ValidationError(
                "give --model NAME (kvstore plan --list shows the names), or all of --layers, --kv-heads and --head-dim"
            )
        }
        let valueDimension = valueHeadDimension ?? (headDimension == nil ? preset?.valueHeadDimension : nil)
        return try KVSizePlan(
            model: preset?.name,
            shape: KVShape(
                layers: layers,
                keyValueHeads: heads,
                headDimension: dimension,
                valueHeadDimension: valueDimension ?? dimension,
                elementType: elementType
            ),
            tokens: tokens,
            batch: batch,
            blockTokens: blockTokens,
            memoryByteCount: memory?.byteCount,
            diskByteCount: disk?.byteCount
        )
    }

    private func preset() throws(ValidationError) -> ModelPreset? {
        guard let model else { return nil }
        guard let preset = ModelPreset.named(model) else {
            let names = ModelPreset.all.map(\.name).joined(separator: ", ")
            throw ValidationError(
                "no preset named '\(model)'; there are \(names). For another model give --layers, --kv-heads, --head-dim"
            )
        }
        return preset
    }

    /// One preset with its 16-bit bytes per token, for `--list --json`.
    struct PresetRow: Codable {
        var model: String
        var layers: Int
        var keyValueHeads: Int
        var headDimension: Int
        var valueHeadDimension: Int
        var bytesPerToken: Int
        var note: String
    }

    static func presetRows() -> [PresetRow] {
        ModelPreset.all.map { preset in
            let shape = KVShape(
                layers: preset.layers,
                keyValueHeads: preset.keyValueHeads,
                headDimension: preset.headDimension,
                valueHeadDimension: preset.valueHeadDimension,
                elementType: .bf16
            )
            return PresetRow(
                model: preset.name,
                layers: preset.layers,
                keyValueHeads: preset.keyValueHeads,
                headDimension: preset.headDimension,
                valueHeadDimension: preset.valueHeadDimension,
                bytesPerToken: shape.bytesPerToken,
                note: preset.note
            )
        }
    }

    static func presetTable() -> String {
        var table = TextTable(
            header: ["model", "layers", "KV heads", "head dim", "bytes/token, 16-bit", "attention"],
            leftColumns: [5]
        )
        for row in presetRows() {
            table.add(
                row.model,
                "\(row.layers)",
                "\(row.keyValueHeads)",
                "\(row.headDimension)",
                grouped(row.bytesPerToken),
                row.note
            )
        }
        return table.text
    }
}
