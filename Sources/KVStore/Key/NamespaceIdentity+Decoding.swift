// The way back from `canonicalEncoding`, for identities that come over a socket. Every length is checked; what would not
// encode to the same bytes again is refused, so that one identity has one encoding here too.

extension NamespaceIdentity {
    /// The identity that encodes to `bytes`; nil when there is none. It may still be out of range: see `validate()`.
    package init?(canonicalEncoding bytes: [UInt8]) {
        var decoding = CanonicalDecoding(bytes[...])
        guard decoding.take(5) == [0, 1, 0, 0, 0] else { return nil }
        var fields: [UInt8: Field] = [:]
        var additional: [String: Field] = [:]
        while !decoding.isAtEnd {
            guard let tag = decoding.byte(), fields[tag] == nil else { return nil }
            if tag == 18 {
                guard let map = decoding.map() else { return nil }
                additional = map
            } else {
                guard let field = decoding.field() else { return nil }
                fields[tag] = field
            }
        }
        guard let model = fields[1]?.text, let revision = fields[2]?.text,
            let element = fields[3]?.number.flatMap({ UInt8(exactly: $0) }).flatMap(ElementType.init(rawValue:)),
            let layoutTag = fields[14]?.text, let adapter = fields[15]?.text, let tenant = fields[16]?.text,
            case .bytes(let salt)? = fields[17]
        else { return nil }
        let shape = (4...13).compactMap { fields[$0]?.number }
        guard shape.count == 10 else { return nil }
        self.init(
            model: model,
            revision: revision,
            elementType: element,
            layers: shape[0],
            keyHeads: shape[1],
            valueHeads: shape[2],
            keyHeadDimension: shape[3],
            valueHeadDimension: shape[4],
            tokensPerBlock: shape[5],
            tensorParallelRank: shape[6],
            tensorParallelSize: shape[7],
            pipelineParallelRank: shape[8],
            pipelineParallelSize: shape[9],
            layoutTag: layoutTag,
            adapter: adapter,
            tenant: tenant,
            salt: salt,
            additional: additional,
            opaqueBlockByteCount: fields[19]?.number,
            storage: fields[20] == nil ? .lossless : .int8
        )
        guard canonicalEncoding == bytes else { return nil }
    }
}

extension NamespaceIdentity.Field {
    fileprivate var text: String? { if case .string(let text) = self { text } else { nil } }
    fileprivate var number: Int? { if case .integer(let number) = self { Int(exactly: number) } else { nil } }
}

private struct CanonicalDecoding {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

    var isAtEnd: Bool { rest.isEmpty }

    mutating func byte() -> UInt8? { rest.popFirst() }

    mutating func take(_ count: Int) -> [UInt8]? {
        guard count >= 0, rest.count >= count else { return nil }
        defer { rest = rest.dropFirst(count) }
        return Array(rest.prefix(count))
    }

    mutating func lengthPrefixed() -> [UInt8]? {
        guard let length = take(4) else { return nil }
        return take(length.reversed().reduce(0) { $0 << 8 | Int($1) })
    }

    mutating func field() -> NamespaceIdentity.Field? {
        guard let type = byte(), let bytes = lengthPrefixed() else { return nil }
        switch (type, bytes.count) {
        case (1, _): return String(validating: bytes, as: UTF8.self).map { .string($0) }
        case (2, 8): return .integer(Int64(bitPattern: bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }))
        case (3, 1) where bytes[0] <= 1: return .boolean(bytes[0] == 1)
        case (4, _): return .bytes(bytes)
        default: return nil
        }
    }

    mutating func map() -> [String: NamespaceIdentity.Field]? {
        guard byte() == 5, let bytes = lengthPrefixed() else { return nil }
        var entries = CanonicalDecoding(bytes[...])
        var map: [String: NamespaceIdentity.Field] = [:]
        while !entries.isAtEnd {
            guard let key = entries.lengthPrefixed().flatMap({ String(validating: $0, as: UTF8.self) }),
                map[key] == nil, let field = entries.field()
            else { return nil }
            map[key] = field
        }
        return map
    }
}
