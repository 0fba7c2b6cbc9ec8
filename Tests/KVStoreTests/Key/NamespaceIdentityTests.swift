import KVStore
import Testing

@Suite("Namespace identity")
struct NamespaceIdentityTests {
    static let example = NamespaceIdentity(
        model: "meta-llama/Llama-3.1-8B",
        revision: "0e9e39f",
        layers: 32,
        keyHeads: 8,
        keyHeadDimension: 128,
        tokensPerBlock: 16,
        tensorParallelRank: 1,
        tensorParallelSize: 4,
        pipelineParallelRank: 0,
        pipelineParallelSize: 2,
        adapter: "sql-lora",
        tenant: "org_1",
        salt: [0, 1] + Array("secret".utf8),
        additional: ["weights": .bytes([0xDE, 0xAD]), "rope": "yarn", "scale": -2, "sink": true]
    )

    typealias Change = (name: String, apply: @Sendable (inout NamespaceIdentity) -> Void)

    /// One entry for each field, and some for what a field's type must tell apart.
    static let changes: [Change] = [
        ("model", { $0.model = "meta-llama/Llama-3.1-8b" }),
        ("revision", { $0.revision = "0e9e39e" }),
        ("elementType", { $0.elementType = .fp16 }),
        ("layers", { $0.layers = 31 }),
        ("keyHeads", { $0.keyHeads = 4 }),
        ("valueHeads", { $0.valueHeads = 4 }),
        ("keyHeadDimension", { $0.keyHeadDimension = 64 }),
        ("valueHeadDimension", { $0.valueHeadDimension = 64 }),
        ("tokensPerBlock", { $0.tokensPerBlock = 32 }),
        ("tensorParallelRank", { $0.tensorParallelRank = 2 }),
        ("tensorParallelSize", { $0.tensorParallelSize = 8 }),
        ("pipelineParallelRank", { $0.pipelineParallelRank = 1 }),
        ("pipelineParallelSize", { $0.pipelineParallelSize = 3 }),
        ("layoutTag", { $0.layoutTag = "LKHTD" }),
        ("adapter", { $0.adapter = "" }),
        ("tenant", { $0.tenant = "org_2" }),
        ("salt", { $0.salt[0] ^= 1 }),
        ("additional: a value", { $0.additional["rope"] = "linear" }),
        ("additional: a name", { $0.additional["Rope"] = $0.additional.removeValue(forKey: "rope") }),
        ("additional: one more", { $0.additional["isa"] = "avx2" }),
        ("additional: one less", { $0.additional["rope"] = nil }),
        ("additional: empty instead of absent", { $0.additional["empty"] = "" }),
        ("additional: text instead of an integer", { $0.additional["scale"] = "-2" }),
        ("additional: an integer instead of a boolean", { $0.additional["sink"] = 1 }),
        ("additional: text instead of bytes", { $0.additional["rope"] = .bytes(Array("yarn".utf8)) }),
        ("opaqueBlockByteCount", { $0.opaqueBlockByteCount = $0.blockByteCount }),
        ("storage", { $0.storage = .int8 }),
    ]

    @Test("the same fields give the same fingerprint, whatever the order they were set in")
    func sameFieldsSameFingerprint() {
        var other = Self.example
        other.additional = [:]
        for name in ["sink", "scale", "rope", "weights"] { other.additional[name] = Self.example.additional[name] }
        #expect(other == Self.example)
        #expect(other.hashValue == Self.example.hashValue)
        #expect(other.fingerprint == Self.example.fingerprint)
    }

    @Test("changing any one field changes the fingerprint, and no two changes meet")
    func everyFieldCounts() {
        var seen = [Self.example.fingerprint: "nothing"]
        for change in Self.changes {
            var changed = Self.example
            change.apply(&changed)
            #expect(changed != Self.example, "\(change.name)")
            let earlier = seen.updateValue(change.name, forKey: changed.fingerprint)
            #expect(earlier == nil, "\(change.name) is taken for \(earlier ?? "")")
            // Changing it back is the positive half: a hash that is never equal would pass the rest.
            changed = Self.example
            #expect(changed.fingerprint == Self.example.fingerprint)
        }
    }

