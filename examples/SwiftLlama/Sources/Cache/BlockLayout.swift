/// Where things lie in a block: [layer][K|V][token][KV head][dimension] of bf16, the store's default layout.
struct BlockLayout: Sendable, Hashable {
    let layers: Int
    /// Tokens in a block.
    let tokens: Int
    let keyValueHeads: Int
    let dimension: Int

    init(_ configuration: ModelConfiguration, tokensPerBlock: Int) {
        layers = configuration.layers
        tokens = tokensPerBlock
        keyValueHeads = configuration.keyValueHeads
        dimension = configuration.headDimension
    }

    /// Numbers from one token's vector of a head to the next token's.
    var tokenStride: Int { keyValueHeads * dimension }
    /// Bytes of a block.
    var byteCount: Int { layers * 2 * tokens * tokenStride * 2 }

    /// Offset in bytes of a head's first key.
    func keys(layer: Int, head: Int) -> Int { (layer * 2 * tokens * tokenStride + head * dimension) * 2 }

    /// Offset in bytes of a head's first value.
    func values(layer: Int, head: Int) -> Int {
        ((layer * 2 + 1) * tokens * tokenStride + head * dimension) * 2
    }
}
