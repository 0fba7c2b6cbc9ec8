import KVStore
import Testing

@testable import KVStoreIPC

/// What a client checks before it believes anything, and what it says of itself.
@Suite("A client")
struct ClientTrustTests {
    /// Root is 0, the client's user 1000, the daemon's 200, a stranger 33.
    @Test func `believes root, its own user, and others where nobody else can have put the socket`() {
        func trusts(_ listener: UInt32, in owner: UInt32?, closed: Bool = true, belowClosed: Bool = true) -> Bool {
            let place = owner.map { UnixSocket.Place(owner: $0, isClosed: closed, isBelowClosed: belowClosed) }
            return UnixSocket.isTrusted(listener: listener, own: 1000, place: place)
        }
        for listener: UInt32 in [0, 1000] {
            #expect(trusts(listener, in: 33, closed: false, belowClosed: false) && trusts(listener, in: nil))
        }
        // As systemd has it: /run/kvstore is root's, the daemon has a user of its own.
        #expect(trusts(200, in: 0) && trusts(200, in: 1000))
        #expect(trusts(200, in: 200))
        // In /tmp, in a directory that its owner made below /tmp, in one that others write to.
        #expect(!trusts(33, in: 0, closed: false))
        #expect(!trusts(33, in: 33, belowClosed: false))
        #expect(!trusts(33, in: 33, closed: false))
        #expect(!trusts(33, in: 200) && !trusts(33, in: nil))
    }

    @Test func `with a token that is too long is told so and does not trap`() {
        for byteCount in [WireLimits.tokenByteCount + 1, 70_000] {
            var options = ClientOptions()
            options.token = [UInt8](repeating: 7, count: byteCount)
            let error = #expect(throws: ClientError.self) {
                try DaemonClient(socketPath: "/nowhere/k.sock", options: options)
            }
            #expect(error?.message.contains("at most 1024 bytes, this one \(byteCount)") == true)
        }
    }

    @Test func `cuts a long name between characters`() {
        #expect(ClientConnection.wireName("") == "kvstore client")
        #expect(ClientConnection.wireName("engine 7") == "engine 7")
        let long = ClientConnection.wireName(String(repeating: "ü", count: 70_000))
        #expect(long == String(repeating: "ü", count: WireLimits.nameByteCount / 2))
    }
}
