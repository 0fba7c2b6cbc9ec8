import Foundation
import KVStore
import KVStoreTestSupport
import Testing

@testable import KVStoreIPC
@testable import KVStoreServer

/// What Settings.md says about SIGHUP and connections that are open.
@Suite struct ReloadTests {
    private static func tenants(_ names: [(name: String, token: String)], leaseTTL: String) -> String {
        "leaseTTL: \(leaseTTL)\ntenants:\n"
            + names.map { "  - name: \($0.name)\n    tokenFile: \($0.token)\n" }.joined()
    }

    @Test func `an open connection keeps its tenant and its lease time and a new one gets what the file says`()
        async throws
    {
        let directory = TemporaryDirectory("reload")
        let gone = try DaemonHarness.makeToken("g", in: directory)
        let kept = try DaemonHarness.makeToken("k", in: directory)
        let (goneFile, keptFile) = (directory.path + "/g.token", directory.path + "/k.token")
        let harness = try await DaemonHarness(
            in: directory, tenants: Self.tenants([("gone", goneFile), ("kept", keptFile)], leaseTTL: "20s"))
        let result = Result {
            try Self.check(harness, gone, kept) {
                try Self.tenants([("kept", keptFile)], leaseTTL: "30s")
                    .write(toFile: directory.path + "/kvstore.yaml", atomically: true, encoding: .utf8)
                harness.daemon.reload()
            }
        }
        await harness.stop()
        try result.get()
    }

    @inline(never)
    private static func check(
        _ harness: DaemonHarness,
        _ gone: [UInt8],
        _ kept: [UInt8],
        _ reload: () throws -> Void
    ) throws {
        var old = try harness.connection(token: gone)
        #expect(old.hello.tenant == "gone" && old.hello.leaseMilliseconds == 20_000)
        try reload()
        // Its tenant is in no file any more, and yet it goes on.
        let identity = NamespaceIdentity(model: "m", opaqueBlockByteCount: 64, tokensPerBlock: 16)
        let opened = try old.call(.openNamespace, identity.canonicalEncoding, deadline: farAway)
        #expect(NamespaceReply(opened) != nil)
        #expect(throws: ClientError.self) { _ = try harness.connection(token: gone).hello }
        let new = try harness.connection(token: kept)
        #expect(new.hello.tenant == "kept" && new.hello.leaseMilliseconds == 30_000)
    }
}
