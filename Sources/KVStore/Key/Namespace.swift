/// An identity that a store has opened: the handle with which prefixes are named.
///
/// Cheap to copy. Valid for the store that made it.
public struct Namespace: Sendable {
    /// The complete identity of the model instance and tenant.
    public let identity: NamespaceIdentity
    /// SHA-256 over the identity; the parent of every first block.
    public let fingerprint: BlockKey
    /// Bytes of one block.
    public let blockByteCount: Int
    let hasher: PrefixHasher
    package let index: UInt16

    /// - Parameter fingerprint: of the identity with the salt that only the daemon knows; nil when the identity is whole.
    package init(identity: NamespaceIdentity, fingerprint: BlockKey? = nil, index: UInt16) {
        self.identity = identity
        let fingerprint = fingerprint ?? identity.fingerprint
        self.fingerprint = fingerprint
        self.blockByteCount = identity.blockByteCount
        self.hasher = PrefixHasher(fingerprint: fingerprint, tokensPerBlock: identity.tokensPerBlock)
        self.index = index
    }

    /// The prefix of a prompt: one key per full block of `tokens`.
    ///
    /// - Parameter extra: bytes mixed into single blocks by their number, for what token ids do not say (the content
    ///   hash of an image, say).
    /// - Complexity: one SHA-256 per block.
    public func prefix(tokens: [UInt32], extra: [Int: [UInt8]] = [:]) -> Prefix {
        Prefix(namespace: self, keys: hasher.keys(tokens: tokens, extra: extra), tokenCount: tokens.count)
    }

    /// A prefix from keys that the caller made (1 to 255 bytes each), in order from the head.
    ///
    /// Such keys are not chained: equal keys must mean equal whole prefixes already. A block's parent is the key before
    /// it in the call that stored it.
    ///
    /// - Parameter tokenCount: tokens of the whole prompt, for statistics; full blocks when nil.
    public func prefix(callerKeys: [[UInt8]], tokenCount: Int? = nil) -> Prefix {
        Prefix(
            namespace: self,
            keys: callerKeys.map { hasher.key(callerKey: $0) },
            tokenCount: tokenCount ?? callerKeys.count * identity.tokensPerBlock
        )
    }
}

/// The blocks of a prompt from its beginning, as keys: what every operation of the store takes.
public struct Prefix: Sendable {
    /// Where the keys belong.
    public let namespace: Namespace
    /// Keys from the head on.
    public let keys: [BlockKey]
    /// Tokens of the prompt; more than the blocks hold when the last block is not full.
    public let tokenCount: Int

    package init(namespace: Namespace, keys: [BlockKey], tokenCount: Int) {
        self.namespace = namespace
        self.keys = keys
        self.tokenCount = tokenCount
    }

    /// The first `count` blocks of this prefix.
    public func first(_ count: Int) -> Prefix {
        guard count < keys.count else { return self }
        return Prefix(
            namespace: namespace,
            keys: Array(keys.prefix(count)),
            tokenCount: min(tokenCount, count * namespace.identity.tokensPerBlock)
        )
    }

    /// Tokens in the blocks before number `block`.
    func tokens(before block: Int) -> Int { min(tokenCount, block * namespace.identity.tokensPerBlock) }
}
