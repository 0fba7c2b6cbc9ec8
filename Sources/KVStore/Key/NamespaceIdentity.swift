/// Everything that decides whether two KV blocks of the same tokens are interchangeable: the model and its revision, the
/// element type and layout, the place in a parallel group, the adapter, the tenant and the tenant's secret salt.
///
/// Two engines share blocks when, and only when, all of it is equal. Blocks of different namespaces never meet, because
/// every block key starts from the ``fingerprint``.
///
/// ```swift
/// var identity = NamespaceIdentity(
///     model: "meta-llama/Llama-3.1-8B", layers: 32, keyHeads: 8, keyHeadDimension: 128, tokensPerBlock: 16
/// )
/// identity.salt = secretOfThisTenant
/// identity.additional["weights"] = "sha256:51f2…"
/// ```
///
/// The salt is never printed: not by `print`, not by `dump`, not in an error.
public struct NamespaceIdentity: Sendable {
    /// A further identity field, with its type: the integer 1 and the string "1" are different.
    public enum Field: Hashable, Sendable {
        /// Text, compared byte for byte.
        case string(String)
        /// A whole number.
        case integer(Int64)
        /// True or false.
        case boolean(Bool)
        /// Any bytes, such as a digest.
        case bytes([UInt8])
    }

    /// Whether the disk tier may store something else than what it was given.
    public enum Storage: Hashable, Sendable, CaseIterable {
        /// Blocks come back bit for bit.
        case lossless
        /// Blocks may come back from disk quantised to 8 bits and back: relative error about 0.6 %, a bit over half the
        /// disk space. Until they are evicted from memory they are as they were. See `CodecChoice.int8`.
        case int8
    }

    /// The model's name, as the engine knows it.
    public var model: String
    /// The model's revision: a commit, a tag, or empty.
    public var revision: String
    /// How one number is stored.
    public var elementType: ElementType
    /// The layers whose KV is in a block.
    public var layers: Int
    /// The key heads of one layer on this rank.
    public var keyHeads: Int
    /// The value heads of one layer on this rank.
    public var valueHeads: Int
    /// The numbers in one key of one head.
    public var keyHeadDimension: Int
    /// The numbers in one value of one head; 0 when only keys are stored, as with MLA.
    public var valueHeadDimension: Int
    /// The tokens in one block.
    public var tokensPerBlock: Int
    /// This engine's rank in its tensor-parallel group.
    public var tensorParallelRank: Int
    /// The size of the tensor-parallel group.
    public var tensorParallelSize: Int
    /// This engine's rank in its pipeline-parallel group.
    public var pipelineParallelRank: Int
    /// The size of the pipeline-parallel group.
    public var pipelineParallelSize: Int
    /// The order of a block's axes, outermost first: Layer, K or V, Token, Head, Dimension.
    public var layoutTag: String
    /// The adapter (LoRA) in use, or empty.
    public var adapter: String
    /// The tenant, or empty.
    public var tenant: String
    /// The tenant's secret. Without it nobody can make this tenant's keys, so nobody can find out what is cached.
    public var salt: [UInt8]
    /// Whatever else changes the numbers: weights digest, KV scales, RoPE settings, instruction set.
    public var additional: [String: Field]
    /// The bytes of one block when only the engine knows its layout (vLLM's packed pages); nil when the shape tells.
    public var opaqueBlockByteCount: Int?
    /// Whether the disk tier may lose precision. Only for bf16 and fp16 in the default layout.
    public var storage: Storage

    /// An identity whose block size follows from its shape.
    ///
    /// `valueHeads` and `valueHeadDimension` are those of the keys unless given.
    public init(
        model: String,
        revision: String = "",
        elementType: ElementType = .bf16,
        layers: Int,
        keyHeads: Int,
        valueHeads: Int? = nil,
        keyHeadDimension: Int,
        valueHeadDimension: Int? = nil,
        tokensPerBlock: Int,
        tensorParallelRank: Int = 0,
        tensorParallelSize: Int = 1,
        pipelineParallelRank: Int = 0,
        pipelineParallelSize: Int = 1,
        layoutTag: String = Self.defaultLayoutTag,
        adapter: String = "",
        tenant: String = "",
        salt: [UInt8] = [],
        additional: [String: Field] = [:],
        opaqueBlockByteCount: Int? = nil,
        storage: Storage = .lossless
    ) {
        self.model = model
        self.revision = revision
        self.elementType = elementType
        self.layers = layers
        self.keyHeads = keyHeads
        self.valueHeads = valueHeads ?? keyHeads
        self.keyHeadDimension = keyHeadDimension
        self.valueHeadDimension = valueHeadDimension ?? keyHeadDimension
        self.tokensPerBlock = tokensPerBlock
        self.tensorParallelRank = tensorParallelRank
        self.tensorParallelSize = tensorParallelSize
        self.pipelineParallelRank = pipelineParallelRank
        self.pipelineParallelSize = pipelineParallelSize
        self.layoutTag = layoutTag
        self.adapter = adapter
        self.tenant = tenant
        self.salt = salt
        self.additional = additional
        self.opaqueBlockByteCount = opaqueBlockByteCount
        self.storage = storage
    }

