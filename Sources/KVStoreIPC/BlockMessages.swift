package import KVStore

// The bodies of the requests about blocks and of their replies, laid out as those in Messages.swift.

/// Every verb that names a prompt: `u32 namespace | u8 form | u8 flags | u16 zero | u32 argument | u32 tokens of the
/// prompt | u32 count | count × (form 0: 32-byte key, form 1: u32 token id) | bytes (PUT only)`.
///
/// Tokens must fill whole blocks to count; the daemon hashes them as `PrefixHasher` does. `argument`: PIN, seconds;
/// REMOVE, first block to remove; GET, number of the block that is wanted; PUT, how many bytes follow.
package struct PrefixRequest: Hashable, Sendable {
    package enum Blocks: Hashable, Sendable {
        case keys([BlockKey])
        case tokens([UInt32])

        package var count: Int {
            switch self {
            case .keys(let keys): keys.count
            case .tokens(let tokens): tokens.count
            }
        }
    }

    /// ACQUIRE: stop before the first block that is only on disk.
    package static let memoryOnly: UInt8 = 1

    package var namespaceID: UInt32
    package var flags: UInt8 = 0
    package var argument: UInt32 = 0
    package var tokenCount: UInt32
    package var blocks: Blocks
    /// PUT: the bytes of the last block named.
    package var payload: [UInt8] = []

    package init(
        namespaceID: UInt32,
        flags: UInt8 = 0,
        argument: UInt32 = 0,
        tokenCount: UInt32,
        blocks: Blocks,
        payload: [UInt8] = []
    ) {
        self.namespaceID = namespaceID
        self.flags = flags
        self.argument = argument
        self.tokenCount = tokenCount
        self.blocks = blocks
        self.payload = payload
    }

    package init?(_ body: [UInt8], verb: Verb) {
        var reader = WireReader(body)
        guard let id = reader.uint32(), let form = reader.uint8(), let flags = reader.uint8(), reader.uint16() == 0,
            let argument = reader.uint32(), let tokens = reader.uint32(), let count = reader.uint32()
        else { return nil }
        switch form {
        case 0:
            guard let keys = reader.keys(Int(count)) else { return nil }
            blocks = .keys(keys)
        case 1:
            guard let ids = reader.uint32s(Int(count)) else { return nil }
            blocks = .tokens(ids)
        default: return nil
        }
        namespaceID = id
        self.flags = flags
        self.argument = argument
        tokenCount = tokens
        if verb == .put {
            guard reader.remainingCount == Int(argument), let bytes = reader.take(Int(argument)) else { return nil }
            payload = bytes
        }
        guard reader.isAtEnd else { return nil }
    }

    package var body: [UInt8] {
        var writer = WireWriter(capacity: 20 + blocks.count * BlockKey.byteCount + payload.count)
        writer.append(namespaceID)
        switch blocks {
        case .keys: writer.append(0 as UInt8)
        case .tokens: writer.append(1 as UInt8)
        }
        writer.append(flags)
        writer.append(0 as UInt16)
        writer.append(argument)
        writer.append(tokenCount)
        writer.append(UInt32(blocks.count))
        switch blocks {
        case .keys(let keys): for key in keys { writer.append(key) }
        case .tokens(let tokens): for token in tokens { writer.append(token) }
        }
        writer.append(contentsOf: payload)
        return writer.bytes
    }
}

/// MATCH's reply: `u32 count | u8 warming | 3 zero | count × u8 tier` (0 memory, 1 disk).
package struct MatchReply: Hashable, Sendable {
    package var tiers: [Tier]
    package var isWarming: Bool

    package init(tiers: [Tier], isWarming: Bool) {
        self.tiers = tiers
        self.isWarming = isWarming
    }

    package init?(_ body: [UInt8]) {
        var reader = WireReader(body)
        guard let count = reader.uint32(), let warming = reader.uint8(), reader.take(3) == [0, 0, 0],
            let tiers = reader.tiers(Int(count)), reader.isAtEnd
        else { return nil }
        self.tiers = tiers
        isWarming = warming != 0
    }

    package var body: [UInt8] {
        var writer = WireWriter(capacity: 8 + tiers.count)
        writer.append(UInt32(tiers.count))
        writer.append(isWarming ? 1 as UInt8 : 0)
        writer.append(contentsOf: [0, 0, 0])
        writer.append(tiers)
        return writer.bytes
    }
}

