import KVStore
import KVStoreTestSupport
import Testing

@testable import KVStoreIPC

@Suite("Messages")
struct MessageTests {
    private static let keys = (0..<5).map { BlockKey(sha256Of: [UInt8($0)]) }

    /// Every request body, with the verb it belongs to.
    private static let requests: [(Verb, [UInt8])] = [
        (.hello, HelloRequest(name: "engine 1", token: [1, 2, 3]).body),
        (
            .openNamespace,
            NamespaceIdentity(
                model: "m", revision: "r", elementType: .fp16, layers: 3, keyHeads: 2, keyHeadDimension: 64,
                tokensPerBlock: 16, adapter: "lora",
                additional: ["a": "text", "b": -5, "c": true, "d": .bytes([9, 8])], storage: .int8
            ).canonicalEncoding
        ),
        (.match, PrefixRequest(namespaceID: 3, tokenCount: 80, blocks: .keys(keys)).body),
        (.acquire, PrefixRequest(namespaceID: 3, flags: 1, tokenCount: 8, blocks: .tokens([1, 2, 3])).body),
        (
            .put,
            PrefixRequest(namespaceID: 1, argument: 4, tokenCount: 16, blocks: .keys(keys), payload: [1, 2, 3, 4]).body
        ),
        (.remove, PrefixRequest(namespaceID: 1, argument: 2, tokenCount: 16, blocks: .keys(keys)).body),
        (.release, NumberList.body([1, 2, UInt64.max])), (.renew, NumberList.body([7, UInt32.max])),
        (.commit, NumberList.body(77 as UInt64)), (.abandon, NumberList.body(78 as UInt64)),
        (.purge, [3, 0] + Array("bob".utf8)), (.statistics, [1, 5, 0]), (.namespaces, [0]), (.flush, []), (.health, []),
        (.drain, []), (.ping, [1, 2, 3]),
    ]

    @Test func `A key of zeros is no key and a text is cut between characters`() {
        let zero = BlockKey(word0: 0, word1: 0, word2: 0, word3: 0)
        for keys in [[zero], Self.keys + [zero]] {
            let body = PrefixRequest(namespaceID: 3, tokenCount: 8, blocks: .keys(keys)).body
            #expect(SessionRequest(.match, body) == nil)
        }
        #expect(BlockKey(bytes: [UInt8](repeating: 0, count: 32)) == nil)
        #expect(WireWriter.cut("añb", limit: 4) == [0x61, 0xC3, 0xB1, 0x62])
        #expect(WireWriter.cut("añb", limit: 2) == [0x61])
        #expect(WireWriter.cut("😀", limit: 3).isEmpty)
        let hello = HelloRequest(name: String(repeating: "ñ", count: 64), token: [])
        #expect(HelloRequest(hello.body)?.name == String(repeating: "ñ", count: 32))
    }

    @Test func `Requests come back as they were`() throws {
        for (verb, body) in Self.requests {
            let request = try #require(SessionRequest(verb, body), "\(verb)")
            if let prefix = request.prefix { #expect(prefix.body == body) }
        }
        guard case .openNamespace(let identity) = SessionRequest(.openNamespace, Self.requests[1].1) else {
            Issue.record("no identity")
            return
        }
        #expect(identity.canonicalEncoding == Self.requests[1].1)
        #expect(identity.additional["d"] == .bytes([9, 8]) && identity.storage == .int8)
    }

    /// Ping takes anything. In every other body each byte is there for a reason.
    @Test func `A body that is cut or has something behind it is refused`() {
        for (verb, body) in Self.requests where verb != .ping {
            for length in 0..<body.count {
                let request = SessionRequest(verb, Array(body.prefix(length)))
                // An identity without its last, optional field is another identity.
                if case .openNamespace(let identity)? = request, identity.storage == .lossless { continue }
                #expect(request == nil, "\(verb) cut to \(length)")
            }
            #expect(SessionRequest(verb, body + [0]) == nil, "\(verb) with a byte more")
        }
    }

    @Test func `Replies come back as they were and are refused when cut`() {
        let hello = HelloReply(
            hasTenant: true, isOperator: true, leaseMilliseconds: 10_000, stagingByteCount: 1 << 26, daemonID: 5,
            tenant: "täglich"
        )
        check(hello, hello.body) { HelloReply($0) }
        let namespace = NamespaceReply(namespaceID: 1, blockByteCount: 65536, fingerprint: Self.keys[0])
        check(namespace, namespace.body) { NamespaceReply($0) }
        let match = MatchReply(tiers: [.memory, .memory, .disk], isWarming: true)
        check(match, match.body) { MatchReply($0) }
        let acquired = AcquireReply(
            leaseID: 9, places: [WirePlace(regionID: 1, slotIndex: 2, generation: .max)], tiers: [.disk]
        )
        check(acquired, acquired.body) { AcquireReply($0) }
        let nothing = AcquireReply(leaseID: 0, places: [], tiers: [])
        check(nothing, nothing.body) { AcquireReply($0) }
        let reserved = ReserveReply(reservationID: 4, places: [.init(blockNumber: 3, stagingOffset: 1 << 33)])
        check(reserved, reserved.body) { ReserveReply($0) }
        let regions = RegionsEvent(regions: [
            .init(id: 1, kind: .staging, slotCount: 0, slotByteCount: 0, byteCount: 4096),
            .init(id: 2, kind: .slots, slotCount: 3, slotByteCount: 4096, byteCount: 16384),
        ])
        check(regions, regions.body) { RegionsEvent($0) }
        let flushed = FlushReply(durableBlocks: 5, refusedBlocks: 1, reason: "quota")
        check(flushed, flushed.body) { FlushReply($0) }
    }

    private func check<Message: Equatable>(_ message: Message, _ body: [UInt8], _ decode: ([UInt8]) -> Message?) {
        #expect(decode(body) == message)
        for length in 0..<body.count { #expect(decode(Array(body.prefix(length))) == nil, "cut to \(length)") }
        #expect(decode(body + [0]) == nil)
    }

    @Test func `Random changes of a body never trap and an identity has one encoding`() {
        var random = SeededRandom(seed: TestScale.seed)
        for round in 0..<20_000 {
            var (verb, body) = Self.requests[round % Self.requests.count]
            for _ in 0..<Int.random(in: 1...3, using: &random) where !body.isEmpty {
                body[Int.random(in: 0..<body.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            if Int.random(in: 0..<8, using: &random) == 0 { verb = Verb.allCases.randomElement(using: &random)! }
            if case .openNamespace(let identity)? = SessionRequest(verb, body) {
                #expect(identity.canonicalEncoding == body)
            }
        }
    }
}
