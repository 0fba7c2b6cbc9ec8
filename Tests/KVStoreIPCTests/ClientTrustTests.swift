import KVStore
import Testing

@testable import KVStoreIPC

/// What a client checks before it believes anything, and what it says of itself.
@Suite("A client")
struct ClientTrustTests {
    /// Root is 0, the client's user 1000, the owner of the socket's directory 200.
    @Test(arguments: [
        (0, 200, true), (1000, 200, true), (200, 200, true), (33, 200, false), (33, 0, false), (33, nil, false),
    ])
    func `believes root, its own user and the owner of the directory`(
        listener: UInt32,
        directoryOwner: UInt32?,
        isTrusted: Bool
    ) {
        #expect(UnixSocket.isTrusted(listener: listener, own: 1000, directoryOwner: directoryOwner) == isTrusted)
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
