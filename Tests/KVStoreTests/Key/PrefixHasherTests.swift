import KVStore
import Testing

@Suite("Block keys")
struct PrefixHasherTests {
    static let hasher = PrefixHasher(NamespaceIdentityTests.example)
    static let tokens = (0..<40).map { UInt32(truncatingIfNeeded: $0 * 1_000_003) }

    // Made by a separate Python program from the formulas in PrefixHasher's comment, with hashlib.sha256.
    @Test("keys are what they were in the first version")
    func golden() {
        #expect(
            Self.hasher.keys(tokens: Self.tokens).map { hex($0.bytes) } == [
                "a2792a5af67e8d2116188f3e999c1b0adc2736cf8d3ab77419d657538584004f",
                "697ae274824e9e7c6f25122f153f8b190421f7face2cfb0f0239ff8d2f69ebf3",
            ]
        )
        let withImage = Self.hasher.keys(tokens: Self.tokens, extra: [1: Array("image:7".utf8)])
        #expect(hex(withImage[1].bytes) == "81039b9b477690039f3f6fd93ac32b2b24e422de37500124b545abc2cf72205b")
        #expect(
            hex(Self.hasher.key(callerKey: Array("doc-1".utf8)).bytes)
                == "787bf48475e45815cfdf74aedbd46baf24a87a9783da14132256b4e8d6f9488b"
        )
    }

    @Test("only full blocks have keys")
    func fullBlocksOnly() {
        for count in [0, 1, 15, 16, 17, 31, 32, 40] {
            #expect(Self.hasher.keys(tokens: Array(Self.tokens.prefix(count))).count == count / 16, "\(count) tokens")
        }
    }

    @Test("a sequence that grows block by block gets the keys of the whole prompt")
    func incremental() {
        let whole = Self.hasher.keys(tokens: Self.tokens, extra: [0: [9], 1: [8, 7]])
        let first = Self.hasher.key(after: Self.hasher.fingerprint, tokens: Array(Self.tokens[..<16]), extra: [9])
        let second = Self.hasher.key(after: first, tokens: Array(Self.tokens[16..<32]), extra: [8, 7])
        #expect(whole == [first, second])
    }

    @Test("a changed token changes its block's key and all after it, and none before")
    func changesSpreadForward() {
        let tokens = (0..<64).map { UInt32($0) }
        let keys = Self.hasher.keys(tokens: tokens)
        for position in tokens.indices {
            var changed = tokens
            changed[position] ^= 0x8000_0000
            let others = Self.hasher.keys(tokens: changed)
            for block in keys.indices { #expect((keys[block] == others[block]) == (block < position / 16)) }
        }
    }

    @Test("extra bytes of a block change its key and all after it; none and empty are the same")
    func extra() {
        let plain = Self.hasher.keys(tokens: Self.tokens)
        #expect(Self.hasher.keys(tokens: Self.tokens, extra: [0: [], 1: []]) == plain)
        let first = Self.hasher.keys(tokens: Self.tokens, extra: [0: [1]])
        #expect(first[0] != plain[0] && first[1] != plain[1])
        let second = Self.hasher.keys(tokens: Self.tokens, extra: [1: [1]])
        #expect(second[0] == plain[0] && second[1] != plain[1])
        // Of a block that is not full, or not there, nothing is hashed.
        #expect(Self.hasher.keys(tokens: Self.tokens, extra: [2: [1], 99: [1]]) == plain)
        let long = Self.hasher.keys(tokens: Self.tokens, extra: [1: [UInt8](repeating: 1, count: 5_000)])
        #expect(long[0] == plain[0] && Set(long + plain + second).count == 4)
    }

    @Test("tokens, extra bytes and caller's keys cannot stand in for each other")
    func noAmbiguity() {
        let fingerprint = Self.hasher.fingerprint
        let short = PrefixHasher(fingerprint: fingerprint, tokensPerBlock: 1)
        let long = PrefixHasher(fingerprint: fingerprint, tokensPerBlock: 2)
        var keys: Set<BlockKey> = []
        keys.insert(short.keys(tokens: [7], extra: [0: [1, 0, 0, 0]])[0])
        keys.insert(long.keys(tokens: [7, 1])[0])
        keys.insert(long.keys(tokens: [7, 0], extra: [0: [1, 0, 0, 0]])[0])
        keys.insert(short.key(callerKey: [7]))
        keys.insert(short.key(callerKey: [7, 0]))
        keys.insert(short.key(callerKey: [7, 0, 0, 0]))
        keys.insert(fingerprint)
        #expect(keys.count == 7)
    }

    @Test("every identity change changes every key, and the same identity makes the same keys")
    func identityReachesKeys() {
        let keys = Self.hasher.keys(tokens: Self.tokens)
        #expect(PrefixHasher(NamespaceIdentityTests.example).keys(tokens: Self.tokens) == keys)
        for change in NamespaceIdentityTests.changes {
            var identity = NamespaceIdentityTests.example
            change.apply(&identity)
            let hasher = PrefixHasher(fingerprint: identity.fingerprint, tokensPerBlock: 16)
            #expect(Set(hasher.keys(tokens: Self.tokens)).isDisjoint(with: keys), "\(change.name)")
            #expect(hasher.key(callerKey: [1]) != Self.hasher.key(callerKey: [1]), "\(change.name)")
        }
    }

    @Test("a block of the wrong length, an empty or too long caller's key, and no tokens in a block are caller bugs")
    func preconditions() async {
        await #expect(processExitsWith: .failure) {
            let hasher = PrefixHasher(
                fingerprint: BlockKey(bytes: [UInt8](repeating: 1, count: 32))!,
                tokensPerBlock: 16
            )
            _ = hasher.key(after: hasher.fingerprint, tokens: [1, 2, 3])
        }
        await #expect(processExitsWith: .failure) {
            let hasher = PrefixHasher(
                fingerprint: BlockKey(bytes: [UInt8](repeating: 1, count: 32))!,
                tokensPerBlock: 16
            )
            _ = hasher.key(callerKey: [])
        }
        await #expect(processExitsWith: .failure) {
            let hasher = PrefixHasher(
                fingerprint: BlockKey(bytes: [UInt8](repeating: 1, count: 32))!,
                tokensPerBlock: 16
            )
            _ = hasher.key(callerKey: [UInt8](repeating: 1, count: 256))
        }
        await #expect(processExitsWith: .failure) {
            _ = PrefixHasher(fingerprint: BlockKey(bytes: [UInt8](repeating: 1, count: 32))!, tokensPerBlock: 0)
        }
    }
}
