import Testing

@testable import KVStoreIPC

@Suite("Where the socket is")
struct DaemonSocketTests {
    @Test func `The variable goes before the runtime directory and that before the system's`() {
        func path(_ environment: [String: String]) -> String { DaemonSocket.standardPath { environment[$0] } }
        #expect(path([:]) == "/run/kvstore/kvstore.sock")
        #expect(path(["XDG_RUNTIME_DIR": "/run/user/7"]) == "/run/user/7/kvstore/kvstore.sock")
        #expect(path(["XDG_RUNTIME_DIR": "/run/user/7/"]) == "/run/user/7/kvstore/kvstore.sock")
        #expect(path(["XDG_RUNTIME_DIR": "/run/user/7", "KVSTORE_SOCKET": "/tmp/s"]) == "/tmp/s")
        #expect(path(["XDG_RUNTIME_DIR": "", "KVSTORE_SOCKET": ""]) == "/run/kvstore/kvstore.sock")
    }
}
