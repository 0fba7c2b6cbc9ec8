package import KVStore

// The bodies, one type each, with the layout in its comment. Numbers are little-endian and unaligned; "text" is u16
// length and UTF-8. A body with bytes left over is refused, so nothing can hide behind it.

/// HELLO: `u32 magic "KVS1" | u16 lowest version | u16 highest version | u32 features | text name | u16 length, token`
package struct HelloRequest: Hashable, Sendable {
    package static let magic: UInt32 = 0x3153_564B
    package var lowestVersion: UInt16 = 1
    package var highestVersion: UInt16 = 1
    /// Bit 0: the client takes descriptors. Without it the daemon refuses leases and reservations.
    package var features: UInt32 = 1
    /// What the client calls itself, for whoever looks at the bytes; the daemon does not keep it.
    package var name: String
    /// Shown instead of the peer's uid, when not empty.
    package var token: [UInt8] = []

    package init(name: String, token: [UInt8] = []) {
        self.name = name
        self.token = token
    }

    package init?(_ body: [UInt8]) {
        var reader = WireReader(body)
        guard reader.uint32() == Self.magic, let lowest = reader.uint16(), let highest = reader.uint16(),
            let features = reader.uint32(), let name = reader.text(limit: WireLimits.nameByteCount),
            let token = reader.prefixed(limit: WireLimits.tokenByteCount), reader.isAtEnd, lowest <= highest
        else { return nil }
        lowestVersion = lowest
        highestVersion = highest
        self.features = features
        self.name = name
        self.token = token
    }

    package var body: [UInt8] {
        var writer = WireWriter()
        writer.append(Self.magic)
        writer.append(lowestVersion)
        writer.append(highestVersion)
        writer.append(features)
        writer.append(text: name, limit: WireLimits.nameByteCount)
        writer.append(prefixed: token)
        return writer.bytes
    }
}

/// HELLO's reply: `u16 version | u16 role | u32 features | u32 lease milliseconds | u64 staging bytes | u64 daemon |
/// text tenant`. Role bit 0: has a tenant, bit 1: operator. `daemon` is another number after each start.
package struct HelloReply: Hashable, Sendable {
    package var version: UInt16 = 1
    package var hasTenant: Bool
    package var isOperator: Bool
    package var features: UInt32 = 1
    package var leaseMilliseconds: UInt32
    package var stagingByteCount: UInt64
    package var daemonID: UInt64
    package var tenant: String

    package init(
        hasTenant: Bool,
        isOperator: Bool,
        leaseMilliseconds: UInt32,
        stagingByteCount: UInt64,
        daemonID: UInt64,
        tenant: String
    ) {
        self.hasTenant = hasTenant
        self.isOperator = isOperator
        self.leaseMilliseconds = leaseMilliseconds
        self.stagingByteCount = stagingByteCount
        self.daemonID = daemonID
        self.tenant = tenant
    }

    package init?(_ body: [UInt8]) {
        var reader = WireReader(body)
        guard let version = reader.uint16(), let role = reader.uint16(), let features = reader.uint32(),
            let lease = reader.uint32(), let staging = reader.uint64(), let daemon = reader.uint64(),
            let tenant = reader.text(limit: 4096), reader.isAtEnd
        else { return nil }
        self.version = version
        hasTenant = role & 1 != 0
        isOperator = role & 2 != 0
        self.features = features
        leaseMilliseconds = lease
        stagingByteCount = staging
        daemonID = daemon
        self.tenant = tenant
    }

    package var body: [UInt8] {
        var writer = WireWriter()
        writer.append(version)
        writer.append(UInt16((hasTenant ? 1 : 0) | (isOperator ? 2 : 0)))
        writer.append(features)
        writer.append(leaseMilliseconds)
        writer.append(stagingByteCount)
        writer.append(daemonID)
        writer.append(prefixed: tenant.utf8)
        return writer.bytes
    }
}

/// OPEN_NAMESPACE's reply: `u32 namespace | u32 zero | u64 block bytes | 32 bytes fingerprint`. The request's body is the
/// canonical encoding of the identity with an empty tenant and an empty salt.
package struct NamespaceReply: Hashable, Sendable {
    package var namespaceID: UInt32
    package var blockByteCount: UInt64
    package var fingerprint: BlockKey

    package init(namespaceID: UInt32, blockByteCount: UInt64, fingerprint: BlockKey) {
        self.namespaceID = namespaceID
        self.blockByteCount = blockByteCount
        self.fingerprint = fingerprint
    }

    package init?(_ body: [UInt8]) {
        var reader = WireReader(body)
        guard let id = reader.uint32(), reader.uint32() == 0, let bytes = reader.uint64(),
            let fingerprint = reader.key(), reader.isAtEnd
        else { return nil }
        namespaceID = id
        blockByteCount = bytes
        self.fingerprint = fingerprint
    }

    package var body: [UInt8] {
        var writer = WireWriter()
        writer.append(namespaceID)
        writer.append(0 as UInt32)
        writer.append(blockByteCount)
        writer.append(fingerprint)
        return writer.bytes
    }
}

