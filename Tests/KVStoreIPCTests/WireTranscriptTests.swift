import Foundation
import KVStore
import Testing

@testable import KVStoreIPC

/// The conversation that WireProtocol.md shows. To accept a new one, run with KVSTORE_REWRITE_GOLDEN=1 and look at the
/// difference before you commit it: what it shows is what clients of other languages were written against.
@Suite("The transcript in the documentation")
struct WireTranscriptTests {
    private static let marker = "<!-- transcript: made by WireTranscriptTests, which fails when it differs -->\n"

    @Test func `is what the code sends`() throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent()
            .appending(path: "../../Sources/KVStoreIPC/KVStoreIPC.docc/WireProtocol.md").standardizedFileURL
        let text = try String(contentsOf: file, encoding: .utf8)
        let start = try #require(text.range(of: Self.marker))
        let expected = String(text[..<start.upperBound]) + "```\n" + Self.transcript() + "```\n"
        if ProcessInfo.processInfo.environment["KVSTORE_REWRITE_GOLDEN"] != nil {
            try expected.write(to: file, atomically: true, encoding: .utf8)
        }
        #expect(text == expected, "WireProtocol.md shows another conversation")
    }

    private static func transcript() -> String {
        let identity = NamespaceIdentity(
            model: "tiny", layers: 2, keyHeads: 1, keyHeadDimension: 64, tokensPerBlock: 16
        )
        let fingerprint = BlockKey(sha256Of: Array("an example".utf8))
        let keys = PrefixHasher(fingerprint: fingerprint, tokensPerBlock: 16).keys(tokens: Array(0..<32))
        let blocks = PrefixRequest(namespaceID: 1, tokenCount: 32, blocks: .keys(keys))
        let hello = HelloReply(
            hasTenant: true,
            isOperator: false,
            leaseMilliseconds: 10_000,
            stagingByteCount: 64 << 20,
            daemonID: 0x1122_3344_5566_7788,
            tenant: "alice"
        )
        let region = RegionsEvent.Region(
            id: 7, kind: .slots, slotCount: 255, slotByteCount: 8192, byteCount: 255 * 8192 + 4096
        )
        let lease = AcquireReply(
            leaseID: 42,
            places: [
                WirePlace(regionID: 7, slotIndex: 0, generation: 3),
                WirePlace(regionID: 7, slotIndex: 9, generation: 1),
            ],
            tiers: [.memory, .disk]
        )
        let frames: [(String, Frame)] = [
            ("→ HELLO", Frame(.request, .hello, requestID: 1, body: HelloRequest(name: "engine").body)),
            ("← HELLO", Frame(.reply, .hello, requestID: 1, body: hello.body)),
            ("→ OPEN_NAMESPACE", Frame(.request, .openNamespace, requestID: 2, body: identity.canonicalEncoding)),
            (
                "← OPEN_NAMESPACE",
                Frame(
                    .reply,
                    .openNamespace,
                    requestID: 2,
                    body: NamespaceReply(namespaceID: 1, blockByteCount: 8192, fingerprint: fingerprint).body
                )
            ),
            ("→ ACQUIRE", Frame(.request, .acquire, requestID: 3, body: blocks.body)),
            (
                "← REGIONS, with one descriptor",
                Frame(.event, .regions, requestID: 0, body: RegionsEvent(regions: [region]).body)
            ),
            ("← ACQUIRE", Frame(.reply, .acquire, requestID: 3, body: lease.body)),
            ("→ RELEASE", Frame(.request, .release, requestID: 4, body: NumberList.body([42 as UInt64]))),
            ("→ DRAIN", Frame(.request, .drain, requestID: 5)),
            (
                "← DRAIN, refused",
                .refusal(.forbidden, "only an operator may do this", verb: Verb.drain.rawValue, requestID: 5)
            ),
        ]
        return frames.map { name, frame in name + "\n" + hexLines(frame.bytes) }.joined()
    }

    private static func hexLines(_ bytes: [UInt8]) -> String {
        stride(from: 0, to: bytes.count, by: 16).map { start in
            let line = bytes[start..<min(start + 16, bytes.count)]
            return "  " + line.map { String(format: "%02x", $0) }.joined(separator: " ") + "\n"
        }.joined()
    }
}
