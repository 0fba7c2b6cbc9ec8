internal import KVStore
internal import KVStoreIPC

/// See kvstore.h.
@c @implementation
public func kvstore_prefetch(
    _ name_space: kvstore_namespace,
    _ prefix: UnsafePointer<kvstore_prefix>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        let object = try NamespaceObject.find(name_space)
        object.store.cache.prefetch(unsafe try object.prefix(prefix))
        return KVSTORE_OK
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_pin(
    _ name_space: kvstore_namespace,
    _ prefix: UnsafePointer<kvstore_prefix>?,
    _ seconds: UInt32,
    _ out_count: UnsafeMutablePointer<Int>?
) -> kvstore_status {
    unsafe countBlocks(name_space, prefix, out_count) { (object, prefix) throws(CallError) in
        try daemon(object).pin(prefix, seconds: Int(seconds))
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_unpin(
    _ name_space: kvstore_namespace,
    _ prefix: UnsafePointer<kvstore_prefix>?,
    _ out_count: UnsafeMutablePointer<Int>?
) -> kvstore_status {
    unsafe countBlocks(name_space, prefix, out_count) { (object, prefix) throws(CallError) in
        try daemon(object).unpin(prefix)
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_remove(
    _ name_space: kvstore_namespace,
    _ prefix: UnsafePointer<kvstore_prefix>?,
    _ first: Int,
    _ out_count: UnsafeMutablePointer<Int>?
) -> kvstore_status {
    unsafe countBlocks(name_space, prefix, out_count) { (object, prefix) throws(CallError) in
        try checkRange(first, 0, prefix.keys.count, "prefix")
        return first == prefix.keys.count ? 0 : object.store.cache.remove(prefix, from: first)
    }
}

private func daemon(_ object: NamespaceObject) throws(CallError) -> RemoteBlockStore {
    guard case .remote(let store, _, _) = object.store.store else {
        throw CallError(KVSTORE_UNSUPPORTED, "a store of this process has no pins; hold a lease instead")
    }
    return store
}

private func countBlocks(
    _ name_space: kvstore_namespace,
    _ prefix: UnsafePointer<kvstore_prefix>?,
    _ out_count: UnsafeMutablePointer<Int>?,
    _ body: (NamespaceObject, Prefix) throws(CallError) -> Int
) -> kvstore_status {
    guarded { () throws(CallError) in
        let out = unsafe try Out.optional(out_count, "out_count")
        let object = try NamespaceObject.find(name_space)
        let count = try body(object, unsafe try object.prefix(prefix))
        out?.set(count)
        return count > 0 ? KVSTORE_OK : KVSTORE_MISS
    }
}
