import KVStore

/// A multi-turn chat of the crash tests: a shared head of two blocks, then one block per turn.
///
/// Everything about it follows from its number, so that the process that stores and the one that checks agree. A turn
/// that was removed and stored again holds other bytes (its version went up), so that bytes from before the removal
/// are told from those after it.
public struct Conversation: Sendable {
    /// Blocks that every conversation of a head begins with.
    public static let headCount = 2
    /// A conversation has at most this many turns.
    public static let turnLimit = 12
    /// Block sizes of the namespaces; the first and the last belong to one tenant.
    public static let blockSizes = [4096, 16384, 65536]

    /// Names the conversation.
    public let id: Int
    /// Version of each turn: how often it was removed.
    public var versions = [UInt64](repeating: 0, count: turnLimit)
    /// Turns that are known to have been stored.
    public var turns = 0

    /// A conversation without a turn.
    public init(id: Int) { self.id = id }

    /// Which namespace it is in.
    public var space: Int { id % Self.blockSizes.count }
    /// Bytes of one block.
    public var blockBytes: Int { Self.blockSizes[space] }

    /// The namespaces of all conversations.
    public static func namespaces(of store: BlockStore) throws -> [Namespace] {
        try blockSizes.enumerated().map { number, size in
            try store.namespace(.test(tenant: "tenant\(number % 2)", model: "model\(number)", blockBytes: size))
        }
    }

    /// The keys up to and including turn `turns - 1`.
    public func prefix(_ spaces: [Namespace], turns: Int = turnLimit) -> Prefix {
        let head = 1000 + id / Self.blockSizes.count % 4 * 10
        return spaces[space].prefix([head, head + 1] + (0..<turns).map { 1_000_000 + id * 64 + $0 })
    }

    /// The version of a block by its number in the prefix.
    public func version(ofBlock number: Int) -> UInt64 {
        number < Self.headCount ? 0 : versions[number - Self.headCount]
    }

    /// One line of text, and back.
    public var line: String { "\(id) \(turns) " + versions.map(String.init).joined(separator: ",") }

    /// Reads what `line` wrote.
    public init?(line: some StringProtocol) {
        let words = line.split(separator: " ")
        guard words.count == 3, let id = Int(words[0]), let turns = Int(words[1]) else { return nil }
        self.id = id
        self.turns = turns
        versions = words[2].split(separator: ",").compactMap { UInt64($0) }
        guard versions.count == Self.turnLimit else { return nil }
    }
}
