internal import KVStore

/// Puts other bytes under the keys of a prompt: the negative control. Nothing in a cache can tell them from right ones,
/// because this *is* how blocks are stored; who compares results has to notice.
struct BlockForgery {
    private let cache: any BlockCache
    private let prefix: Prefix

    init(_ cache: any BlockCache, _ prefix: Prefix) {
        self.cache = cache
        self.prefix = prefix
    }

    /// Reads the stored blocks, removes them, and stores what `change` made of them.
    ///
    /// - Returns: how many blocks were stored.
    @discardableResult
    func replace(_ change: (inout [[UInt8]]) -> Void) -> Int {
        guard let blocks = copies() else { return 0 }
        var changed = blocks
        change(&changed)
        cache.remove(prefix)
        return cache.store(prefix.first(changed.count)) { number, slot in
            for (offset, byte) in changed[number].enumerated() {
                slot.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
            }
        }
    }

    // The lease ends with the call: a block is not removed from under it.
    private func copies() -> [[UInt8]]? {
        guard let lease = cache.acquire(prefix) else { return nil }
        return (0..<lease.count).map { number in
            lease.withBytes(at: number) { bytes in (0..<bytes.byteCount).map { bytes.byte(at: $0) } }
        }
    }
}
