import Foundation
import KVStore
import Testing

@testable import KVStoreIPC
@testable import KVStoreServer

/// The tables of the pages about the protocol are made of what the code does. To write them anew, run the tests with
/// KVSTORE_REWRITE_GOLDEN=1.
@Suite("The documentation of the protocol", .serialized)
struct WireDocumentTests {
    private static let folder = "Sources/KVStoreIPC/KVStoreIPC.docc/"
    private static let protocolPage = DocumentedText(folder + "WireProtocol.md")
    private static let keysPage = DocumentedText(folder + "WireKeys.md")

    // MARK: Who may do what

    private static let peers: [(name: String, peer: SessionMachine.Peer)] = [
        ("a tenant", .init(tenant: "alice", isOperator: false)),
        ("a tenant and operator", .init(tenant: "alice", isOperator: true)),
        ("an operator alone", .init(tenant: nil, isOperator: true)),
    ]

    private static let requests: [(name: String, verb: Verb, body: [UInt8])] = Verb.allCases.flatMap { verb in
        let blocks = PrefixRequest(
            namespaceID: 1, argument: verb == .put ? 2 : 0, tokenCount: 4, blocks: .tokens([1, 2, 3, 4]),
            payload: verb == .put ? [1, 2] : []
        )
        let bodies: [(String, [UInt8])] =
            switch verb {
            case .hello, .regions: []
            case .openNamespace: [("", WireExample.identity.canonicalEncoding)]
            case .release: [("", NumberList.body([1 as UInt64]))]
            case .renew: [("", NumberList.body([] as [UInt32]))]
            case .commit, .abandon: [("", NumberList.body(1 as UInt64))]
            case .purge: [(", own", [0, 0]), (", of another tenant", [3, 0] + Array("bob".utf8))]
            case .statistics: [(", own", [0, 0, 0]), (", of all or with the hottest", [1, 5, 0])]
            case .namespaces: [(", own", [0]), (", of all", [1])]
            case .flush, .health, .ping, .drain: [("", [])]
            default: [("", blocks.body)]
            }
        return bodies.map { (verb.wireName + $0.0, verb, $0.1) }
    }

    /// What a daemon makes of a request that is well formed.
    private static func answer(_ verb: Verb, _ body: [UInt8], _ peer: SessionMachine.Peer) -> String {
        var machine = SessionMachine()
        let hello = HelloRequest(name: "").body
        _ = machine.received(FrameHeader(bodyByteCount: 0, kind: .request, verb: .hello, requestID: 1), hello)
        machine.authenticated(peer)
        machine.opened(namespaceID: 1, blockByteCount: 2)
        machine.reserved(1)
        // The handler's part: it is to purge a tenant, and there is none.
        if case .purge(nil)? = SessionRequest(verb, body), peer.tenant == nil { return "6" }
        let header = FrameHeader(bodyByteCount: body.count, kind: .request, verb: verb, requestID: 2)
        switch machine.received(header, body) {
        case .perform: return "yes"
        case .reply(let frame): return "\(frame.header.status.rawValue)"
        case .ignore: return "nothing happens"
        case .close: return "?"
        }
    }

    @Test func `says who may use each verb and how long its body may be`() throws {
        var text =
            "| request | \(Self.peers.map(\.name).joined(separator: " | ")) | longest body |\n|---|---|---|---|---|\n"
        for (name, verb, body) in Self.requests {
            let answers = Self.peers.map { Self.answer(verb, body, $0.peer) }.joined(separator: " | ")
            let limit = verb.requestLimit(largestBlockByteCount: 0)
            text += "| \(name) | \(answers) | \(Self.grouped(limit))\(verb == .put ? " and a block" : "") |\n"
        }
        #expect(Set(Self.requests.map(\.verb)).count == Verb.allCases.count - 2)
        try Self.protocolPage.expect(
            text + "\nA number is the status that the request is refused with.\n", at: "permissions")
    }

    // MARK: Limits

