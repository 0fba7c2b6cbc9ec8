// What a fingerprint covers, byte for byte. Little-endian throughout.
//
//     u8 0, u32 format version (1), then the fields by rising tag:
//     u8 tag, u8 type, u32 length, bytes
//
// Types: 1 text (UTF-8), 2 integer (8 bytes, two's complement), 3 boolean (1 byte), 4 bytes, 5 map. A map holds, by
// rising key bytes: u32 key length, key, u8 type, u32 length, bytes. An absent optional field is left out.
//
// Every value has its length before it, so no two identities have one encoding: ("org_1", "2345") and
// ("org_12345", "") differ. The first byte sets it apart from block keys, whose input starts with 1 or 2.

extension NamespaceIdentity {
    /// The namespace's 32-byte name: the parent of every first block, so part of every key.
    ///
    /// Computed anew at each use; keep it. Equal fingerprints mean that every field is equal.
    public var fingerprint: BlockKey { BlockKey(sha256Of: canonicalEncoding) }

    /// The tenant's number on disk and in statistics. It does not depend on the salt.
    public var tenantHash: UInt64 { Self.tenantHash(of: tenant) }

    /// The number of the tenant of this name.
    static func tenantHash(of tenant: String) -> UInt64 {
        BlockKey(sha256Of: Array("kvstore tenant\0".utf8) + Array(tenant.utf8)).word0
    }

    /// Every field, typed and with its length.
    package var canonicalEncoding: [UInt8] {
        var encoding = CanonicalEncoding()
        encoding.append(tag: 1, .string(model))
        encoding.append(tag: 2, .string(revision))
        encoding.append(tag: 3, .integer(Int64(elementType.rawValue)))
        encoding.append(tag: 4, .integer(Int64(layers)))
        encoding.append(tag: 5, .integer(Int64(keyHeads)))
        encoding.append(tag: 6, .integer(Int64(valueHeads)))
        encoding.append(tag: 7, .integer(Int64(keyHeadDimension)))
        encoding.append(tag: 8, .integer(Int64(valueHeadDimension)))
        encoding.append(tag: 9, .integer(Int64(tokensPerBlock)))
        encoding.append(tag: 10, .integer(Int64(tensorParallelRank)))
        encoding.append(tag: 11, .integer(Int64(tensorParallelSize)))
        encoding.append(tag: 12, .integer(Int64(pipelineParallelRank)))
        encoding.append(tag: 13, .integer(Int64(pipelineParallelSize)))
        encoding.append(tag: 14, .string(layoutTag))
        encoding.append(tag: 15, .string(adapter))
        encoding.append(tag: 16, .string(tenant))
        encoding.append(tag: 17, .bytes(salt))
        encoding.append(tag: 18, map: additional)
        if let opaqueBlockByteCount { encoding.append(tag: 19, .integer(Int64(opaqueBlockByteCount))) }
        // Left out like an absent field, so that lossless namespaces keep the fingerprints of before there was a choice.
        if storage == .int8 { encoding.append(tag: 20, .string("int8")) }
        return encoding.bytes
    }
}

private struct CanonicalEncoding {
    private(set) var bytes: [UInt8] = [0]

    init() {
        bytes.append(littleEndian: 1 as UInt32)
    }

    mutating func append(tag: UInt8, _ field: NamespaceIdentity.Field) {
        bytes.append(tag)
        Self.append(field, to: &bytes)
    }

    mutating func append(tag: UInt8, map: [String: NamespaceIdentity.Field]) {
        var entries: [UInt8] = []
        for (key, field) in map.sorted(by: { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }) {
            entries.append(lengthPrefixed: key.utf8)
            Self.append(field, to: &entries)
        }
        bytes.append(tag)
        bytes.append(5)
        bytes.append(lengthPrefixed: entries)
    }

    private static func append(_ field: NamespaceIdentity.Field, to bytes: inout [UInt8]) {
        switch field {
        case .string(let text):
            bytes.append(1)
            bytes.append(lengthPrefixed: text.utf8)
        case .integer(let number):
            bytes.append(2)
            bytes.append(littleEndian: 8 as UInt32)
            bytes.append(littleEndian: number)
        case .boolean(let flag):
            bytes.append(3)
            bytes.append(littleEndian: 1 as UInt32)
            bytes.append(flag ? 1 : 0)
        case .bytes(let value):
            bytes.append(4)
            bytes.append(lengthPrefixed: value)
        }
    }
}

extension [UInt8] {
    fileprivate mutating func append(littleEndian value: some FixedWidthInteger) {
        for position in 0..<(value.bitWidth / 8) { append(UInt8(truncatingIfNeeded: value >> (position * 8))) }
    }

    fileprivate mutating func append(lengthPrefixed value: some Collection<UInt8>) {
        append(littleEndian: UInt32(value.count))
        append(contentsOf: value)
    }
}
