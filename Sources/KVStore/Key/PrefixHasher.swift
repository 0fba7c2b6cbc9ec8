/// Makes block keys. Every tier, the daemon and the command line use this one type, so equal input means an equal key.
///
/// The key of a token block covers its parent's key, so it covers the whole prefix:
///
///     SHA-256(0x01 ‖ parent ‖ u32 token count ‖ tokens, u32 each ‖ u32 length of extra ‖ extra)
///
/// The parent of the first block is the namespace's fingerprint. Numbers are little-endian. `extra` is whatever else the
/// block's KV depends on, such as the digest of an image and its offset.
///
/// A caller who has keys of its own turns each into a block key, not chained:
///
///     SHA-256(0x02 ‖ fingerprint ‖ u8 length ‖ key)
public struct PrefixHasher: Hashable, Sendable {
    /// The namespace whose keys are made.
    public let fingerprint: BlockKey
    /// The tokens in one block.
    public let tokensPerBlock: Int

    /// Makes keys for the namespace with this fingerprint.
    ///
    /// - Precondition: `tokensPerBlock` is 1...65535.
    public init(fingerprint: BlockKey, tokensPerBlock: Int) {
        precondition((1...65_535).contains(tokensPerBlock), "tokensPerBlock must be 1...65535")
        self.fingerprint = fingerprint
        self.tokensPerBlock = tokensPerBlock
    }

    /// Makes keys for the namespace with this identity.
    public init(_ identity: NamespaceIdentity) {
        self.init(fingerprint: identity.fingerprint, tokensPerBlock: identity.tokensPerBlock)
    }

    /// The keys of all full blocks of a prompt, in order. A last block that is not full has no key.
    ///
    /// - Parameters:
    ///   - tokens: The prompt from its first token on.
    ///   - extra: Further bytes for single blocks, by block index. No entry is the same as an empty one.
    /// - Complexity: One SHA-256 of about `4 * tokensPerBlock` bytes for each block.
    public func keys(tokens: Span<UInt32>, extra: [Int: [UInt8]] = [:]) -> [BlockKey] {
        let blockCount = tokens.count / tokensPerBlock
        let longestExtra = extra.values.reduce(0) { max($0, $1.count) }
        var keys: [BlockKey] = []
        keys.reserveCapacity(blockCount)
        let (tokensPerBlock, fingerprint) = (tokensPerBlock, fingerprint)
        // Safe: the message is as long as its longest block, and neither pointer leaves its closure. One buffer serves
        // every block, so a long prompt costs no allocation of ours but the result.
        unsafe tokens.withUnsafeBufferPointer { tokens in
            unsafe Self.withMessage(tokenCount: tokensPerBlock, longestExtra: longestExtra) { message in
                var parent = fingerprint
                for index in 0..<blockCount {
                    let start = index &* tokensPerBlock
                    let block = unsafe UnsafeBufferPointer(rebasing: tokens[start..<start &+ tokensPerBlock])
                    let bytes = extra.isEmpty ? nil : extra[index]
                    parent = unsafe Self.key(after: parent, block: block, extra: bytes ?? [], message: message)
                    keys.append(parent)
                }
            }
        }
        return keys
    }

    /// The keys of all full blocks of a prompt, in order. A last block that is not full has no key.
    public func keys(tokens: [UInt32], extra: [Int: [UInt8]] = [:]) -> [BlockKey] {
        keys(tokens: tokens.span, extra: extra)
    }

    /// The key of the block that follows `parent`, for a sequence that grows block by block.
    ///
    /// - Precondition: `tokens` is exactly one block.
    public func key(after parent: BlockKey, tokens: Span<UInt32>, extra: [UInt8] = []) -> BlockKey {
        precondition(tokens.count == tokensPerBlock, "a key is made of exactly one full block")
        // Safe: as in `keys`.
        return unsafe tokens.withUnsafeBufferPointer { block in
            unsafe Self.withMessage(tokenCount: block.count, longestExtra: extra.count) { message in
                unsafe Self.key(after: parent, block: block, extra: extra, message: message)
            }
        }
    }

    /// The key of the block that follows `parent`, for a sequence that grows block by block.
    ///
    /// - Precondition: `tokens` is exactly one block.
    public func key(after parent: BlockKey, tokens: [UInt32], extra: [UInt8] = []) -> BlockKey {
        key(after: parent, tokens: tokens.span, extra: extra)
    }

    /// The block key for a key that the caller made.
    ///
    /// - Precondition: `callerKey` has 1...255 bytes.
    public func key(callerKey: [UInt8]) -> BlockKey {
        precondition((1...255).contains(callerKey.count), "a caller's key must have 1...255 bytes")
        var message: [UInt8] = [2]
        message.reserveCapacity(1 + BlockKey.byteCount + 1 + callerKey.count)
        message += fingerprint.bytes
        message.append(UInt8(callerKey.count))
        message += callerKey
        return BlockKey(sha256Of: message)
    }
}

// Pointer code. Callers guarantee that `message` holds `fixedByteCount(tokenCount) + extra.count` bytes.
extension PrefixHasher {
    private static let tokensOffset = 1 + BlockKey.byteCount + 4

    private static func withMessage<R>(
        tokenCount: Int,
        longestExtra: Int,
        _ body: (UnsafeMutableRawBufferPointer) -> R
    ) -> R {
        let byteCount = tokensOffset + 4 * tokenCount + 4 + longestExtra
        // Safe: the bytes are written before they are hashed, and the pointer does not leave `body`.
        return unsafe withUnsafeTemporaryAllocation(byteCount: byteCount, alignment: 16) { unsafe body($0) }
    }

    private static func key(
        after parent: BlockKey,
        block: UnsafeBufferPointer<UInt32>,
        extra: [UInt8],
        message: UnsafeMutableRawBufferPointer
    ) -> BlockKey {
        let extraOffset = tokensOffset &+ 4 &* block.count &+ 4
        let byteCount = extraOffset &+ extra.count
        precondition(byteCount <= message.count, "the message buffer is too short")
        // Safe: every offset below is less than `byteCount`, which was checked against the buffer just above.
        unsafe message.storeBytes(of: 1, toByteOffset: 0, as: UInt8.self)
        unsafe parent.store(into: UnsafeMutableRawBufferPointer(rebasing: message[1...]))
        unsafe message.storeBytes(of: UInt32(block.count).littleEndian, toByteOffset: 33, as: UInt32.self)
        for position in 0..<block.count {
            let token = unsafe block[position].littleEndian
            unsafe message.storeBytes(of: token, toByteOffset: tokensOffset &+ 4 &* position, as: UInt32.self)
        }
        unsafe message.storeBytes(of: UInt32(extra.count).littleEndian, toByteOffset: extraOffset &- 4, as: UInt32.self)
        if !extra.isEmpty {
            unsafe UnsafeMutableRawBufferPointer(rebasing: message[extraOffset...]).copyBytes(from: extra)
        }
        return unsafe BlockKey(sha256Of: UnsafeRawBufferPointer(rebasing: message[..<byteCount]))
    }
}
