import KVStore

/// Prompts that several processes know: by number, with the same first blocks, in three namespaces of one block size
/// each. What a block holds follows from its key, so whoever reads it can tell whether it is right.
public struct SharedPrompts {
    /// Prompts there are.
    public static let count = 60
    /// The same in every namespace.
    public static let tokensPerBlock = 16
    /// Blocks that all prompts of a namespace begin with.
    public static let headCount = 3

    /// The namespaces.
    public let spaces: [Namespace]

    /// Opens the namespaces.
    public init(_ cache: any BlockCache) throws {
        spaces = try [16 << 10, 64 << 10, 256 << 10].enumerated().map { number, byteCount in
            var identity = NamespaceIdentity(
                model: "prompts-\(number)",
                opaqueBlockByteCount: byteCount,
                tokensPerBlock: Self.tokensPerBlock
            )
            identity.additional["purpose"] = "tests"
            return try cache.namespace(identity)
        }
    }

    /// A prompt by its number, which is below `count`; its namespace and its length follow from it.
    public func prefix(_ number: Int) -> Prefix {
        let blocks = Self.headCount + 1 + number % 7
        let tokens = (0..<blocks * Self.tokensPerBlock).map { place -> UInt32 in
            place < Self.headCount * Self.tokensPerBlock ? UInt32(place) : UInt32(1000 + number * 1000 + place)
        }
        return spaces[number % spaces.count].prefix(tokens: tokens)
    }
}
