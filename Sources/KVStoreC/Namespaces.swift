internal import KVStore
internal import KVStoreIPC

/// See kvstore.h.
@c @implementation
public func kvstore_namespace_open(
    _ store: kvstore_store,
    _ identity: UnsafePointer<kvstore_identity>?,
    _ out_namespace: UnsafeMutablePointer<kvstore_namespace>?,
    _ out_info: UnsafeMutablePointer<kvstore_namespace_info>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        let out = unsafe try Out(out_namespace, "out_namespace")
        let outInfo = unsafe try OutRecord.optional(out_info, leastByteCount: 48, "out_info")
        var given = unsafe kvstore_identity()
        unsafe try record(identity, into: &given, leastByteCount: 128, "identity")
        let object = try HandleTable.current.find(store, as: StoreObject.self)
        try object.checkOpen()
        let opened: Namespace
        let wanted = unsafe try namespaceIdentity(given)
        do throws(KVStoreError) { opened = try object.cache.namespace(wanted) } catch { throw CallError(error) }
        out.set(try HandleTable.current.open(NamespaceObject(object, opened)))
        outInfo?.set(info(opened))
        return KVSTORE_OK
    }
}

private func info(_ namespace: Namespace) -> kvstore_namespace_info {
    var info = kvstore_namespace_info()
    info.tokens_per_block = UInt32(namespace.identity.tokensPerBlock)
    info.block_bytes = UInt64(namespace.blockByteCount)
    // Safe: a fingerprint is exactly as long as the field.
    unsafe withUnsafeMutableBytes(of: &info.fingerprint) { unsafe $0.copyBytes(from: namespace.fingerprint.bytes) }
    return info
}

private func namespaceIdentity(_ given: kvstore_identity) throws(CallError) -> NamespaceIdentity {
    func text(_ pointer: UnsafePointer<CChar>?, _ name: String) throws(CallError) -> String {
        unsafe try KVStoreC.text(pointer, limit: 4096, name) ?? ""
    }
    guard let elementType = unsafe UInt8(exactly: given.element_type).flatMap(ElementType.init(rawValue:)) else {
        throw .invalidArgument("identity.element_type is none of KVSTORE_BF16 and so on")
    }
    guard unsafe given.allows_lossy_int8 <= 1 else {
        throw .invalidArgument("identity.allows_lossy_int8 must be 0 or 1")
    }
    let parts = { (count: UInt32, ofKeys: UInt32) -> Int in
        count == UInt32.max ? 0 : Int(count == 0 ? ofKeys : count)
    }
    let layout = unsafe try text(given.layout_tag, "layout_tag")
    let opaqueByteCount = unsafe given.opaque_block_bytes
    return unsafe NamespaceIdentity(
        model: try text(given.model, "model"),
        revision: try text(given.revision, "revision"),
        elementType: elementType,
        layers: Int(given.layers),
        keyHeads: Int(given.key_heads),
        valueHeads: parts(given.value_heads, given.key_heads),
        keyHeadDimension: Int(given.key_head_dimension),
        valueHeadDimension: parts(given.value_head_dimension, given.key_head_dimension),
        tokensPerBlock: Int(given.tokens_per_block),
        tensorParallelRank: Int(given.tensor_parallel_rank),
        tensorParallelSize: max(1, Int(given.tensor_parallel_size)),
        pipelineParallelRank: Int(given.pipeline_parallel_rank),
        pipelineParallelSize: max(1, Int(given.pipeline_parallel_size)),
        layoutTag: layout.isEmpty ? NamespaceIdentity.defaultLayoutTag : layout,
        adapter: try text(given.adapter, "adapter"),
        tenant: try text(given.tenant, "tenant"),
        salt: try InBytes(given.salt, count: given.salt_size, limit: 1024, "salt").array,
        additional: try additionalFields(given),
        opaqueBlockByteCount: opaqueByteCount == 0 ? nil : Int(clamping: opaqueByteCount),
        storage: given.allows_lossy_int8 == 1 ? .int8 : .lossless
    )
}

private func additionalFields(_ given: kvstore_identity) throws(CallError) -> [String: NamespaceIdentity.Field] {
    var fields: [String: NamespaceIdentity.Field] = [:]
    let given = unsafe try array(given.fields, count: Int(given.field_count), limit: 256, "identity.fields")
    for index in unsafe given.indices {
        let field = unsafe given[index]
        guard let name = unsafe try text(field.name, limit: 4096, "fields.name"), !name.isEmpty else {
            throw .invalidArgument("a field of the identity has no name")
        }
        let value: NamespaceIdentity.Field
        switch unsafe Int(field.type) {
        case KVSTORE_FIELD_INTEGER: value = unsafe .integer(field.integer)
        case KVSTORE_FIELD_BOOLEAN: value = unsafe .boolean(field.integer != 0)
        case KVSTORE_FIELD_TEXT, KVSTORE_FIELD_BYTES:
            let bytes = unsafe try InBytes(field.bytes, count: field.byte_count, limit: 4096, "fields.bytes").array
            if unsafe Int(field.type) == KVSTORE_FIELD_BYTES {
                value = .bytes(bytes)
            } else {
                guard let text = String(validating: bytes, as: UTF8.self) else {
                    throw .invalidArgument("a text field of the identity is not UTF-8")
                }
                value = .string(text)
            }
        default: throw .invalidArgument("a field of the identity has an unknown type")
        }
        guard fields.updateValue(value, forKey: name) == nil else {
            throw .invalidArgument("two fields of the identity have the same name")
        }
    }
    return fields
}

/// See kvstore.h.
@c @implementation
public func kvstore_namespace_close(_ name_space: kvstore_namespace) -> kvstore_status {
    guarded { () throws(CallError) in
        _ = try HandleTable.current.close(name_space, as: NamespaceObject.self)
        return KVSTORE_OK
    }
}