/// The REGIONS event: `u32 count | u32 zero | count × (u32 region | u32 kind | u32 slots | u32 zero | u64 slot bytes |
/// u64 bytes)`, with `count` descriptors attached, in order. Kind 0: slots with their generations behind them, to be
/// mapped read-only. Kind 1: this connection's staging region, to be mapped writable.
package struct RegionsEvent: Hashable, Sendable {
    package struct Region: Hashable, Sendable {
        package enum Kind: UInt32, Sendable {
            case slots = 0
            case staging = 1
        }
        package var id: UInt32
        package var kind: Kind
        package var slotCount: UInt32
        package var slotByteCount: UInt64
        package var byteCount: UInt64
        package init(id: UInt32, kind: Kind, slotCount: UInt32, slotByteCount: UInt64, byteCount: UInt64) {
            self.id = id
            self.kind = kind
            self.slotCount = slotCount
            self.slotByteCount = slotByteCount
            self.byteCount = byteCount
        }
    }

    package var regions: [Region]

    package init(regions: [Region]) { self.regions = regions }

    package init?(_ body: [UInt8]) {
        var reader = WireReader(body)
        guard let count = reader.uint32(), reader.uint32() == 0, reader.remainingCount == Int(count) * 32 else {
            return nil
        }
        regions = []
        for _ in 0..<count {
            let (id, kind, slots) = (reader.uint32()!, Region.Kind(rawValue: reader.uint32()!), reader.uint32()!)
            guard let kind, reader.uint32() == 0 else { return nil }
            regions.append(
                Region(
                    id: id,
                    kind: kind,
                    slotCount: slots,
                    slotByteCount: reader.uint64()!,
                    byteCount: reader.uint64()!
                )
            )
        }
    }

    package var body: [UInt8] {
        var writer = WireWriter(capacity: 8 + regions.count * 32)
        writer.append(UInt32(regions.count))
        writer.append(0 as UInt32)
        for region in regions {
            writer.append(region.id)
            writer.append(region.kind.rawValue)
            writer.append(region.slotCount)
            writer.append(0 as UInt32)
            writer.append(region.slotByteCount)
            writer.append(region.byteCount)
        }
        return writer.bytes
    }
}

/// FLUSH's reply: `u64 durable | u64 refused | text reason` (empty when nothing was refused).
package struct FlushReply: Hashable, Sendable {
    package var durableBlocks: UInt64
    package var refusedBlocks: UInt64
    package var reason: String

    package init(durableBlocks: UInt64, refusedBlocks: UInt64, reason: String) {
        self.durableBlocks = durableBlocks
        self.refusedBlocks = refusedBlocks
        self.reason = reason
    }

    package init?(_ body: [UInt8]) {
        var reader = WireReader(body)
        guard let durable = reader.uint64(), let refused = reader.uint64(),
            let reason = reader.text(limit: WireLimits.messageByteCount), reader.isAtEnd
        else { return nil }
        durableBlocks = durable
        refusedBlocks = refused
        self.reason = reason
    }

    package var body: [UInt8] {
        var writer = WireWriter()
        writer.append(durableBlocks)
        writer.append(refusedBlocks)
        writer.append(text: reason, limit: WireLimits.messageByteCount)
        return writer.bytes
    }
}

/// A list of numbers, `u32 count | count × u32` or `u32 count | u32 zero | count × u64`: RENEW and its reply (region
/// ids), RELEASE (lease ids).
package enum NumberList {
    package static func body(_ numbers: [UInt32]) -> [UInt8] {
        var writer = WireWriter(capacity: 4 + numbers.count * 4)
        writer.append(UInt32(numbers.count))
        for number in numbers { writer.append(number) }
        return writer.bytes
    }

    package static func uint32s(_ body: [UInt8]) -> [UInt32]? {
        var reader = WireReader(body)
        guard let count = reader.uint32(), let numbers = reader.uint32s(Int(count)), reader.isAtEnd else { return nil }
        return numbers
    }

    package static func body(_ numbers: [UInt64]) -> [UInt8] {
        var writer = WireWriter(capacity: 8 + numbers.count * 8)
        writer.append(UInt32(numbers.count))
        writer.append(0 as UInt32)
        for number in numbers { writer.append(number) }
        return writer.bytes
    }

    package static func uint64s(_ body: [UInt8]) -> [UInt64]? {
        var reader = WireReader(body)
        guard let count = reader.uint32(), reader.uint32() == 0, reader.remainingCount == Int(count) * 8 else {
            return nil
        }
        return (0..<count).map { _ in reader.uint64()! }
    }

    /// One number alone: COMMIT, ABANDON, and replies that are a count.
    package static func body(_ number: UInt64) -> [UInt8] {
        var writer = WireWriter(capacity: 8)
        writer.append(number)
        return writer.bytes
    }

    package static func uint64(_ body: [UInt8]) -> UInt64? {
        var reader = WireReader(body)
        guard let number = reader.uint64(), reader.isAtEnd else { return nil }
        return number
    }
}
