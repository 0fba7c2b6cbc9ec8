internal import FoundationEssentials
internal import KVStore
internal import KVStoreIPC

// Documentation of every exported function is in kvstore.h.

/// See kvstore.h.
@c @implementation
public func kvstore_open(
    _ options: UnsafePointer<kvstore_options>?,
    _ out_store: UnsafeMutablePointer<kvstore_store>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        let out = unsafe try Out(out_store, "out_store")
        var given = unsafe kvstore_options()
        if unsafe options != nil { unsafe try record(options, into: &given, leastByteCount: 56, "options") }
        let configuration = unsafe try storeConfiguration(given)
        let store: BlockStore
        do throws(KVStoreError) { store = try BlockStore(configuration) } catch { throw CallError(error) }
        if unsafe UInt32(KVSTORE_WAIT_UNTIL_WARM) & given.flags != 0 { store.waitUntilWarm() }
        out.set(try HandleTable.current.open(StoreObject(.embedded(store))))
        return KVSTORE_OK
    }
}

private func storeConfiguration(_ given: kvstore_options) throws(CallError) -> Configuration {
    let flags = unsafe given.flags
    let has = { (flag: Int) -> Bool in flags & UInt32(flag) != 0 }
    guard flags < 64, unsafe given.reserved == 0 else { throw .invalidArgument("options.flags has unknown flags") }
    var configuration = Configuration()
    if unsafe given.memory_bytes != 0 { configuration.memoryCapacityBytes = unsafe Int(clamping: given.memory_bytes) }
    configuration.verifyMemoryHits = has(KVSTORE_VERIFY_MEMORY_HITS)
    if has(KVSTORE_NO_SCRUB) { configuration.scrub = .off }
    if has(KVSTORE_NO_WARM_UP) { configuration.warmUpFraction = 0 }
    guard let path = unsafe try text(given.disk_path, limit: 4095, "disk_path") else {
        guard unsafe given.disk_bytes == 0 else { throw .invalidArgument("disk_bytes is given without disk_path") }
        return configuration
    }
    var disk = unsafe DiskConfiguration(path: path, capacityBytes: Int(clamping: given.disk_bytes))
    disk.writeThrough = has(KVSTORE_WRITE_THROUGH)
    disk.flushOnClose = !has(KVSTORE_NO_FLUSH_ON_CLOSE)
    let delay = unsafe given.write_back_delay_seconds
    if delay != 0 { disk.writeBackDelaySeconds = delay < 0 ? nil : delay }
    if unsafe given.reader_threads != 0 { disk.readerThreads = unsafe Int(given.reader_threads) }
    if let name = unsafe try text(given.codec, limit: 64, "codec") {
        guard let codec = CodecChoice(rawValue: name) else {
            let names = CodecChoice.allCases.map(\.rawValue).joined(separator: ", ")
            throw .invalidArgument("the codec \"\(name)\" is none of \(names)")
        }
        disk.codec = codec
    }
    configuration.disk = disk
    return configuration
}

/// See kvstore.h.
@c @implementation
public func kvstore_connect(
    _ options: UnsafePointer<kvstore_connect_options>?,
    _ out_store: UnsafeMutablePointer<kvstore_store>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        let out = unsafe try Out(out_store, "out_store")
        var given = unsafe kvstore_connect_options()
        unsafe try record(options, into: &given, leastByteCount: 56, "options")
        guard let path = unsafe try text(given.socket_path, limit: 107, "socket_path"), !path.isEmpty else {
            throw .invalidArgument("socket_path is null or empty")
        }
        let client = unsafe try clientOptions(given)
        let store = RemoteBlockStore(socketPath: path, options: client)
        out.set(try HandleTable.current.open(StoreObject(.remote(store, socketPath: path, options: client))))
        return KVSTORE_OK
    }
}

