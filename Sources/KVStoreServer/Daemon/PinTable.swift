internal import KVStore
internal import Synchronization

/// Prefixes that somebody wants to keep in memory for a time: a lease that the daemon itself holds.
///
/// A pin is booked with all slots that it holds, whoever else holds them too.
final class PinTable: Sendable {
    private struct Pin: Sendable {
        var lease: LeaseBox
        var tenant: String
        var byteCount: Int
        var endNanoseconds: UInt64
    }

    private struct State: Sendable {
        /// By the last key that was asked for, which stands for the whole prefix.
        var pins: [BlockKey: Pin] = [:]
        var byteCount = 0
        var byteCountByTenant: [String: Int] = [:]

        mutating func book(_ pin: Pin, by sign: Int) {
            byteCount += sign * pin.byteCount
            byteCountByTenant[pin.tenant, default: 0] += sign * pin.byteCount
        }
    }

    private let state = Mutex(State())
    /// All pins together hold at most this much: half of the memory.
    private let capacityBytes: Int
    private static let longestSeconds = 7 * 86_400

    init(capacityBytes: Int) { self.capacityBytes = capacityBytes }

    /// Bytes of pinned blocks.
    var byteCount: Int { state.withLock { $0.byteCount } }

    /// Keeps the stored blocks of a prefix; a pin of the same prefix is replaced. Returns how many blocks are kept: none
    /// when that would be more than pins, or those of the tenant, may hold.
    func pin(_ prefix: Prefix, seconds: Int, tenant: String, limitBytes: Int, in store: BlockStore) -> Int {
        guard let key = prefix.keys.last, seconds > 0,
            let lease = LeaseBox.acquire(prefix, from: store, memoryOnly: false)
        else { return 0 }
        let end = monotonicNanoseconds() + UInt64(min(seconds, Self.longestSeconds)) * 1_000_000_000
        let bytes = lease.count * roundUp(prefix.namespace.blockByteCount, to: pageByteCount)
        let pin = Pin(lease: lease, tenant: tenant, byteCount: bytes, endNanoseconds: end)
        let (count, ended) = state.withLock { state -> (Int, Pin?) in
            let old = state.pins[key]
            // Keys come from clients: nobody replaces a pin that is not his.
            guard old.map({ $0.tenant == tenant }) ?? true else { return (0, nil) }
            let more = bytes - (old?.byteCount ?? 0)
            let own = state.byteCountByTenant[tenant] ?? 0
            guard state.byteCount + more <= capacityBytes, own + more <= limitBytes else { return (0, nil) }
            if let old { state.book(old, by: -1) }
            state.book(pin, by: 1)
            state.pins[key] = pin
            return (lease.count, old)
        }
        // The old lease ends here, outside of the lock.
        _ = ended
        return count
    }

    /// Ends the tenant's pin of a prefix. Returns how many blocks it kept.
    func unpin(_ prefix: Prefix, tenant: String) -> Int {
        guard let key = prefix.keys.last else { return 0 }
        return end { pinned, pin in pinned == key && pin.tenant == tenant }
    }

    /// Ends what has run out.
    func expire(now: UInt64) { _ = end { _, pin in pin.endNanoseconds <= now } }

    /// Ends every pin of a tenant, or of all.
    func endAll(ofTenant name: String? = nil) { _ = end { _, pin in name == nil || pin.tenant == name } }

    private func end(_ isOver: (BlockKey, Pin) -> Bool) -> Int {
        let ended = state.withLock { state -> [Pin] in
            var ended: [Pin] = []
            for (key, pin) in state.pins where isOver(key, pin) {
                state.pins[key] = nil
                state.book(pin, by: -1)
                ended.append(pin)
            }
            return ended
        }
        return ended.reduce(0) { $0 + $1.lease.count }
    }
}
