import Foundation
import KVStore
import KVStoreTestSupport
import Testing

@testable import KVStoreIPC
@testable import KVStoreServer

/// The conversation that WireTranscript.md shows is held with a real daemon, byte by byte. To accept a new one, run with
/// KVSTORE_REWRITE_GOLDEN=1 and look at the difference before you commit it: what it shows is what clients of other
/// languages were written against.
@Suite("The transcript in the documentation")
struct WireTranscriptTests {
    static let page = DocumentedText("Sources/KVStoreIPC/KVStoreIPC.docc/WireTranscript.md")

    @Test func `is what a client and a daemon say to each other`() async throws {
        let directory = TemporaryDirectory("wire")
        let token = try DaemonHarness.makeToken("t", in: directory)
        try Self.makeSalt(in: directory)
        let tenants = "tenants:\n  - name: alice\n    tokenFile: \(directory.path)/t.token\n"
        // Memory taken ahead of need would change the regions when the machine is slow.
        let harness = try await DaemonHarness(in: directory, ["memoryAhead": "0"], tenants: tenants)
        let result = Result { try Self.transcript(with: harness, token) }
        await harness.stop()
        try Self.page.expect(try result.get())
    }

    @Test func `has every verb and every status`() throws {
        let text = try Self.page.text
        for verb in Verb.allCases {
            #expect(text.contains("→ \(verb.wireName)\n") || verb == .regions, "\(verb)")
            #expect(text.contains("← \(verb.wireName)") || verb.isOneWay, "\(verb)")
        }
        for status in 1...11 { #expect(text.contains(", status \(status)\n"), "status \(status)") }
    }

    /// The salt from which the fingerprint of the transcript follows.
    private static func makeSalt(in directory: TemporaryDirectory) throws {
        let folder = directory.path + "/state/salts"
        try FileManager.default.createDirectory(
            atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        try setPermissions(0o700, directory.path + "/state")
        try Data(WireExample.salt).write(to: URL(filePath: folder + "/alice"))
        try setPermissions(0o600, folder + "/alice")
    }

    @inline(never)
    private static func transcript(with harness: DaemonHarness, _ token: [UInt8]) throws -> String {
        let client = try Conversation(harness.path)
        client.say("Nothing goes before HELLO.")
        client.ask(.ping, Array("ping".utf8))
        let hello = HelloRequest(name: "engine", token: token).body
        client.say("The eight bytes of the daemon's number are another ones after each start.")
        client.ask(.hello, hello) {
            $0.replaceSubrange(20..<28, with: [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11])
        }
        client.say("The identity is the example of the page about keys; tenant and salt are empty in what is sent.")
        let opened = client.ask(.openNamespace, WireExample.identity.canonicalEncoding)
        let namespace = try #require(NamespaceReply(opened))
        #expect(namespace.fingerprint == WireExample.completed.fingerprint)
        let keys = PrefixHasher(fingerprint: namespace.fingerprint, tokensPerBlock: 4).keys(tokens: WireExample.tokens)
        let id = namespace.namespaceID
        storeAndRead(client, id, keys)
        lease(client, id, keys)
        giveUp(client, id, keys)
        figures(client)
        refusals(client, id, keys)
        try lastWords(harness, client, hello)
        return Self.heading + client.text + "```\n\n" + Self.refusedToTenants()
    }

    private static let heading = """
        # A conversation, byte by byte

        Every verb once and every status once, as a client and a daemon exchange them.

        Made and checked by WireTranscriptTests with a running daemon whose memory is 64 MiB, none of it taken ahead, and
        that has no disk tier. The tenant is `alice`; its token is forty times `t`, its salt the bytes 00 to 1f. The prompt has
        the tokens 0 to 11, a block has 4 tokens and 64 bytes. `→` goes to the daemon, `←` comes from it; the first 16 bytes of
        each frame are its header. A body of JSON is shown as text.

        ```

        """

    private static func storeAndRead(_ client: Conversation, _ id: UInt32, _ keys: [BlockKey]) {
        let first = PrefixRequest.Blocks.keys([keys[0]])
        let bytes = (0..<64).map { UInt8($0) }
        client.say("Nothing is stored yet. Block 0 goes over the socket, there and back.")
        client.ask(.match, PrefixRequest(namespaceID: id, tokenCount: 12, blocks: .keys(keys)).body)
        client.ask(
            .put, PrefixRequest(namespaceID: id, argument: 64, tokenCount: 4, blocks: first, payload: bytes).body)
        client.ask(.get, PrefixRequest(namespaceID: id, argument: 0, tokenCount: 4, blocks: first).body)
        client.say("Blocks 1 and 2 go through staging. They are named by their tokens here.")
        let whole = PrefixRequest(namespaceID: id, tokenCount: 12, blocks: .tokens(WireExample.tokens)).body
        let reserved = ReserveReply(client.ask(.reserve, whole))
        client.ask(.commit, NumberList.body(reserved?.reservationID ?? 0))
    }

    private static func lease(_ client: Conversation, _ id: UInt32, _ keys: [BlockKey]) {
        let blocks = PrefixRequest(namespaceID: id, tokenCount: 12, blocks: .keys(keys))
        client.ask(.match, blocks.body)
        client.say("A lease on all three.")
        let leased = AcquireReply(client.ask(.acquire, blocks.body))
        client.ask(.renew, NumberList.body([] as [UInt32]))
        client.tell(.release, NumberList.body([leased?.leaseID ?? 0]))
        client.tell(.prefetch, blocks.body)
        var pin = blocks
        pin.argument = 60
        client.ask(.pin, pin.body)
        client.ask(.unpin, blocks.body)
    }

    private static func giveUp(_ client: Conversation, _ id: UInt32, _ keys: [BlockKey]) {
        var last = PrefixRequest(namespaceID: id, tokenCount: 12, blocks: .keys(keys))
        last.argument = 2
        client.say("Block 2 is removed, reserved again and given up.")
        client.ask(.remove, last.body)
        last.argument = 0
        let reserved = ReserveReply(client.ask(.reserve, last.body))
        client.tell(.abandon, NumberList.body(reserved?.reservationID ?? 0))
    }

    private static func figures(_ client: Conversation) {
        client.say("Without a disk nothing can be made durable.")
        client.ask(.flush, [])
        client.say("Figures, of the own tenant alone. The length of the first and the hash in the second vary.")
        client.ask(.statistics, [0, 0, 0], json: .varies)
        client.ask(.namespaces, [0], json: .shown)
        client.ask(.health, [], json: .shown)
        client.ask(.ping, Array("ping".utf8))
        client.ask(.purge, [5, 0] + Array("alice".utf8))
    }

    private static func refusals(_ client: Conversation, _ id: UInt32, _ keys: [BlockKey]) {
        client.say(
            "What is refused on a connection that goes on: a namespace that was not opened, a block that was not")
        client.say("named, a reservation that there is not, a verb that there is not.")
        client.ask(.match, PrefixRequest(namespaceID: 99, tokenCount: 4, blocks: .keys([keys[0]])).body)
        client.ask(.get, PrefixRequest(namespaceID: id, argument: 1, tokenCount: 4, blocks: .keys([keys[0]])).body)
        client.ask(.commit, NumberList.body(99 as UInt64))
        client.ask(rawVerb: 99, [])
    }

    /// What ends a connection, and the daemon.
    private static func lastWords(_ harness: DaemonHarness, _ client: Conversation, _ hello: [UInt8]) throws {
        client.say("An operator ends the daemon; no new blocks from then on.")
        client.ask(.drain, [])
        harness.context.isDraining = true
        client.ask(.openNamespace, WireExample.identity.canonicalEncoding)
        client.say("A body with a byte too many ends the connection.")
        client.ask(.health, [0])
        #expect(client.isClosed)
        client.say("So does a version that the daemon does not speak, and a token that nobody has; each on a new one.")
        try client.connect(harness.path)
        var later = hello
        later.replaceSubrange(4..<8, with: [2, 0, 3, 0])
        client.ask(.hello, later)
        #expect(client.isClosed)
        try client.connect(harness.path)
        client.ask(.hello, HelloRequest(name: "engine", token: [0x78, 0x79]).body)
        #expect(client.isClosed)
    }

    /// The daemon's own user is an operator, so what others are refused comes from the session machine alone.
    private static func refusedToTenants() -> String {
        var machine = SessionMachine()
        _ = machine.received(
            FrameHeader(bodyByteCount: 0, kind: .request, verb: .hello, requestID: 1), HelloRequest(name: "").body)
        machine.authenticated(SessionMachine.Peer(tenant: "alice", isOperator: false))
        for number in 0..<UInt32(WireLimits.namespaces) { machine.opened(namespaceID: number, blockByteCount: 64) }
        let requests: [(Verb, [UInt8])] = [(.drain, []), (.openNamespace, WireExample.identity.canonicalEncoding)]
        let shown = requests.enumerated().map { number, request in
            let frame = Frame(.request, request.0, requestID: UInt32(number) + 2, body: request.1)
            guard case .reply(let reply) = machine.received(frame.header, frame.body) else { return "?" }
            return Conversation.show(frame, "→") + Conversation.show(reply, "←")
        }
        return """
            A client that is no operator, and has opened \(WireLimits.namespaces) namespaces:

            ```
            \(shown.joined())```

            """
    }
}

/// A client that writes down what goes over its socket.
private final class Conversation {
    enum JSONBody { case shown, varies }

    private var socket: UnixSocket
    private var requestID: UInt32 = 0
    private(set) var text = ""

    init(_ path: String) throws { socket = try UnixSocket(path: path, timeoutNanoseconds: 30_000_000_000) }

    /// On a new connection.
    func connect(_ path: String) throws {
        socket = try UnixSocket(path: path, timeoutNanoseconds: 30_000_000_000)
        requestID = 0
    }

    func say(_ sentence: String) { text += "# \(sentence)\n" }

    /// Whether the daemon has closed the connection; waits for it.
    var isClosed: Bool {
        do throws(ClientError) {
            _ = try socket.receive(1, deadline: monotonicNanoseconds() + 30_000_000_000)
            return false
        } catch {
            return error.code == .connectionLost
        }
    }

    /// Sends a request that gets no reply.
    func tell(_ verb: Verb, _ body: [UInt8]) { send(verb.rawValue, body) }

    private func send(_ rawVerb: UInt16, _ body: [UInt8]) {
        requestID += 1
        var frame = Frame(.request, .ping, requestID: requestID, body: body)
        frame.header.verb = rawVerb
        text += Self.show(frame, "→")
        do {
            try socket.send(frame.bytes, deadline: farAway)
        } catch {
            Issue.record("\(error)")
        }
    }

    @discardableResult
    func ask(
        _ verb: Verb,
        _ body: [UInt8],
        json: JSONBody? = nil,
        fix: (inout [UInt8]) -> Void = { _ in }
    ) -> [UInt8] {
        ask(rawVerb: verb.rawValue, body, json: json, fix: fix)
    }

    /// Sends a request and writes down everything up to its reply.
    @discardableResult
    func ask(
        rawVerb: UInt16,
        _ body: [UInt8],
        json: JSONBody? = nil,
        fix: (inout [UInt8]) -> Void = { _ in }
    ) -> [UInt8] {
        send(rawVerb, body)
        while true {
            guard var frame = receive() else { return [] }
            let isReply = frame.header.kind == .reply
            if isReply { fix(&frame.body) }
            if isReply, let json { show(json, frame) } else { text += Self.show(frame, "←") }
            if isReply { return frame.body }
        }
    }

    private func receive() -> Frame? {
        let deadline = monotonicNanoseconds() + 60_000_000_000
        do {
            let header = try #require(FrameHeader(try socket.receive(FrameHeader.byteCount, deadline: deadline)))
            let body = try socket.receive(Int(header.bodyByteCount), deadline: deadline)
            var frame = Frame(header.kind, .ping, requestID: header.requestID, status: header.status, body: body)
            frame.header.verb = header.verb
            return frame
        } catch {
            Issue.record("no reply: \(error)")
            return nil
        }
    }

    static func show(_ frame: Frame, _ arrow: String) -> String {
        let status = frame.header.status == .ok ? "" : ", status \(frame.header.status.rawValue)"
        let extra = frame.header.kind == .event ? ", with one descriptor" : ""
        return "\(arrow) \(name(frame))\(status)\(extra)\n" + DocumentedText.hexLines(frame.bytes)
    }

    private static func name(_ frame: Frame) -> String {
        Verb(rawValue: frame.header.verb)?.wireName ?? "verb \(frame.header.verb)"
    }

    /// A reply with a body of JSON: the length in its header is dotted where it varies.
    private func show(_ json: JSONBody, _ frame: Frame) {
        var header = DocumentedText.hexLines(frame.header.bytes)
        var body = String(decoding: frame.body, as: UTF8.self)
            .replacing(/"fingerprintPrefix":"[0-9a-f]{8}"/, with: "\"fingerprintPrefix\":\"5eb63bbb\"")
        if json == .varies {
            header = "  .. .. .. ..\(header.dropFirst(13))"
            body = "JSON, as the page about statistics lists it"
        }
        text += "← \(Self.name(frame))\n\(header)  \(body)\n"
    }
}

extension Verb {
    /// As the documentation writes it.
    var wireName: String { "\(self)".replacing(/[A-Z]/) { "_" + $0.output }.uppercased() }
}

/// What the pages about the protocol show.
enum WireExample {
    static let identity = NamespaceIdentity(
        model: "tiny", layers: 1, keyHeads: 1, keyHeadDimension: 4, tokensPerBlock: 4
    )
    static let salt = (0..<32).map { UInt8($0) }
    static let tokens = (0..<12).map { UInt32($0) }

    /// With what the daemon fills in.
    static var completed: NamespaceIdentity {
        var whole = identity
        whole.tenant = "alice"
        whole.salt = salt
        return whole
    }
}