private func clientOptions(_ given: kvstore_connect_options) throws(CallError) -> ClientOptions {
    func seconds(_ milliseconds: UInt32, _ normal: Double, _ name: String) throws(CallError) -> Double {
        guard milliseconds <= 600_000 else { throw .invalidArgument("\(name) is above 600000") }
        return milliseconds == 0 ? normal : Double(milliseconds) / 1000
    }
    var options = ClientOptions()
    options.timeoutSeconds = unsafe try seconds(
        given.timeout_milliseconds,
        options.timeoutSeconds,
        "timeout_milliseconds"
    )
    options.slowTimeoutSeconds = unsafe try seconds(
        given.slow_timeout_milliseconds,
        options.slowTimeoutSeconds,
        "slow_timeout_milliseconds"
    )
    options.retrySeconds = unsafe try seconds(given.retry_milliseconds, options.retrySeconds, "retry_milliseconds")
    options.name = unsafe try text(given.client_name, limit: 64, "client_name") ?? ""
    let token = unsafe try InBytes(given.token, count: given.token_size, limit: 1024, "token")
    options.token = token.array
    if let path = unsafe try text(given.token_file, limit: 4095, "token_file") {
        guard token.count == 0 else { throw .invalidArgument("both token and token_file are given") }
        options.token = try readToken(path)
    }
    return options
}

/// See kvstore.h.
@c @implementation
public func kvstore_wait_until_warm(_ store: kvstore_store) -> kvstore_status {
    guarded { () throws(CallError) in
        guard case .embedded(let store) = try HandleTable.current.find(store, as: StoreObject.self).store else {
            return KVSTORE_OK
        }
        guard store.waitUntilWarm() else {
            throw CallError(KVSTORE_IO, store.statistics.diskProblem ?? "the disk tier cannot be used")
        }
        return KVSTORE_OK
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_ping(_ store: kvstore_store, _ out_nanoseconds: UnsafeMutablePointer<UInt64>?) -> kvstore_status {
    guarded { () throws(CallError) in
        let out = unsafe try Out.optional(out_nanoseconds, "out_nanoseconds")
        let object = try HandleTable.current.find(store, as: StoreObject.self)
        guard case .remote(_, let path, let options) = object.store else {
            out?.set(0)
            return KVSTORE_OK
        }
        do throws(ClientError) {
            let seconds = try DaemonClient(socketPath: path, options: options).ping()
            out?.set(UInt64(max(0, seconds) * 1e9))
        } catch {
            throw CallError(KVSTORE_UNAVAILABLE, error.message)
        }
        return KVSTORE_OK
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_flush(
    _ store: kvstore_store,
    _ out_result: UnsafeMutablePointer<kvstore_flush_result>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        let out = unsafe try OutRecord.optional(out_result, leastByteCount: 24, "out_result")
        let object = try HandleTable.current.find(store, as: StoreObject.self)
        let flushed = object.cache.flush()
        if let reason = flushed.reason { keepLastError(reason) }
        var result = kvstore_flush_result()
        result.durable_blocks = UInt64(flushed.durableBlocks)
        result.refused_blocks = UInt64(flushed.refusedBlocks)
        out?.set(result)
        // A daemon that says nothing is told from one that has nothing by the reason alone.
        if case .remote = object.store, flushed.reason != nil, flushed.durableBlocks + flushed.refusedBlocks == 0 {
            return KVSTORE_MISS
        }
        return KVSTORE_OK
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_statistics_json(
    _ store: kvstore_store,
    _ buffer: UnsafeMutablePointer<CChar>?,
    _ capacity: Int,
    _ out_needed: UnsafeMutablePointer<Int>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        let needed = unsafe try Out.optional(out_needed, "out_needed")
        let target = unsafe try OutBytes(UnsafeMutableRawPointer(buffer), count: capacity, "buffer")
        let object = try HandleTable.current.find(store, as: StoreObject.self)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        encoder.nonConformingFloatEncodingStrategy = .convertToString(
            positiveInfinity: "inf",
            negativeInfinity: "-inf",
            nan: "nan"
        )
        guard let json = try? encoder.encode(object.cache.statistics) else {
            throw CallError(KVSTORE_INTERNAL, "the statistics cannot be written as JSON")
        }
        let bytes = Array(json) + [0]
        needed?.set(bytes.count)
        guard bytes.count <= target.count else {
            throw CallError(KVSTORE_BUFFER_TOO_SMALL, "the statistics need \(bytes.count) bytes")
        }
        unsafe target.copy(bytes.span.bytes, at: 0)
        return KVSTORE_OK
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_close(_ store: kvstore_store) -> kvstore_status {
    guarded { () throws(CallError) in
        try HandleTable.current.close(store, as: StoreObject.self).close()
        return KVSTORE_OK
    }
}
