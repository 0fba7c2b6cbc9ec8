/// What a frame asks for. Raw values are part of the protocol and never change; see WireProtocol in the documentation.
package enum Verb: UInt16, CaseIterable, Sendable {
    case hello = 1
    case openNamespace = 2
    case match = 3
    case acquire = 4
    case release = 5
    case renew = 6
    case reserve = 7
    case commit = 8
    case abandon = 9
    case get = 10
    case put = 11
    case prefetch = 12
    case pin = 13
    case unpin = 14
    case remove = 15
    case purge = 16
    case flush = 17
    case statistics = 18
    case namespaces = 19
    case health = 20
    case ping = 21
    case drain = 22
    /// An event of the daemon: descriptors come with it.
    case regions = 64

    /// Verbs whose requests get no reply: they give something back, and a round trip for that would double its cost.
    package var isOneWay: Bool {
        switch self {
        case .release, .abandon, .prefetch: true
        default: false
        }
    }

    /// Whether the request names the blocks of a prompt.
    package var namesPrefix: Bool {
        switch self {
        case .match, .acquire, .reserve, .get, .put, .prefetch, .pin, .unpin, .remove: true
        default: false
        }
    }

    /// Who may use it.
    package var permission: Permission {
        switch self {
        case .hello, .health, .ping: .anybody
        case .drain: .operatorOnly
        // Own or everything: the request says which, and the session machine decides.
        case .purge, .statistics, .namespaces, .flush: .tenantOrOperator
        default: .tenant
        }
    }

    package enum Permission: Sendable {
        case anybody
        case tenant
        case tenantOrOperator
        case operatorOnly
    }

    /// The longest body of a request, before anything is allocated for it.
    ///
    /// - Parameter largestBlockByteCount: of the namespaces that the session opened; bounds what an inline put may carry.
    package func requestLimit(largestBlockByteCount: Int) -> Int {
        switch self {
        case .put: WireLimits.prefixBodyByteCount + largestBlockByteCount
        case _ where namesPrefix: WireLimits.prefixBodyByteCount
        default: WireLimits.bodyByteCount
        }
    }
}

/// Bounds of the protocol.
package enum WireLimits {
    /// A request that names a prompt: a 128k-token prompt takes 512 KiB as tokens, 256 KiB as keys of 16-token blocks.
    package static let prefixBodyByteCount = 4 << 20
    /// Keys of one prompt, with room for what stands before them.
    package static let keysPerRequest = prefixBodyByteCount / 32 - 8
    /// Any reply: the longest carries a block inline.
    package static let replyByteCount = (1 << 30) + (64 << 10)
    /// Every other request.
    package static let bodyByteCount = 64 << 10
    /// Namespaces of one session.
    package static let namespaces = 64
    /// Leases of one session.
    package static let leases = 65_536
    /// Blocks under all leases of one session: what is noted of each lies outside the cap. A little more with the last.
    package static let leasedBlocks = 262_144
    /// Reservations of one session.
    package static let reservations = 64
    /// Descriptors in one event; the kernel allows 253.
    package static let descriptorsPerEvent = 64
    /// Bytes of a client's name, a token, an error's text.
    package static let nameByteCount = 64
    package static let tokenByteCount = 1024
    package static let messageByteCount = 1024
}
