internal import KVStore

/// See kvstore.h.
@c @implementation
public func kvstore_reserve(
    _ name_space: kvstore_namespace,
    _ prefix: UnsafePointer<kvstore_prefix>?,
    _ out_reservation: UnsafeMutablePointer<kvstore_reservation>?,
    _ block_numbers: UnsafeMutablePointer<UInt32>?,
    _ blocks: UnsafeMutablePointer<UnsafeMutableRawPointer?>?,
    _ capacity: Int,
    _ out_count: UnsafeMutablePointer<Int>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        let outReservation = unsafe try Out(out_reservation, "out_reservation")
        let outCount = unsafe try Out(out_count, "out_count")
        let outNumbers = unsafe try OutArray(block_numbers, capacity: capacity, "block_numbers")
        let outBlocks = unsafe try OutArray(blocks, capacity: capacity, "blocks")
        guard unsafe outBlocks.isNull == (capacity == 0) else {
            throw .invalidArgument("blocks must be null when capacity is 0, and only then")
        }
        let object = try NamespaceObject.find(name_space)
        let prefix = unsafe try object.prefix(prefix)
        guard let reservation = reserve(prefix, object.store.cache, limit: capacity == 0 ? Int.max : capacity) else {
            outReservation.set(0)
            outCount.set(0)
            return KVSTORE_MISS
        }
        let held = ReservationObject(reservation)
        outReservation.set(try HandleTable.current.open(held))
        outCount.set(held.count)
        if capacity > 0 { unsafe try tell(held, 0, held.count, outNumbers, outBlocks) }
        return KVSTORE_OK
    }
}

/// A reservation of at most `limit` places. The library reserves for a whole prefix, so a shorter one is asked for.
private func reserve(_ prefix: Prefix, _ cache: any BlockCache, limit: Int) -> BlockReservation? {
    var prefix = prefix
    if limit < prefix.keys.count { prefix = prefix.first(cache.match(prefix).count + limit) }
    while let reservation = cache.reserve(prefix) {
        let excess = reservation.count - limit
        if excess <= 0 { return reservation }
        // Blocks were evicted since the match. The reservation is given back here.
        prefix = prefix.first(prefix.keys.count - excess)
    }
    return nil
}

private func tell(
    _ object: ReservationObject,
    _ first: Int,
    _ count: Int,
    _ numbers: OutArray<UInt32>,
    _ blocks: OutArray<UnsafeMutableRawPointer?>
) throws(CallError) {
    for index in 0..<count {
        // The handle holds the places until the caller ends it.
        guard let (number, address) = unsafe object.place(first + index) else {
            throw CallError(KVSTORE_INVALID_HANDLE, "another thread has ended the reservation")
        }
        numbers.set(index, number)
        unsafe blocks.set(index, address)
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_reservation_blocks(
    _ reservation: kvstore_reservation,
    _ first: Int,
    _ count: Int,
    _ block_numbers: UnsafeMutablePointer<UInt32>?,
    _ blocks: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        let outNumbers = unsafe try OutArray(block_numbers, capacity: count, "block_numbers")
        let outBlocks = unsafe try OutArray(blocks, capacity: count, "blocks")
        let object = try HandleTable.current.find(reservation, as: ReservationObject.self)
        try checkRange(first, count, object.count, "reservation")
        unsafe try tell(object, first, count, outNumbers, outBlocks)
        return KVSTORE_OK
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_commit(
    _ reservation: kvstore_reservation,
    _ out_count: UnsafeMutablePointer<Int>?
) -> kvstore_status {
    guarded { () throws(CallError) in
        // The handle first: it ends whatever is returned.
        let object = try HandleTable.current.close(reservation, as: ReservationObject.self)
        let out = unsafe try Out.optional(out_count, "out_count")
        let count = object.commit()
        out?.set(count)
        return count > 0 ? KVSTORE_OK : KVSTORE_MISS
    }
}

/// See kvstore.h.
@c @implementation
public func kvstore_abandon(_ reservation: kvstore_reservation) -> kvstore_status {
    guarded { () throws(CallError) in
        _ = try HandleTable.current.close(reservation, as: ReservationObject.self).take()
        return KVSTORE_OK
    }
}
