/// Who a client is, decided once, when it says hello: by the uid that the kernel tells, or by a token. Never by a field
/// that a client could choose.
///
/// Pure: files were read before, so the whole table can be tested by table.
package struct TenantTable: Sendable {
    /// One tenant as connections see it.
    package struct Entry: Sendable {
        /// Its name.
        package var name: String
        /// Users that are this tenant.
        package var userIDs: Set<UInt32>
        /// The content of its token file, if it has one.
        package var token: Secret?
        /// What makes its keys its own.
        package var salt: Secret

        package init(name: String, userIDs: Set<UInt32>, token: Secret?, salt: Secret) {
            self.name = name
            self.userIDs = userIDs
            self.token = token
            self.salt = salt
        }
    }

    /// What a connection may do.
    package struct Admission: Sendable {
        /// Whose blocks it reads and writes; nil for an operator without a tenant of its own.
        package var tenant: Entry?
        /// Whether it may use the operator's verbs.
        package var isOperator: Bool
    }

    /// Why a peer is refused. Says nothing about which tenants there are.
    package enum Refusal: Error, Hashable, CustomStringConvertible {
        /// The token is nobody's.
        case unknownToken
        /// The user is nobody's.
        case noTenant(userID: UInt32)

        /// For the client and the log.
        package var description: String {
            switch self {
            case .unknownToken: "the token is not known to the daemon"
            case .noTenant(let userID): "uid \(userID) has no tenant; add it to one, or send a token"
            }
        }
    }

    /// The tenants.
    package var entries: [Entry]
    /// The tenant of peers that have none; nil refuses them.
    package var publicEntry: Entry?
    /// These users are operators.
    package var operatorUserIDs: Set<UInt32>
    /// Members of this group are operators.
    package var operatorGroupID: UInt32?

    package init(
        entries: [Entry],
        publicEntry: Entry? = nil,
        operatorUserIDs: Set<UInt32>,
        operatorGroupID: UInt32? = nil
    ) {
        self.entries = entries
        self.publicEntry = publicEntry
        self.operatorUserIDs = operatorUserIDs
        self.operatorGroupID = operatorGroupID
    }

    /// Decides. A token that is sent must be right, whoever sends it; without one the uid decides, then the public tenant.
    package func admit(_ peer: PeerCredentials, token: [UInt8]?) throws(Refusal) -> Admission {
        let isOperator =
            operatorUserIDs.contains(peer.userID)
            || operatorGroupID.map { $0 == peer.groupID || peer.groupIDs.contains($0) } ?? false
        if let token, !token.isEmpty {
            guard let entry = entry(withToken: token) else { throw .unknownToken }
            return Admission(tenant: entry, isOperator: isOperator)
        }
        if let entry = entries.first(where: { $0.userIDs.contains(peer.userID) }) ?? publicEntry {
            return Admission(tenant: entry, isOperator: isOperator)
        }
        guard isOperator else { throw .noTenant(userID: peer.userID) }
        return Admission(tenant: nil, isOperator: true)
    }

    /// Compares with every token there is, whole, so that the time taken tells nothing.
    private func entry(withToken token: [UInt8]) -> Entry? {
        var found: Int?
        for (index, entry) in entries.enumerated() where entry.token?.isEqual(to: token) == true { found = index }
        return found.map { entries[$0] }
    }
}

/// Bytes that are never printed.
package struct Secret: Sendable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    /// The bytes themselves.
    package let bytes: [UInt8]
    package init(_ bytes: [UInt8]) { self.bytes = bytes }

    /// Compares without an early end: the time depends on the length of what was sent, not on where it differs.
    package func isEqual(to other: [UInt8]) -> Bool {
        guard !bytes.isEmpty else { return false }
        var difference = UInt8(bytes.count == other.count ? 0 : 1)
        for index in other.indices { difference |= bytes[index % bytes.count] ^ other[index] }
        return difference == 0
    }

    /// Not the bytes.
    package var description: String { "hidden" }
    /// Not the bytes.
    package var debugDescription: String { "hidden" }
    /// Not the bytes.
    package var customMirror: Mirror { Mirror(self, children: []) }
}
