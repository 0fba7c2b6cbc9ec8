internal import KVStore

extension NamespaceObject {
    /// The prefix that a caller names, with everything checked that the library takes for granted.
    func prefix(_ pointer: UnsafePointer<kvstore_prefix>?) throws(CallError) -> Prefix {
        var given = unsafe kvstore_prefix()
        unsafe try record(pointer, into: &given, leastByteCount: 64, "prefix")
        let (hasTokens, hasKeys) = unsafe (given.tokens != nil, given.keys != nil)
        guard !(hasTokens && hasKeys) else { throw .invalidArgument("prefix has both tokens and keys") }
        guard unsafe hasTokens || hasKeys || (given.token_count == 0 && given.key_count == 0) else {
            throw .invalidArgument("prefix.tokens and prefix.keys are null")
        }
        return hasKeys ? unsafe try prefix(ofKeys: given) : unsafe try prefix(ofTokens: given)
    }

    private func prefix(ofTokens given: kvstore_prefix) throws(CallError) -> Prefix {
        guard unsafe given.key_count == 0 else { throw .invalidArgument("prefix.key_count is given without keys") }
        let tokens = unsafe try array(
            given.tokens,
            count: given.token_count,
            limit: Int(KVSTORE_MAX_TOKENS),
            "prefix.tokens"
        )
        let blockCount = tokens.count / namespace.identity.tokensPerBlock
        try checkBlocks(blockCount)
        let extras = unsafe try array(
            given.extras,
            count: given.extra_count,
            limit: Int(KVSTORE_MAX_BLOCKS),
            "prefix.extras"
        )
        var extra: [Int: [UInt8]] = [:]
        for index in unsafe extras.indices {
            let entry = unsafe extras[index]
            guard let block = unsafe Int(exactly: entry.block), block < blockCount else {
                throw .invalidArgument("prefix.extras names a block that the prefix does not have")
            }
            let bytes = unsafe try InBytes(
                entry.bytes,
                count: entry.byte_count,
                limit: Int(KVSTORE_MAX_EXTRA_BYTES),
                "extras.bytes"
            )
            guard extra.updateValue(bytes.array, forKey: block) == nil else {
                throw .invalidArgument("prefix.extras names a block twice")
            }
        }
        return namespace.prefix(tokens: tokens, extra: extra)
    }

    private func prefix(ofKeys given: kvstore_prefix) throws(CallError) -> Prefix {
        guard unsafe given.extra_count == 0 else { throw .invalidArgument("prefix.extras only goes with tokens") }
        guard unsafe (0...Int(KVSTORE_MAX_TOKENS)).contains(given.token_count) else {
            throw .invalidArgument("prefix.token_count is above \(KVSTORE_MAX_TOKENS)")
        }
        let count = unsafe given.key_count
        guard count >= 0 else { throw .invalidArgument("prefix.key_count is out of range") }
        try checkBlocks(count)
        let sizes: [UInt32] =
            if unsafe given.key_sizes == nil {
                unsafe Array(repeating: given.key_size, count: count)
            } else {
                unsafe try array(given.key_sizes, count: count, limit: count, "prefix.key_sizes")
            }
        guard sizes.allSatisfy({ (1...UInt32(KVSTORE_MAX_KEY_BYTES)).contains($0) }) else {
            throw .invalidArgument("a key must have 1 to \(KVSTORE_MAX_KEY_BYTES) bytes")
        }
        let total = sizes.reduce(0) { $0 + Int($1) }
        let bytes = unsafe try InBytes(given.keys, count: total, limit: total, "prefix.keys")
        var keys: [[UInt8]] = []
        keys.reserveCapacity(count)
        var start = 0
        for size in sizes {
            keys.append(bytes.array(start..<start + Int(size)))
            start += Int(size)
        }
        let tokenCount = unsafe given.token_count
        return namespace.prefix(callerKeys: keys, tokenCount: tokenCount == 0 ? nil : tokenCount)
    }

    private func checkBlocks(_ count: Int) throws(CallError) {
        guard count <= Int(KVSTORE_MAX_BLOCKS) else {
            throw .invalidArgument("the prefix has \(count) blocks; at most \(KVSTORE_MAX_BLOCKS) are allowed")
        }
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_lookup(
    _ name_space: kvstore_namespace,
    _ prefix: UnsafePointer<kvstore_prefix>?,
    _ out_match: UnsafeMutablePointer<kvstore_match>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        let out = unsafe try OutRecord(out_match, leastByteCount: 32, "out_match")
        let object = try NamespaceObject.find(name_space)
        let prefix = unsafe try object.prefix(prefix)
        let found = object.store.cache.match(prefix)
        var match = kvstore_match()
        match.is_warming = found.isWarming ? 1 : 0
        match.block_count = UInt64(found.count)
        match.disk_block_count = UInt64(found.tiers.count { $0 == .disk })
        match.prefix_block_count = UInt64(prefix.keys.count)
        out.set(match)
        return found.count > 0 ? KVSTORE_OK : KVSTORE_MISS
    }
}