/// Where a leased block lies: a slot of a region that was announced before, and the slot's generation then.
package struct WirePlace: Hashable, Sendable {
    package var regionID: UInt32
    package var slotIndex: UInt32
    package var generation: UInt64

    package init(regionID: UInt32, slotIndex: UInt32, generation: UInt64) {
        self.regionID = regionID
        self.slotIndex = slotIndex
        self.generation = generation
    }
}

/// ACQUIRE's reply: `u64 lease (0: none) | u32 count | u32 zero | count × (u32 region | u32 slot | u64 generation) |
/// count × u8 tier`.
package struct AcquireReply: Hashable, Sendable {
    /// A place and a tier.
    package static let bytesPerBlock = 17

    package var leaseID: UInt64
    package var places: [WirePlace]
    package var tiers: [Tier]

    package init(leaseID: UInt64, places: [WirePlace], tiers: [Tier]) {
        self.leaseID = leaseID
        self.places = places
        self.tiers = tiers
    }

    package init?(_ body: [UInt8]) {
        var reader = WireReader(body)
        guard let lease = reader.uint64(), let count = reader.uint32(), reader.uint32() == 0,
            reader.remainingCount == Int(count) * Self.bytesPerBlock
        else { return nil }
        leaseID = lease
        places = (0..<count).map { _ in
            WirePlace(regionID: reader.uint32()!, slotIndex: reader.uint32()!, generation: reader.uint64()!)
        }
        guard let tiers = reader.tiers(Int(count)), (lease == 0) == (count == 0) else { return nil }
        self.tiers = tiers
    }

    package var body: [UInt8] {
        var writer = WireWriter(capacity: 16 + places.count * Self.bytesPerBlock)
        writer.append(leaseID)
        writer.append(UInt32(places.count))
        writer.append(0 as UInt32)
        for place in places {
            writer.append(place.regionID)
            writer.append(place.slotIndex)
            writer.append(place.generation)
        }
        writer.append(tiers)
        return writer.bytes
    }
}

/// RESERVE's reply: `u64 reservation (0: none) | u32 count | u32 zero | count × (u32 block number | u32 zero | u64
/// offset in the staging region)`.
package struct ReserveReply: Hashable, Sendable {
    package struct Place: Hashable, Sendable {
        package var blockNumber: UInt32
        package var stagingOffset: UInt64
        package init(blockNumber: UInt32, stagingOffset: UInt64) {
            self.blockNumber = blockNumber
            self.stagingOffset = stagingOffset
        }
    }

    package var reservationID: UInt64
    package var places: [Place]

    package init(reservationID: UInt64, places: [Place]) {
        self.reservationID = reservationID
        self.places = places
    }

    package init?(_ body: [UInt8]) {
        var reader = WireReader(body)
        guard let id = reader.uint64(), let count = reader.uint32(), reader.uint32() == 0,
            reader.remainingCount == Int(count) * 16, (id == 0) == (count == 0)
        else { return nil }
        reservationID = id
        places = []
        for _ in 0..<count {
            let number = reader.uint32()!
            guard reader.uint32() == 0 else { return nil }
            places.append(Place(blockNumber: number, stagingOffset: reader.uint64()!))
        }
    }

    package var body: [UInt8] {
        var writer = WireWriter(capacity: 16 + places.count * 16)
        writer.append(reservationID)
        writer.append(UInt32(places.count))
        writer.append(0 as UInt32)
        for place in places {
            writer.append(place.blockNumber)
            writer.append(0 as UInt32)
            writer.append(place.stagingOffset)
        }
        return writer.bytes
    }
}

extension WireReader {
    mutating func tiers(_ count: Int) -> [Tier]? {
        guard let bytes = take(count), bytes.allSatisfy({ $0 <= 1 }) else { return nil }
        return bytes.map { $0 == 0 ? .memory : .disk }
    }
}

extension WireWriter {
    mutating func append(_ tiers: [Tier]) { append(contentsOf: tiers.map { $0 == .memory ? 0 : 1 }) }
}
