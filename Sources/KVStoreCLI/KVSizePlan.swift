import ArgumentParser

/// The element types a KV cache is kept in.
enum PlanElementType: String, CaseIterable, Codable, Sendable, ExpressibleByArgument {
    case bf16, fp16, fp32, fp8, fp8e4m3, fp8e5m2, int8

    var byteCount: Int {
        switch self {
        case .fp32: 4
        case .bf16, .fp16: 2
        case .fp8, .fp8e4m3, .fp8e5m2, .int8: 1
        }
    }
}

/// The shape that decides how many bytes of KV cache one token needs.
struct KVShape: Hashable, Codable, Sendable {
    var layers: Int
    var keyValueHeads: Int
    var headDimension: Int
    var valueHeadDimension: Int
    var elementType: PlanElementType

    /// layers × heads × (key dimension + value dimension) × bytes per element.
    var bytesPerToken: Int {
        layers * keyValueHeads * (headDimension + valueHeadDimension) * elementType.byteCount
    }

    /// The bounds keep `bytesPerToken` below 2^63.
    func validate() throws(ValidationError) {
        let fields = [
            ("--layers", layers, 1), ("--kv-heads", keyValueHeads, 1), ("--head-dim", headDimension, 1),
            ("--value-head-dim", valueHeadDimension, 0),
        ]
        for (name, value, lowest) in fields where value < lowest || value > 65_535 {
            throw ValidationError("\(name) is \(value); it must be \(lowest)...65535")
        }
    }
}

/// What one model needs, and what fits where.
struct KVSizePlan: Codable, Sendable {
    struct Tier: Codable, Hashable, Sendable {
        var capacityBytes: Int
        var blocks: Int
        var tokens: Int
        /// Requests of the planned length that fit whole.
        var requests: Int

        init(capacityBytes: Int, bytesPerBlock: Int, blockTokens: Int, blocksPerRequest: Int) {
            self.capacityBytes = capacityBytes
            blocks = capacityBytes / bytesPerBlock
            tokens = blocks * blockTokens
            requests = blocks / blocksPerRequest
        }
    }

    var model: String?
    var shape: KVShape
    var tokens: Int
    var batch: Int
    var blockTokens: Int
    var bytesPerToken: Int
    var bytesPerBlock: Int
    var blocksPerRequest: Int
    var bytesPerRequest: Int
    /// Exact bytes of all requests, without the unused end of each last block.
    var bytesPerBatch: Int
    var memory: Tier?
    var disk: Tier?

    init(
        model: String?,
        shape: KVShape,
        tokens: Int,
        batch: Int,
        blockTokens: Int,
        memoryByteCount: Int?,
        diskByteCount: Int?
    ) throws(ValidationError) {
        try shape.validate()
        for (name, value, highest) in [
            ("--tokens", tokens, 1 << 30), ("--batch", batch, 1 << 20), ("--block-tokens", blockTokens, 65_535),
        ] where value < 1 || value > highest {
            throw ValidationError("\(name) is \(value); it must be 1...\(highest)")
        }
        // tokens × batch is at most 2^50, so only the products with the bytes of a token can overflow.
        let (allBytes, overflow) = shape.bytesPerToken.multipliedReportingOverflow(by: tokens * batch)
        let (blockBytes, blockOverflow) = shape.bytesPerToken.multipliedReportingOverflow(by: blockTokens)
        guard !overflow, !blockOverflow else {
            throw ValidationError("\(tokens) tokens × batch \(batch) is more KV cache than can be counted")
        }
        self.model = model
        self.shape = shape
        self.tokens = tokens
        self.batch = batch
        self.blockTokens = blockTokens
        bytesPerToken = shape.bytesPerToken
        bytesPerBlock = blockBytes
        blocksPerRequest = (tokens + blockTokens - 1) / blockTokens
        bytesPerRequest = bytesPerToken * tokens
        bytesPerBatch = allBytes
        let (perBlock, perRequest) = (bytesPerBlock, blocksPerRequest)
        func tier(_ capacityBytes: Int) -> Tier {
            Tier(
                capacityBytes: capacityBytes,
                bytesPerBlock: perBlock,
                blockTokens: blockTokens,
                blocksPerRequest: perRequest
            )
        }
        memory = memoryByteCount.map(tier)
        disk = diskByteCount.map(tier)
    }

    /// The plan for people.
    var table: String {
        var sizes = TextTable()
        func add(_ name: String, _ bytes: Int) {
            sizes.add(name, String(describing: ByteSize(bytes)), "\(grouped(bytes)) bytes")
        }
        add("one token", bytesPerToken)
        add("one block of \(grouped(blockTokens)) tokens", bytesPerBlock)
        add("one request of \(grouped(tokens)) tokens (\(grouped(blocksPerRequest)) blocks)", bytesPerRequest)
        if batch > 1 { add("\(grouped(batch)) such requests", bytesPerBatch) }
        let values = shape.valueHeadDimension == 0 ? "keys only" : "value head dim \(shape.valueHeadDimension)"
        var result =
            "\(model ?? "Model"): \(shape.layers) layers × \(shape.keyValueHeads) KV heads, head dim "
            + "\(shape.headDimension), \(values), \(shape.elementType.rawValue)\n\n\(sizes.text)"
        if memory != nil || disk != nil {
            var tiers = TextTable(header: ["", "capacity", "blocks", "tokens", "whole requests"])
            for case let (name, tier?) in [("memory", memory), ("disk", disk)] {
                tiers.add(
                    name,
                    String(describing: ByteSize(tier.capacityBytes)),
                    grouped(tier.blocks),
                    grouped(tier.tokens),
                    grouped(tier.requests)
                )
            }
            result += "\n\(tiers.text)\nUncompressed KV bytes; the store's own metadata is not counted.\n"
        }
        return result
    }
}
