/// The shape of a block as its frame header states it.
package struct FrameGeometry: Hashable, Sendable {
    /// How the axes of a block are ordered.
    package enum Layout: UInt8, Sendable {
        /// `[layer][K|V][token][head][dimension]`.
        case layerKindTokenHeadDimension = 0
        /// Known to the engine only.
        case opaque = 255
    }

    package var elementType: ElementType
    package var tokens: UInt16
    package var layers: UInt16
    package var keyHeads: UInt16
    package var headDimension: UInt16
    /// 0 when it is `headDimension`, or when there are no values.
    package var valueHeadDimension: UInt16
    /// 2 for keys and values, 1 for keys only (MLA's latent).
    package var tensors: UInt8
    package var layout: Layout
    /// Whether lossy codecs may be used for the block, and, in a header that was read, whether they were.
    package var storage: NamespaceIdentity.Storage

    package init(
        elementType: ElementType,
        tokens: UInt16,
        layers: UInt16,
        keyHeads: UInt16,
        headDimension: UInt16,
        valueHeadDimension: UInt16 = 0,
        tensors: UInt8 = 2,
        layout: Layout = .layerKindTokenHeadDimension,
        storage: NamespaceIdentity.Storage = .lossless
    ) {
        self.elementType = elementType
        self.tokens = tokens
        self.layers = layers
        self.keyHeads = keyHeads
        self.headDimension = headDimension
        self.valueHeadDimension = valueHeadDimension
        self.tensors = tensors
        self.layout = layout
        self.storage = storage
    }

    /// The shape of a namespace's blocks. A layout that a frame header cannot state is stored as opaque.
    ///
    /// - Precondition: `identity.validate()` succeeds.
    package init(_ identity: NamespaceIdentity) {
        let hasValues = identity.valueHeads > 0 && identity.valueHeadDimension > 0
        let sameHeads = !hasValues || identity.valueHeads == identity.keyHeads
        let isPlain = identity.opaqueBlockByteCount == nil && identity.layoutTag == NamespaceIdentity.defaultLayoutTag
        let sameDimension = !hasValues || identity.valueHeadDimension == identity.keyHeadDimension
        self.init(
            elementType: identity.elementType,
            tokens: UInt16(identity.tokensPerBlock),
            layers: UInt16(identity.layers),
            keyHeads: UInt16(identity.keyHeads),
            headDimension: UInt16(identity.keyHeadDimension),
            valueHeadDimension: sameDimension ? 0 : UInt16(identity.valueHeadDimension),
            tensors: hasValues ? 2 : 1,
            layout: isPlain && sameHeads ? .layerKindTokenHeadDimension : .opaque,
            storage: identity.storage
        )
    }

    /// The raw bytes of a block of this shape; nil when the layout is opaque, so that the shape does not tell.
    package var rawByteCount: Int? {
        guard layout == .layerKindTokenHeadDimension else { return nil }
        // A slab has at most 2^50 bytes, but a header from disk can claim more layers of them than an Int counts.
        let (byteCount, overflow) = Int(layers).multipliedReportingOverflow(by: keySlabByteCount + valueSlabByteCount)
        return overflow ? Int.max : byteCount
    }

    var keyRowByteCount: Int { Int(keyHeads) * Int(headDimension) * elementType.byteCount }

    var valueRowByteCount: Int {
        guard tensors == 2 else { return 0 }
        let dimension = valueHeadDimension == 0 ? headDimension : valueHeadDimension
        return Int(keyHeads) * Int(dimension) * elementType.byteCount
    }

    /// The bytes of one layer's keys.
    var keySlabByteCount: Int { keyRowByteCount * Int(tokens) }

    /// The bytes of one layer's values.
    var valueSlabByteCount: Int { valueRowByteCount * Int(tokens) }
}