    @Test func `says where the limits are`() throws {
        let times = SessionTimeLimits()
        #expect(SessionRequest(.purge, [0, 16] + [UInt8](repeating: 97, count: 4096)) != nil)
        #expect(SessionRequest(.purge, [1, 16] + [UInt8](repeating: 97, count: 4097)) == nil)
        let rows: [(String, String, String)] = [
            ("bytes of the name in HELLO", Self.grouped(WireLimits.nameByteCount), "status 1"),
            ("bytes of the token in HELLO", Self.grouped(WireLimits.tokenByteCount), "status 1"),
            ("bytes of the tenant's name in PURGE", "4,096", "status 1"),
            ("bytes of the body of HELLO", Self.grouped(Verb.hello.requestLimit(largestBlockByteCount: 0)), "status 1"),
            ("namespaces of a connection", Self.grouped(WireLimits.namespaces), "status 9"),
            ("namespaces of a tenant since the daemon's start", Self.grouped(WireLimits.namespaces), "status 9"),
            ("reservations of a connection", Self.grouped(WireLimits.reservations), "status 9"),
            ("leases of a connection", Self.grouped(WireLimits.leases), "status 9"),
            (
                "blocks under them, before the last lease is added", Self.grouped(WireLimits.leasedBlocks),
                "status 9"
            ),
            ("bytes of the sentence in a refusal", Self.grouped(WireLimits.messageByteCount), "it is cut"),
            ("descriptors with one event", Self.grouped(WireLimits.descriptorsPerEvent), "another event follows"),
            ("bytes of a reply's body", Self.grouped(WireLimits.replyByteCount), "never sent"),
            ("seconds from connecting to the whole HELLO", Self.seconds(times.helloNanoseconds), "the connection ends"),
            (
                "seconds from a frame's first byte to its last", Self.seconds(times.frameNanoseconds),
                "the connection ends"
            ),
            ("seconds until the client has taken a reply", Self.seconds(times.replyNanoseconds), "the connection ends"),
        ]
        let text = rows.map { "| \($0) | \($1) | \($2) |\n" }.joined()
        try Self.protocolPage.expect("| at most | | else |\n|---|---|---|\n" + text, at: "limits")
    }

    private static func grouped(_ number: Int) -> String {
        var digits = "\(number)"
        var parts: [String] = []
        while digits.count > 3 {
            parts.insert(String(digits.suffix(3)), at: 0)
            digits.removeLast(3)
        }
        return ([digits] + parts).joined(separator: ",")
    }

    private static func seconds(_ nanoseconds: UInt64) -> String { "\(nanoseconds / 1_000_000_000)" }

    // MARK: Identities and keys

    /// Each field of an identity, how it is changed, and what may stand there.
    private static let fields: [(tag: UInt8, text: String, change: @Sendable (inout NamespaceIdentity) -> Void)] = [
        (1, "model | text | 1 to 4,096 bytes", { $0.model = "x" }),
        (2, "revision | text | 0 to 4,096 bytes", { $0.revision = "x" }),
        (3, "type of an element | integer | \(elementTypes)", { $0.elementType = .fp32 }),
        (4, "layers | integer | 1 to 65,535", { $0.layers = 9 }),
        (5, "key heads | integer | 1 to 65,535", { $0.keyHeads = 9 }),
        (6, "value heads | integer | 0 to 65,535", { $0.valueHeads = 9 }),
        (7, "numbers in a key of a head | integer | 1 to 65,535", { $0.keyHeadDimension = 9 }),
        (
            8, "numbers in a value of a head | integer | 0 to 65,535; 0 when there are no value heads",
            { $0.valueHeadDimension = 9 }
        ),
        (9, "tokens of a block | integer | 1 to 65,535", { $0.tokensPerBlock = 9 }),
        (10, "tensor-parallel rank | integer | from 0, below the size", { $0.tensorParallelRank = 9 }),
        (11, "tensor-parallel size | integer | 1 to 65,535", { $0.tensorParallelSize = 9 }),
        (12, "pipeline-parallel rank | integer | from 0, below the size", { $0.pipelineParallelRank = 9 }),
        (13, "pipeline-parallel size | integer | 1 to 65,535", { $0.pipelineParallelSize = 9 }),
        (
            14, "order of the axes | text | 1 to 4,096 bytes; `LKTHD` for layer, key or value, token, head, dimension",
            { $0.layoutTag = "x" }
        ),
        (15, "adapter | text | 0 to 4,096 bytes", { $0.adapter = "x" }),
        (16, "tenant | text | empty in a request", { $0.tenant = "x" }),
        (17, "salt | bytes | empty in a request", { $0.salt = [9] }),
        (
            18, "anything else | map | at most 256 entries, keys of 1 to 4,096 bytes, values of at most 4,096",
            { $0.additional = ["x": 1] }
        ),
        (
            19,
            "bytes of a block that only the engine knows the layout of | integer | 1 to 1,073,741,824; fields 4, 5 and 7 may be 0 then",
            { $0.opaqueBlockByteCount = 9 }
        ),
        (20, "storage | text | `int8`: the disk may round the block to 8 bits", { $0.storage = .int8 }),
    ]

