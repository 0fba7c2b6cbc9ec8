package import KVStore

/// A request that was understood and is allowed: what the server has to do.
package enum SessionRequest: Hashable, Sendable {
    case hello(HelloRequest)
    case openNamespace(NamespaceIdentity)
    case match(PrefixRequest)
    case acquire(PrefixRequest)
    case release([UInt64])
    /// Regions that the client has unmapped.
    case renew(unmapped: [UInt32])
    case reserve(PrefixRequest)
    case commit(UInt64)
    case abandon(UInt64)
    case get(PrefixRequest)
    case put(PrefixRequest)
    case prefetch(PrefixRequest)
    case pin(PrefixRequest)
    case unpin(PrefixRequest)
    case remove(PrefixRequest)
    /// Nil: the session's own tenant.
    case purge(tenant: String?)
    case flush
    /// Of every tenant, or of the session's own; with how many of the hottest prefixes.
    case statistics(everything: Bool, hottest: Int)
    case namespaces(everything: Bool)
    case health
    case ping([UInt8])
    case drain
}

extension SessionRequest {
    /// Reads a body. Nil when it is not what the verb's layout says.
    init?(_ verb: Verb, _ body: [UInt8]) {
        switch verb {
        case .hello:
            guard let hello = HelloRequest(body) else { return nil }
            self = .hello(hello)
        case .openNamespace:
            guard let identity = NamespaceIdentity(canonicalEncoding: body) else { return nil }
            self = .openNamespace(identity)
        case .match, .acquire, .reserve, .get, .put, .prefetch, .pin, .unpin, .remove:
            guard let prefix = PrefixRequest(body, verb: verb) else { return nil }
            self = Self.named(verb, prefix)
        case .release:
            guard let ids = NumberList.uint64s(body) else { return nil }
            self = .release(ids)
        case .renew:
            guard let ids = NumberList.uint32s(body) else { return nil }
            self = .renew(unmapped: ids)
        case .commit, .abandon:
            guard let id = NumberList.uint64(body) else { return nil }
            self = verb == .commit ? .commit(id) : .abandon(id)
        case .purge:
            var reader = WireReader(body)
            guard let tenant = reader.text(limit: 4096), reader.isAtEnd else { return nil }
            self = .purge(tenant: tenant.isEmpty ? nil : tenant)
        case .statistics:
            var reader = WireReader(body)
            guard let scope = reader.uint8(), scope <= 1, let hottest = reader.uint16(), reader.isAtEnd else {
                return nil
            }
            self = .statistics(everything: scope == 1, hottest: Int(hottest))
        case .namespaces:
            guard body.count == 1, body[0] <= 1 else { return nil }
            self = .namespaces(everything: body[0] == 1)
        case .flush, .health, .drain:
            guard body.isEmpty else { return nil }
            self = verb == .flush ? .flush : verb == .health ? .health : .drain
        case .ping: self = .ping(body)
        case .regions: return nil
        }
    }

    private static func named(_ verb: Verb, _ prefix: PrefixRequest) -> SessionRequest {
        switch verb {
        case .match: .match(prefix)
        case .acquire: .acquire(prefix)
        case .reserve: .reserve(prefix)
        case .get: .get(prefix)
        case .put: .put(prefix)
        case .prefetch: .prefetch(prefix)
        case .pin: .pin(prefix)
        case .unpin: .unpin(prefix)
        default: .remove(prefix)
        }
    }

    /// The prompt that the request names.
    package var prefix: PrefixRequest? {
        switch self {
        case .match(let prefix), .acquire(let prefix), .reserve(let prefix), .get(let prefix), .put(let prefix),
            .prefetch(let prefix), .pin(let prefix), .unpin(let prefix), .remove(let prefix):
            prefix
        default: nil
        }
    }
}
