import KVStore
import KVStoreTestSupport
import Testing

@testable import KVStoreIPC

@Suite("The session machine")
struct SessionMachineTests {
    private static let key = BlockKey(sha256Of: [1])
    private static let prefix = PrefixRequest(namespaceID: 1, tokenCount: 16, blocks: .keys([key]))

    private static func ready(_ peer: SessionMachine.Peer, namespace: Bool = true) -> SessionMachine {
        var machine = SessionMachine()
        _ = machine.receive(.hello, HelloRequest(name: "test").body)
        machine.authenticated(peer)
        if namespace { machine.opened(namespaceID: 1, blockByteCount: 64) }
        return machine
    }

    private static let tenant = SessionMachine.Peer(tenant: "alice", isOperator: false)
    private static let operatorOnly = SessionMachine.Peer(tenant: nil, isOperator: true)
    private static let both = SessionMachine.Peer(tenant: "alice", isOperator: true)

    /// A request of every verb that a ready session would do.
    private static func body(_ verb: Verb) -> [UInt8] {
        switch verb {
        case .hello: HelloRequest(name: "again").body
        case .openNamespace:
            NamespaceIdentity(model: "m", layers: 1, keyHeads: 1, keyHeadDimension: 1, tokensPerBlock: 1)
                .canonicalEncoding
        case .put:
            PrefixRequest(
                namespaceID: 1, argument: 64, tokenCount: 16, blocks: .keys([key]),
                payload: Array(repeating: 0, count: 64)
            ).body
        case _ where verb.namesPrefix: prefix.body
        case .release: NumberList.body([1 as UInt64])
        case .renew: NumberList.body([1 as UInt32])
        case .commit, .abandon: NumberList.body(1 as UInt64)
        case .purge: [0, 0]
        case .statistics: [0, 0, 0]
        case .namespaces: [0]
        default: []
        }
    }

    @Test func `Nothing but hello is done before hello`() {
        for verb in Verb.allCases where verb != .hello {
            var machine = SessionMachine()
            let action = machine.receive(verb, Self.body(verb))
            switch action {
            case .ignore: #expect(verb.isOneWay)
            case .reply(let frame):
                let expected: WireStatus = verb == .regions ? .unknownVerb : .wrongOrder
                #expect(frame.header.status == expected, "\(verb)")
            default: Issue.record("\(verb): \(action)")
            }
        }
    }

    @Test func `Hello comes once and its version must be ours`() {
        var machine = Self.ready(Self.tenant)
        #expect(machine.receive(.hello, Self.body(.hello)).status == .wrongOrder)
        var later = HelloRequest(name: "later")
        (later.lowestVersion, later.highestVersion) = (2, 3)
        var other = SessionMachine()
        guard case .close(let frame) = other.receive(.hello, later.body) else {
            Issue.record("a version of the future was accepted")
            return
        }
        #expect(frame.header.status == .unsupportedVersion)
        #expect(other.receive(.ping, []) == .ignore)
    }