    private static var elementTypes: String {
        ElementType.allCases.map { "\($0.rawValue) \($0)" }.joined(separator: ", ")
    }

    @Test func `says what the fields of an identity are`() throws {
        var text = "| tag | field | type | |\n|---|---|---|---|\n"
        for (tag, row, change) in Self.fields {
            text += "| \(tag) | \(row) |\n"
            var changed = WireExample.identity
            change(&changed)
            #expect(Self.differing(WireExample.identity, changed) == [tag], "\(row)")
        }
        let limits = NamespaceIdentity.Limits.self
        #expect(limits.stringBytes == 4096 && limits.shapeField == 65_535 && limits.additionalFields == 256)
        #expect(limits.blockBytes == 1 << 30)
        try Self.keysPage.expect(text, at: "fields")
    }

    /// The tags of the fields whose values differ.
    private static func differing(_ one: NamespaceIdentity, _ other: NamespaceIdentity) -> [UInt8] {
        let (first, second) = (values(one.canonicalEncoding), values(other.canonicalEncoding))
        return Set(first.keys).union(second.keys).filter { first[$0] != second[$0] }.sorted()
    }

    /// Reads an encoding as the page says it is laid out.
    private static func values(_ encoding: [UInt8]) -> [UInt8: [UInt8]] {
        var values: [UInt8: [UInt8]] = [:]
        var rest = encoding.dropFirst(5)
        while let tag = rest.popFirst() {
            let length = rest.dropFirst().prefix(4).reversed().reduce(0) { $0 << 8 | Int($1) }
            // The type as well.
            values[tag] = Array(rest.prefix(5 + length))
            rest = rest.dropFirst(5 + length)
        }
        return values
    }

    @Test func `shows identities and keys as bytes`() throws {
        let hasher = PrefixHasher(WireExample.completed)
        let keys = hasher.keys(tokens: WireExample.tokens)
        let image = hasher.keys(tokens: WireExample.tokens, extra: [1: Array("image 7".utf8)])
        var other = NamespaceIdentity(
            model: "m", revision: "r", elementType: .opaque, opaqueBlockByteCount: 4096, tokensPerBlock: 16
        )
        other.additional = ["b": true, "d": .bytes([0xDE, 0xAD]), "n": -2, "t": "yarn"]
        let message = [1] + hasher.fingerprint.bytes + [4, 0, 0, 0] + (0..<16).map { $0 % 4 == 0 ? $0 / 4 : 0 }
        #expect(BlockKey(sha256Of: message + [0, 0, 0, 0]) == keys[0])
        let text = """
            The identity of <doc:WireTranscript>: model `tiny`, bf16, one layer, one head of keys and one of values, four numbers
            in each, blocks of four tokens, everything else as it is when nobody says anything.

            \(Self.shown(WireExample.identity.canonicalEncoding))
            With the tenant `alice` and a salt of the bytes 00 to 1f:

            \(Self.shown(WireExample.completed.canonicalEncoding))
            Its fingerprint:

            \(Self.shown(hasher.fingerprint.bytes))
            What the key of a first block with the tokens 0, 1, 2, 3 is the SHA-256 of:

            \(Self.shown(message + [0, 0, 0, 0]))
            The keys of three blocks with the tokens 0 to 11:

            \(Self.shown(keys.flatMap(\.bytes)))
            The key of the second one when its extra is the text `image 7`:

            \(Self.shown(image[1].bytes))
            The key for the engine's own key `doc-1`:

            \(Self.shown(hasher.key(callerKey: Array("doc-1".utf8)).bytes))
            An identity of opaque blocks of 4096 bytes, model `m`, revision `r`, 16 tokens a block, with an entry of each type:
            `b` true, `d` the bytes de ad, `n` -2, `t` `yarn`.

            \(Self.shown(other.canonicalEncoding))

            """
        try Self.keysPage.expect(text.replacing(/\n\n$/) { _ in "\n" }, at: "examples")
    }

    private static func shown(_ bytes: [UInt8]) -> String { "```\n\(DocumentedText.hexLines(bytes))```\n" }

    // MARK: JSON

    @Test func `lists every field of the bodies of JSON`() throws {
        try DocumentedText(Self.folder + "WireStatistics.md").expect(try JSONDocument.page())
    }
}
