internal import KVStore

/// See kvstore.h.
@c @implementation
public func kvstore_acquire(
    _ name_space: kvstore_namespace,
    _ prefix: UnsafePointer<kvstore_prefix>?,
    _ flags: UInt32,
    _ out_lease: UnsafeMutablePointer<kvstore_lease>?,
    _ blocks: UnsafeMutablePointer<UnsafeRawPointer?>?,
    _ capacity: Int,
    _ out_count: UnsafeMutablePointer<Int>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        let outLease = unsafe try Out(out_lease, "out_lease")
        let outCount = unsafe try Out(out_count, "out_count")
        let outBlocks = unsafe try OutArray(blocks, capacity: capacity, "blocks")
        guard unsafe outBlocks.isNull == (capacity == 0) else {
            throw .invalidArgument("blocks must be null when capacity is 0, and only then")
        }
        let object = try NamespaceObject.find(name_space)
        var prefix = unsafe try object.prefix(prefix)
        if capacity > 0, capacity < prefix.keys.count { prefix = prefix.first(capacity) }
        guard let lease = object.store.cache.acquire(prefix, memoryOnly: try isMemoryOnly(flags)) else {
            outLease.set(0)
            outCount.set(0)
            return KVSTORE_MISS
        }
        let held = LeaseObject(lease)
        let count = held.lease.count
        outLease.set(try HandleTable.current.open(held))
        outCount.set(count)
        // The handle holds the memory until the caller closes it.
        for index in 0..<min(count, capacity) { unsafe outBlocks.set(index, held.address(of: index)) }
        return KVSTORE_OK
    }
}

/// Reads the flags of `kvstore_acquire` and `kvstore_get`.
func isMemoryOnly(_ flags: UInt32) throws(CallError) -> Bool {
    guard flags <= UInt32(KVSTORE_MEMORY_ONLY) else { throw .invalidArgument("flags has unknown flags") }
    return flags == UInt32(KVSTORE_MEMORY_ONLY)
}

/// Whether `first ..< first + count` lies in `0 ..< limit`; the sum may be beyond what an Int holds.
func checkRange(_ first: Int, _ count: Int, _ limit: Int, _ name: String) throws(CallError) {
    guard first >= 0, count >= 0, first <= limit, count <= limit - first else {
        throw .invalidArgument("the \(name) has \(limit) blocks; those asked for are others")
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_lease_blocks(
    _ lease: kvstore_lease,
    _ first: Int,
    _ count: Int,
    _ blocks: UnsafeMutablePointer<UnsafeRawPointer?>?,
    _ tiers: UnsafeMutablePointer<UInt8>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        let outBlocks = unsafe try OutArray(blocks, capacity: count, "blocks")
        let outTiers = unsafe try OutArray(tiers, capacity: count, "tiers")
        let object = try HandleTable.current.find(lease, as: LeaseObject.self)
        try checkRange(first, count, object.lease.count, "lease")
        for index in 0..<count {
            // The handle holds the memory until the caller closes it.
            unsafe outBlocks.set(index, object.address(of: first + index))
            outTiers.set(index, UInt8(object.lease.tier(at: first + index) == .disk ? KVSTORE_DISK : KVSTORE_MEMORY))
        }
        return KVSTORE_OK
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_lease_is_current(_ lease: kvstore_lease) -> kvstore_status {
    guarded { () throws(CallError) in
        try HandleTable.current.find(lease, as: LeaseObject.self).lease.isCurrent ? KVSTORE_OK : KVSTORE_MISS
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_release(_ lease: kvstore_lease) -> kvstore_status {
    guarded { () throws(CallError) in
        _ = try HandleTable.current.close(lease, as: LeaseObject.self)
        return KVSTORE_OK
    }
}
