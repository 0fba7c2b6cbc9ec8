import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("Hottest prefixes and what is shown of keys")
struct HotPrefixTests {
    private static func filled() throws -> (store: BlockStore, space: Namespace) {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        let space = try store.namespace(.test(tenant: "acme", model: "llama"))
        // A system prompt of 16-token blocks that ten conversations share, and one prompt that is used alone.
        for conversation in 0..<10 {
            let tokens = [UInt32](repeating: 7, count: 64) + [UInt32](repeating: UInt32(100 + conversation), count: 32)
            let prefix = space.prefix(tokens: tokens)
            BlockStoreTests.put(store, prefix)
            _ = BlockStoreTests.get(store, prefix)
            _ = BlockStoreTests.get(store, prefix)
        }
        let alone = space.prefix(tokens: [UInt32](repeating: 9, count: 48))
        BlockStoreTests.put(store, alone)
        for _ in 0..<4 { _ = BlockStoreTests.get(store, alone) }
        return (store, space)
    }

    @Test func `A shared system prompt comes first and ends where its uses end`() throws {
        let (store, _) = try Self.filled()
        let hottest = store.hottestPrefixes(limit: 3)
        #expect(hottest.count == 3)
        #expect(hottest[0].blocks == 4)
        #expect(hottest[0].uses == 20)
        #expect(hottest[0].tenant == "acme")
        #expect(hottest[0].namespace == "llama")
        #expect(hottest[0].lastUsedSeconds != nil)
        #expect(hottest[1].blocks == 3)
        #expect(hottest[1].uses == 4)
        #expect(hottest[2].uses == 2)
        #expect(store.hottestPrefixes(limit: 0).isEmpty)
        #expect(store.hottestPrefixes(limit: 1000).count == 12)
    }

    @Test func `Shown hashes are those of one store only and never a key or fingerprint`() throws {
        let (first, space) = try Self.filled()
        let (second, _) = try Self.filled()
        let shown = [first, second].map { $0.hottestPrefixes(limit: 1)[0].keyHash }
        let fingerprints = [first, second].map { $0.namespaceStatistics()[0].fingerprintPrefix }
        for text in shown + fingerprints {
            #expect(text.count == 8)
            #expect(text.allSatisfy { $0.isHexDigit })
        }
        #expect(shown[0] != shown[1])
        #expect(fingerprints[0] != fingerprints[1])
        #expect(first.namespaceStatistics()[0].fingerprintPrefix == fingerprints[0])
        let hexOfFingerprint = String("\(space.fingerprint)".prefix(8))
        #expect(!fingerprints.contains(hexOfFingerprint))
        let key = space.prefix(tokens: [UInt32](repeating: 7, count: 64)).keys[3]
        #expect(!shown.contains(String("\(key)".prefix(8))))
    }

    @Test func `What is only in memory is counted until it is written or gone`() throws {
        let directory = TemporaryDirectory("unwritten")
        var disk = DiskConfiguration(path: directory.path + "/store", capacityBytes: 64 << 20)
        disk.writeBackDelaySeconds = nil
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20, disk: disk))
        #expect(store.waitUntilWarm())
        let space = try store.namespace(.test())
        BlockStoreTests.put(store, space.prefix([1, 2, 3]))
        #expect(store.statistics.unwrittenBlocks == 3)
        store.remove(space.prefix([1, 2, 3]), from: 2)
        #expect(store.statistics.unwrittenBlocks == 2)
        #expect((store.flush() as FlushResult).refusedBlocks == 0)
        #expect(store.statistics.unwrittenBlocks == 0)
        BlockStoreTests.put(store, space.prefix([1, 2, 4]))
        #expect(store.statistics.unwrittenBlocks == 1)
        store.close()
    }
}
