internal import Crypto
internal import KVStore

/// The engine's side of the store: what this model's blocks are called, and loads and saves that never fail a request.
final class PrefixCache {
    private let cache: any BlockCache
    private let identity: NamespaceIdentity
    private var opened: Namespace?

    /// - Throws: when this model's blocks can never be stored. A daemon that is away is looked for again later.
    init(_ cache: any BlockCache, model: LlamaModel, tokensPerBlock: Int) throws {
        self.cache = cache
        identity = Self.identity(of: model, tokensPerBlock: tokensPerBlock)
        do {
            opened = try cache.namespace(identity)
        } catch {
            guard error.code == .unavailable else { throw error }
        }
    }

    /// Everything that K and V depend on. The instruction set is part of it because the last bit of a sum depends on it.
    static func identity(of model: LlamaModel, tokensPerBlock: Int) -> NamespaceIdentity {
        let shape = model.configuration
        let digest = model.weightsDigest.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        return NamespaceIdentity(
            model: "SwiftLlama", revision: digest, elementType: .bf16, layers: shape.layers,
            keyHeads: shape.keyValueHeads, keyHeadDimension: shape.headDimension, tokensPerBlock: tokensPerBlock,
            additional: [
                "shape": .string(shape.numbersText),
                "arithmetic": .string("1 \(Kernels.instructionSet)"),
            ])
    }

    /// A lease on the stored blocks at the head of `tokens`; nil when there are none, whatever the reason.
    func acquire(_ tokens: some Collection<UInt32>, memoryOnly: Bool = false) -> BlockLease? {
        guard let namespace else { return nil }
        return cache.acquire(namespace.prefix(tokens: Array(tokens)), memoryOnly: memoryOnly)
    }

    /// Stores those full blocks of `tokens` that are missing. Returns how many became visible: fewer than missing when
    /// the store is full, none when it is away.
    @discardableResult
    func store(_ tokens: some Collection<UInt32>, from table: BlockTable) -> Int {
        guard let namespace else { return 0 }
        return cache.store(namespace.prefix(tokens: Array(tokens))) { number, slot in
            table.withBytes(at: number) { slot.copy($0) }
        }
    }

    private var namespace: Namespace? {
        if opened == nil { opened = try? cache.namespace(identity) }
        return opened
    }
}

extension MutableRawSpan {
    /// Copies all of `bytes` to the start.
    mutating func copy(_ bytes: RawSpan) {
        precondition(bytes.byteCount <= byteCount, "too many bytes")
        // Safe: both are `bytes.byteCount` long at least, and a slot is never a page.
        unsafe withUnsafeMutableBytes { to in unsafe bytes.withUnsafeBytes { unsafe to.copyMemory(from: $0) } }
    }
}

/// SHA-256 of bytes as text.
func digest(_ bytes: RawSpan) -> String {
    var hasher = SHA256()
    // Safe: the hasher reads during this call only.
    unsafe bytes.withUnsafeBytes { unsafe hasher.update(bufferPointer: $0) }
    return text(hasher.finalize())
}

func text(_ digest: SHA256.Digest) -> String {
    digest.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}
