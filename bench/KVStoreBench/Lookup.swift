import ArgumentParser
import Crypto
import KVStore

/// Hashing and looking up a prompt of 128k tokens, against the same hashes without a lookup.
struct Lookup: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Hash and look up 8192 blocks of 16 tokens, against 8192 chained SHA-256 calls.",
        discussion: """
            A prompt of 131,072 tokens whose blocks are all in memory. Ours: make the keys and match them. The reference: \
            as many SHA-256 calls over as many bytes, each fed with the digest before it. lookupVsBareHash is what finding \
            the blocks costs on top of naming them.
            """
    )
    @OptionGroup var output: Output

    func run() throws {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 256 << 20))
        let space = try store.namespace(
            NamespaceIdentity(model: "bench", elementType: .bf16, opaqueBlockByteCount: 4096, tokensPerBlock: 16)
        )
        let tokens = (0..<131_072).map { UInt32($0 &* 2_654_435_761 & 0xFFFF) }
        let stored = space.prefix(tokens: tokens)
        store.store(stored) { _, _ in }
        precondition(store.match(stored).count == 8192)
        var (lookups, hashes): ([Double], [Double]) = ([], [])
        for _ in 0..<output.pairs {
            lookups.append(
                Sample.measure(count: 1) { precondition(store.match(space.prefix(tokens: tokens)).count == 8192) }
            )
            hashes.append(Sample.measure(count: 1) { Self.bareHashes(count: 8192) })
        }
        let (lookup, bare) = (Sample(nanoseconds: lookups), Sample(nanoseconds: hashes))
        try output.show(
            Report(
                conditions: ["8192 blocks of 16 tokens, all in memory; \(output.pairs) rounds"],
                rows: [("keys + match", lookup), ("8192 chained SHA-256 of as many bytes", bare)],
                comparisons: [Comparison("lookupVsBareHash", lookup, over: bare)]
            )
        )
    }

    /// The same number of SHA-256 calls over as many bytes, each fed with the digest before it.
    private static func bareHashes(count: Int) {
        var block = [UInt8](repeating: 7, count: 1 + 32 + 4 + 64 + 4)
        for _ in 0..<count {
            var hasher = SHA256()
            block.withUnsafeBytes { hasher.update(bufferPointer: $0) }
            let digest = hasher.finalize()
            digest.withUnsafeBytes { bytes in
                block.withUnsafeMutableBytes { target in
                    UnsafeMutableRawBufferPointer(rebasing: target[1..<33]).copyMemory(from: bytes)
                }
            }
        }
    }
}