    /// An identity of blocks whose inner layout only the engine knows.
    public init(
        model: String,
        revision: String = "",
        elementType: ElementType = .opaque,
        opaqueBlockByteCount: Int,
        tokensPerBlock: Int
    ) {
        self.init(
            model: model,
            revision: revision,
            elementType: elementType,
            layers: 0,
            keyHeads: 0,
            keyHeadDimension: 0,
            tokensPerBlock: tokensPerBlock,
            opaqueBlockByteCount: opaqueBlockByteCount
        )
    }

    /// The axes' order of `[layer][K|V][token][head][dimension]`.
    public static let defaultLayoutTag = "LKTHD"

    /// The raw bytes of one block. A shape too large for an `Int` gives `Int.max`, which ``validate()`` refuses.
    public var blockByteCount: Int {
        if let opaqueBlockByteCount { return opaqueBlockByteCount }
        let keys = Self.product(keyHeads, keyHeadDimension)
        let values = Self.product(valueHeads, valueHeadDimension)
        let (perTokenAndLayer, overflow) = keys.addingReportingOverflow(values)
        if overflow { return Int.max }
        return Self.product(layers, perTokenAndLayer, tokensPerBlock, elementType.byteCount)
    }

    private static func product(_ factors: Int...) -> Int {
        if factors.contains(where: { $0 <= 0 }) { return 0 }
        var result = 1
        for factor in factors {
            let (partial, overflow) = result.multipliedReportingOverflow(by: factor)
            if overflow { return Int.max }
            result = partial
        }
        return result
    }
}

extension NamespaceIdentity: Hashable {
    // Equality is equality of fingerprints: Swift compares strings by what they look like, but a model name spelled
    // with other bytes makes other keys.

    /// Whether every field of both is the same, byte for byte.
    public static func == (left: Self, right: Self) -> Bool {
        left.canonicalEncoding == right.canonicalEncoding
    }

    /// Hashes every field.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(canonicalEncoding)
    }
}

extension NamespaceIdentity: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    /// One line for people. The salt is not in it.
    public var description: String {
        let fields = visibleFields.map { "\($0.label): \($0.value)" }
        return "NamespaceIdentity(\(fields.joined(separator: ", ")))"
    }

    /// The same as ``description``.
    public var debugDescription: String { description }

    /// What `dump` and debuggers see. The salt is not in it.
    public var customMirror: Mirror {
        Mirror(self, children: visibleFields.map { (label: $0.label, value: $0.value) }, displayStyle: .struct)
    }

    private var visibleFields: [(label: String, value: String)] {
        var fields = [
            ("model", model), ("revision", revision), ("elementType", "\(elementType)"), ("layers", "\(layers)"),
            ("keyHeads", "\(keyHeads)"), ("valueHeads", "\(valueHeads)"), ("keyHeadDimension", "\(keyHeadDimension)"),
            ("valueHeadDimension", "\(valueHeadDimension)"), ("tokensPerBlock", "\(tokensPerBlock)"),
            ("tensorParallel", "\(tensorParallelRank)/\(tensorParallelSize)"),
            ("pipelineParallel", "\(pipelineParallelRank)/\(pipelineParallelSize)"), ("layoutTag", layoutTag),
            ("adapter", adapter), ("tenant", tenant), ("salt", salt.isEmpty ? "none" : "hidden"),
        ]
        if !additional.isEmpty {
            let pairs = additional.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
            fields.append(("additional", pairs.joined(separator: " ")))
        }
        if let opaqueBlockByteCount { fields.append(("opaqueBlockByteCount", "\(opaqueBlockByteCount)")) }
        if storage != .lossless { fields.append(("storage", "\(storage)")) }
        return fields.map { (label: $0.0, value: $0.1) }
    }
}

extension NamespaceIdentity.Field: CustomStringConvertible {
    /// The value; of bytes only how many.
    public var description: String {
        switch self {
        case .string(let text): text
        case .integer(let number): "\(number)"
        case .boolean(let flag): "\(flag)"
        case .bytes(let bytes): "(\(bytes.count) bytes)"
        }
    }
}

extension NamespaceIdentity.Field: ExpressibleByStringLiteral {
    /// A string field.
    public init(stringLiteral value: String) { self = .string(value) }
}

extension NamespaceIdentity.Field: ExpressibleByIntegerLiteral {
    /// An integer field.
    public init(integerLiteral value: Int64) { self = .integer(value) }
}

extension NamespaceIdentity.Field: ExpressibleByBooleanLiteral {
    /// A boolean field.
    public init(booleanLiteral value: Bool) { self = .boolean(value) }
}
