internal import KVStore

/// See kvstore.h.
@c @implementation
public func kvstore_get(
    _ name_space: kvstore_namespace,
    _ prefix: UnsafePointer<kvstore_prefix>?,
    _ first: Int,
    _ flags: UInt32,
    _ buffer: UnsafeMutableRawPointer?,
    _ buffer_size: Int,
    _ out_count: UnsafeMutablePointer<Int>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        let out = unsafe try Out(out_count, "out_count")
        let target = unsafe try OutBytes(buffer, count: buffer_size, "buffer")
        let object = try NamespaceObject.find(name_space)
        let prefix = unsafe try object.prefix(prefix)
        let isMemoryOnly = try isMemoryOnly(flags)
        let blockByteCount = object.namespace.blockByteCount
        try checkRange(first, 0, prefix.keys.count, "prefix")
        let room = target.count / blockByteCount
        guard room > 0 else { throw .invalidArgument("the buffer is shorter than a block of \(blockByteCount) bytes") }
        let end = min(room, prefix.keys.count - first) + first
        var copied = 0
        if end > first, let lease = object.store.cache.acquire(prefix.first(end), memoryOnly: isMemoryOnly) {
            for block in first..<max(first, min(end, lease.count)) {
                lease.withBytes(at: block) { target.copy($0, at: copied * blockByteCount) }
                copied += 1
            }
            // A process that was stopped for long may have copied what somebody else put there.
            if !lease.isCurrent { copied = 0 }
        }
        out.set(copied)
        return copied > 0 ? KVSTORE_OK : KVSTORE_MISS
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_put(
    _ name_space: kvstore_namespace,
    _ prefix: UnsafePointer<kvstore_prefix>?,
    _ first: Int,
    _ buffer: UnsafeRawPointer?,
    _ buffer_size: Int,
    _ out_count: UnsafeMutablePointer<Int>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        let out = unsafe try Out.optional(out_count, "out_count")
        let object = try NamespaceObject.find(name_space)
        let prefix = unsafe try object.prefix(prefix)
        let blockByteCount = object.namespace.blockByteCount
        try checkRange(first, 0, prefix.keys.count, "prefix")
        // Within Int: there are at most 65,536 blocks of at most 1 GiB.
        let limit = (prefix.keys.count - first) * blockByteCount
        let source = unsafe try InBytes(buffer, count: buffer_size, limit: limit, "buffer")
        guard source.count % blockByteCount == 0 else {
            throw .invalidArgument("the buffer does not hold whole blocks of \(blockByteCount) bytes")
        }
        let end = first + source.count / blockByteCount
        let stored = put(prefix.first(end), object.store.cache, first, source, blockByteCount)
        out?.set(stored)
        return stored > 0 ? KVSTORE_OK : KVSTORE_MISS
    }
}

/// Reserves, fills and commits until nothing is missing or no room is left. Returns how many blocks became visible.
private func put(
    _ prefix: Prefix,
    _ cache: any BlockCache,
    _ first: Int,
    _ source: InBytes,
    _ blockByteCount: Int
) -> Int {
    var stored = 0
    while first < prefix.keys.count, var reservation = cache.reserve(prefix) {
        // A block before those of the buffer is missing, so nothing after it can be kept.
        if reservation.blockIndex(at: 0) < first { break }
        for index in 0..<reservation.count {
            let start = (reservation.blockIndex(at: index) - first) * blockByteCount
            reservation.withMutableBytes(at: index) { source.copy(start..<start + blockByteCount, into: &$0) }
        }
        let visible = reservation.commit()
        if visible == 0 { break }
        stored += visible
    }
    return stored
}