    @Test("the table of changes has every stored property")
    func tableIsComplete() {
        let names = Self.changes.map(\.name)
        let properties = [
            "model", "revision", "elementType", "layers", "keyHeads", "valueHeads", "keyHeadDimension",
            "valueHeadDimension", "tokensPerBlock", "tensorParallelRank", "tensorParallelSize", "pipelineParallelRank",
            "pipelineParallelSize", "layoutTag", "adapter", "tenant", "salt", "additional", "opaqueBlockByteCount",
            "storage",
        ]
        for property in properties { #expect(names.contains { $0.hasPrefix(property) }, "\(property)") }
        // Five strings, the element type, ten integers, salt, map, an optional integer and the storage: a new field
        // changes the size, and then belongs into the table and into the encoding.
        #expect(MemoryLayout<NamespaceIdentity>.size == 5 * 16 + 8 + 10 * 8 + 8 + 8 + 9 + 1)
    }

    @Test("every element type has a fingerprint of its own")
    func elementTypes() {
        let fingerprints = ElementType.allCases.map { type in
            var identity = Self.example
            identity.elementType = type
            return identity.fingerprint
        }
        #expect(Set(fingerprints).count == ElementType.allCases.count)
        #expect(ElementType.allCases.map(\.rawValue) == [0, 1, 2, 3, 4, 5, 6])
    }

    @Test("moving bytes from one field to its neighbour is another identity")
    func ambiguity() {
        func identity(adapter: String = "", tenant: String, salt: String) -> NamespaceIdentity {
            var identity = Self.example
            (identity.adapter, identity.tenant, identity.salt) = (adapter, tenant, Array(salt.utf8))
            return identity
        }
        #expect(
            identity(tenant: "org_1", salt: "2345").fingerprint != identity(tenant: "org_12345", salt: "").fingerprint
        )
        #expect(
            identity(adapter: "sql-lora", tenant: "", salt: "").fingerprint
                != identity(tenant: "", salt: "sql-lora").fingerprint
        )
        #expect(
            identity(adapter: "a", tenant: "a", salt: "").fingerprint
                != identity(adapter: "", tenant: "a", salt: "a").fingerprint
        )
    }

    @Test("100,000 ways to cut texts into adapter, tenant and salt are 100,000 identities")
    func randomSplits() {
        var random = RecordRandom(seed: 25)
        var splits = 0
        // Tags, types and zero bytes, so that a cut can look like the encoding itself.
        let alphabet: [UInt8] = [0, 1, 2, 4, 15, 16, 17, 48, 49, 95, 97]
        while splits < 100_000 {
            let text = (0..<45).map { _ in alphabet.randomElement(using: &random)! }
            var encodings: Set<[UInt8]> = []
            var expected = 0
            for first in 0...text.count {
                for second in first...text.count {
                    var identity = NamespaceIdentity(model: "m", opaqueBlockByteCount: 1, tokensPerBlock: 1)
                    identity.adapter = String(decoding: text[..<first], as: UTF8.self)
                    identity.tenant = String(decoding: text[first..<second], as: UTF8.self)
                    identity.salt = Array(text[second...])
                    encodings.insert(identity.canonicalEncoding)
                    expected += 1
                }
            }
            #expect(encodings.count == expected)
            splits += expected
        }
    }

    @Test("text that looks the same but has other bytes is another identity, also to ==")
    func unicode() {
        var composed = Self.example
        composed.tenant = "caf\u{E9}"
        var decomposed = Self.example
        decomposed.tenant = "cafe\u{301}"
        #expect(composed.tenant == decomposed.tenant)
        #expect(composed != decomposed)
        #expect(composed.fingerprint != decomposed.fingerprint)
        #expect(composed.tenantHash != decomposed.tenantHash)
    }

    // Made by a separate Python program from the comments in NamespaceIdentity+Fingerprint.swift, with hashlib.sha256 and
    // struct.pack. A change here makes every stored block unreachable.
    @Test("fingerprints are what they were in the first version")
    func golden() {
        #expect(
            hex(Self.example.fingerprint.bytes) == "36019a9dcb087876d8f0ca4746cf026da55c906ef3569306276eecaa800d4fee"
        )
        var opaque = Self.example
        opaque.opaqueBlockByteCount = 4096
        #expect(hex(opaque.fingerprint.bytes) == "a4faa5a48a816989cfc8b6d04596d4acdf345f60f5cf1b690780100ce01f5af0")
        #expect(Self.example.tenantHash == 0xE79_1677_A0C7_0247)
    }

    @Test("a tenant's number does not depend on its salt, model or adapter")
    func tenantHash() {
        var other = NamespaceIdentity(model: "other", opaqueBlockByteCount: 1, tokensPerBlock: 1)
        other.tenant = Self.example.tenant
        #expect(other.tenantHash == Self.example.tenantHash)
        other.tenant = "org_2"
        #expect(other.tenantHash != Self.example.tenantHash)
    }

    @Test("the block's size follows from the shape")
    func blockByteCount() {
        #expect(Self.example.blockByteCount == 32 * 2 * 8 * 128 * 16 * 2)
        var latent = Self.example
        (latent.keyHeads, latent.keyHeadDimension, latent.valueHeadDimension) = (1, 576, 0)
        #expect(latent.blockByteCount == 32 * 576 * 16 * 2)
        #expect(throws: Never.self) { try latent.validate() }
        let opaque = NamespaceIdentity(model: "m", opaqueBlockByteCount: 12_345, tokensPerBlock: 16)
        #expect(opaque.blockByteCount == 12_345)
        #expect(throws: Never.self) { try opaque.validate() }
        var huge = Self.example
        (huge.layers, huge.keyHeads, huge.keyHeadDimension) = (.max, .max, .max)
        #expect(huge.blockByteCount == .max)
    }

    @Test("validation names every problem at once")
    func validation() throws {
        #expect(throws: Never.self) { try Self.example.validate() }
        var wrong = Self.example
        wrong.model = ""
        wrong.layers = 70_000
        wrong.keyHeads = -1
        wrong.valueHeads = 0
        wrong.tensorParallelRank = 4
        wrong.pipelineParallelSize = 0
        wrong.tenant = String(repeating: "t", count: 4_097)
        wrong.salt = [UInt8](repeating: 7, count: 1_025)
        wrong.additional["long"] = .bytes([UInt8](repeating: 0, count: 4_097))
        let error = try #require(throws: KVStoreError.self) { try wrong.validate() }
        #expect(error.code == .invalidArgument)
        let expected = [
            "model is empty", "layers is 70000", "keyHeads is -1", "valueHeads is 0", "tensorParallelRank is 4",
            "pipelineParallelSize is 0", "tenant has 4097 bytes", "salt has 1025 bytes", "additional[\"long\"]",
        ]
        for text in expected { #expect(error.message.contains(text), "\(text)") }
    }

    @Test("a block must have a size, of at most 1 GiB")
    func sizeBounds() {
        var identity = Self.example
        identity.elementType = .opaque
        #expect(throws: KVStoreError.self) { try identity.validate() }
        for (byteCount, isAllowed) in [(0, false), (1, true), (1 << 30, true), ((1 << 30) + 1, false), (-1, false)] {
            identity.opaqueBlockByteCount = byteCount
            #expect(((try? identity.validate()) != nil) == isAllowed, "\(byteCount)")
        }
        identity = Self.example
        (identity.layers, identity.tokensPerBlock) = (65_535, 65_535)
        #expect(throws: KVStoreError.self) { try identity.validate() }
    }

    @Test("the salt is never printed")
    func saltIsHidden() throws {
        var identity = Self.example
        identity.salt = Array("hunter2".utf8)
        identity.layers = 0
        var printed = ["\(identity)", String(reflecting: identity), "\([identity])", "\(Optional(identity) as Any)"]
        var dumped = ""
        dump(identity, to: &dumped)
        dump(["x": identity], to: &dumped)
        printed.append(dumped)
        printed.append("\(Mirror(reflecting: identity).children.map { "\($0)" })")
        printed.append("\(try #require(throws: KVStoreError.self) { try identity.validate() })")
        for text in printed {
            #expect(!text.contains("hunter2"))
            #expect(!text.contains("104, 117") && !text.contains("68756e") && !text.contains("- 104"))
        }
        #expect(printed[0].contains("salt: hidden") && printed[0].contains("meta-llama"))
    }
}

func hex(_ bytes: some Sequence<UInt8>) -> String {
    bytes.map { byte in
        let digits = String(byte, radix: 16)
        return digits.count == 1 ? "0" + digits : digits
    }.joined()
}
