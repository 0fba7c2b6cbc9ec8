// What libFuzzer calls, once per input: a stream of bytes that a client sends, from its first on. The first byte of the
// input says who the client is: bit 0, has a tenant; bit 1, operator; bit 2, is refused at hello; bit 3, hello is said
// for it; bit 4, the daemon drains. What the daemon would do is played: namespaces open, leases and reservations are
// given out.
//
// A crash is a finding, and so is a request that is performed before hello, or one that encodes to other bytes than came.

import KVStore

/// Plays one session; a finding is a crash.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 1 else { return 0 }
    play(mode: start[0], stream: Array(UnsafeBufferPointer(start: start + 1, count: count - 1)))
    return 0
}

private func play(mode: UInt8, stream: [UInt8]) {
    var machine = SessionMachine()
    machine.isDraining = mode & 16 != 0
    let peer = SessionMachine.Peer(tenant: mode & 1 != 0 ? "alice" : nil, isOperator: mode & 2 != 0)
    if mode & 8 != 0 {
        let hello = HelloRequest(name: "fuzz").body
        let header = FrameHeader(bodyByteCount: hello.count, kind: .request, verb: .hello, requestID: 0)
        _ = machine.received(header, hello)
        machine.authenticated(peer)
    }
    var offset = 0
    var nextID: UInt64 = 1
    while stream.count - offset >= FrameHeader.byteCount {
        let (header, verdict) = machine.judge(Array(stream[offset..<offset + FrameHeader.byteCount]))
        offset += FrameHeader.byteCount
        guard case .read(let byteCount) = verdict, let header else { return }
        // What is missing at the end of the input is zeros, or only inputs of just the right length would say anything.
        let available = min(byteCount, stream.count - offset)
        let missing = min(byteCount - available, 1 << 16)
        let body = Array(stream[offset..<offset + available]) + [UInt8](repeating: 0, count: missing)
        offset += available
        let hadPeer = machine.peer != nil
        switch machine.received(header, body) {
        case .perform(let request): perform(request, body, &machine, hadPeer, mode, &nextID)
        case .reply(let frame): check(frame)
        case .close(let frame):
            check(frame)
            return
        case .ignore: break
        }
    }
}

private func perform(
    _ request: SessionRequest,
    _ body: [UInt8],
    _ machine: inout SessionMachine,
    _ hadPeer: Bool,
    _ mode: UInt8,
    _ nextID: inout UInt64
) {
    if let prefix = request.prefix { precondition(prefix.body == body, "a prefix encodes to other bytes") }
    switch request {
    case .hello:
        precondition(!hadPeer, "hello was taken twice")
        let peer = SessionMachine.Peer(tenant: mode & 1 != 0 ? "alice" : nil, isOperator: mode & 2 != 0)
        machine.authenticated(mode & 4 != 0 ? nil : peer)
        return
    case .openNamespace(let identity):
        precondition(identity.canonicalEncoding == body, "an identity encodes to other bytes")
        if (try? identity.validate()) != nil {
            _ = identity.blockByteCount
            machine.opened(namespaceID: UInt32(machine.namespaceCount), blockByteCount: 64)
        }
    case .acquire:
        machine.leased(nextID, blockCount: 1)
        nextID += 1
    case .reserve:
        machine.reserved(nextID)
        nextID += 1
    case .release(let ids): precondition(machine.released(ids).count <= ids.count)
    case .commit(let id): precondition(machine.endReservation(id), "a reservation of nobody was committed")
    case .abandon(let id): _ = machine.endReservation(id)
    case .drain: precondition(machine.peer?.isOperator == true, "a tenant drained the daemon")
    default: break
    }
    precondition(hadPeer, "something was done before hello")
}

private func check(_ frame: Frame) {
    precondition(frame.body.count <= WireLimits.messageByteCount && frame.header.status != .ok)
    precondition(FrameHeader(frame.header.bytes) == frame.header, "a reply's header does not come back")
}