    @Test func `A refused peer gets nothing more`() {
        var machine = SessionMachine()
        _ = machine.receive(.hello, HelloRequest(name: "test").body)
        machine.authenticated(nil)
        for verb in Verb.allCases { #expect(machine.receive(verb, Self.body(verb)).isRefusal, "\(verb)") }
    }

    /// Who may do what. A verb that is not in this table fails the test.
    @Test func `Every verb asks for its role`() {
        for verb in Verb.allCases where verb != .hello && verb != .regions {
            for (name, peer) in [("tenant", Self.tenant), ("operator", Self.operatorOnly), ("both", Self.both)] {
                var machine = Self.ready(peer)
                machine.reserved(1)
                let isAllowed =
                    switch verb {
                    case .health, .ping, .flush, .statistics, .namespaces, .purge: true
                    case .drain: peer.isOperator
                    default: peer.tenant != nil
                    }
                #expect(machine.receive(verb, Self.body(verb)).isPerform == isAllowed, "\(verb) by \(name)")
            }
        }
    }

    @Test func `What concerns other tenants is for operators`() {
        let about: [(Verb, [UInt8])] = [
            (.purge, [3, 0] + Array("bob".utf8)), (.statistics, [1, 0, 0]), (.statistics, [0, 9, 0]),
            (.namespaces, [1]),
        ]
        for (verb, body) in about {
            var tenant = Self.ready(Self.tenant)
            #expect(tenant.receive(verb, body).status == .forbidden, "\(verb)")
            var both = Self.ready(Self.both)
            #expect(both.receive(verb, body).isPerform, "\(verb)")
        }
        var tenant = Self.ready(Self.tenant)
        #expect(tenant.receive(.purge, [5, 0] + Array("alice".utf8)).isPerform)
    }

    @Test func `A header alone decides how much is read`() {
        var machine = Self.ready(Self.tenant)
        func verdict(_ verb: UInt16, _ length: UInt32) -> Bool {
            var header = FrameHeader(bodyByteCount: 0, kind: .request, verb: .ping, requestID: 1)
            (header.verb, header.bodyByteCount) = (verb, length)
            var copy = machine
            if case .read(let count) = copy.judge(header.bytes).1 { return count == Int(length) }
            return false
        }
        for verb in Verb.allCases {
            let limit = UInt32(verb.namesPrefix ? (verb == .put ? (4 << 20) + 64 : 4 << 20) : 64 << 10)
            #expect(verdict(verb.rawValue, limit), "\(verb)")
            #expect(!verdict(verb.rawValue, limit + 1), "\(verb)")
        }
        #expect(verdict(999, 64 << 10) && !verdict(999, (64 << 10) + 1) && !verdict(4, .max))
        var reply = FrameHeader(bodyByteCount: 0, kind: .reply, verb: .ping, requestID: 1)
        #expect(machine.judge(reply.bytes).1.isClose)
        machine = Self.ready(Self.tenant)
        reply.kind = .request
        var bytes = reply.bytes
        bytes[4] = 2
        #expect(machine.judge(bytes).1.isClose)
    }

    @Test func `Namespaces and blocks must fit what was opened`() {
        var machine = Self.ready(Self.tenant)
        var other = Self.prefix
        other.namespaceID = 2
        #expect(machine.receive(.match, other.body).status == .unknownNamespace)
        let short = PrefixRequest(
            namespaceID: 1, argument: 3, tokenCount: 16, blocks: .keys([Self.key]), payload: [1, 2, 3]
        )
        #expect(machine.receive(.put, short.body).status == .invalidArgument)
        let empty = PrefixRequest(namespaceID: 1, tokenCount: 0, blocks: .keys([]))
        #expect(machine.receive(.acquire, empty.body).status == .invalidArgument)
    }

    @Test func `Limits hold`() {
        var machine = Self.ready(Self.tenant, namespace: false)
        for number in 0..<WireLimits.namespaces {
            #expect(machine.receive(.openNamespace, Self.body(.openNamespace)).isPerform)
            machine.opened(namespaceID: UInt32(number), blockByteCount: 64)
        }
        #expect(machine.receive(.openNamespace, Self.body(.openNamespace)).status == .limitReached)
        for id in 0..<UInt64(WireLimits.reservations) { machine.reserved(id) }
        #expect(machine.receive(.reserve, Self.prefix.body).status == .limitReached)
        for id in 0..<UInt64(WireLimits.leases) { machine.leased(id, blockCount: 1) }
        #expect(machine.receive(.acquire, Self.prefix.body).status == .limitReached)
        _ = machine.endAll()
        #expect(machine.receive(.acquire, Self.prefix.body).isPerform)
        machine.leased(1, blockCount: WireLimits.leasedBlocks)
        #expect(machine.receive(.acquire, Self.prefix.body).status == .limitReached)
        #expect(machine.released([1]) == [1] && machine.receive(.acquire, Self.prefix.body).isPerform)
        #expect(machine.receive(.match, Self.prefix.body).isPerform)
    }

    @Test func `Only what is the session's own can be given back`() {
        var machine = Self.ready(Self.tenant)
        machine.leased(5, blockCount: 1)
        machine.leased(6, blockCount: 1)
        machine.reserved(9)
        #expect(machine.released([4, 5, 5, 7]) == [5])
        #expect(machine.receive(.commit, NumberList.body(8 as UInt64)).status == .notFound)
        #expect(machine.receive(.commit, NumberList.body(9 as UInt64)).isPerform)
        #expect(machine.endReservation(9) && !machine.endReservation(9))
        #expect(machine.endAll().leases == [6] && machine.leaseCount == 0)
    }

    @Test func `A daemon that drains takes nothing new and gives everything back`() {
        var machine = Self.ready(Self.tenant)
        machine.reserved(1)
        machine.isDraining = true
        for verb in [Verb.openNamespace, .reserve, .put, .pin] {
            #expect(machine.receive(verb, Self.body(verb)).status == .draining, "\(verb)")
        }
        for verb in [Verb.acquire, .match, .commit, .release, .flush] {
            #expect(machine.receive(verb, Self.body(verb)).isPerform, "\(verb)")
        }
    }

    /// Whatever comes, in whatever order: an action, never a trap, and nothing is performed without a peer.
    @Test func `Random frames never trap`() {
        var random = SeededRandom(seed: TestScale.seed)
        for _ in 0..<300 {
            var machine = SessionMachine()
            for _ in 0..<60 {
                let verb = Verb.allCases.randomElement(using: &random)!
                var body = Self.body(verb)
                if Bool.random(using: &random), !body.isEmpty {
                    body[Int.random(in: 0..<body.count, using: &random)] ^= UInt8.random(in: 1...255, using: &random)
                }
                let hadPeer = machine.peer != nil
                let action = machine.receive(verb, body)
                guard case .perform(let request) = action else { continue }
                if case .hello = request {
                    machine.authenticated(Bool.random(using: &random) ? Self.tenant : nil)
                } else {
                    #expect(hadPeer)
                    if case .openNamespace = request, machine.namespaceCount < 3 {
                        machine.opened(namespaceID: 1, blockByteCount: 64)
                    }
                }
            }
        }
    }

    @Test func `Leases end for silence and not while the daemon is at work`() {
        var clock = LeaseClock(timeToLiveNanoseconds: 10, now: 100)
        #expect(!clock.isExpired(now: 109) && clock.isExpired(now: 110))
        clock.heard(now: 105)
        #expect(!clock.isExpired(now: 114) && clock.isExpired(now: 115))
        clock.isBusy = true
        #expect(!clock.isExpired(now: 1000))
        clock.isBusy = false
        clock.heard(now: 1000)
        clock.heard(now: 900)
        #expect(!clock.isExpired(now: 1009) && !clock.isExpired(now: 0))
    }
}

extension SessionMachine {
    fileprivate mutating func receive(_ verb: Verb, _ body: [UInt8]) -> Action {
        received(FrameHeader(bodyByteCount: body.count, kind: .request, verb: verb, requestID: 1), body)
    }
}

extension SessionMachine.Action {
    fileprivate var isPerform: Bool { if case .perform = self { true } else { false } }
    fileprivate var isRefusal: Bool { !isPerform }
    fileprivate var status: WireStatus? {
        switch self {
        case .reply(let frame), .close(let frame): frame.header.status
        default: nil
        }
    }
}

extension SessionMachine.HeaderVerdict {
    fileprivate var isClose: Bool { if case .close = self { true } else { false } }
}
