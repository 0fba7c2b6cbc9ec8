import Foundation
import KVStore
import KVStoreTestSupport
import Testing

/// What the kernel counted for this process.
private struct Transferred {
    var readBytes = 0
    var writtenBytes = 0

    static func now() -> Transferred {
        var result = Transferred()
        let text = (try? String(contentsOfFile: "/proc/self/io", encoding: .utf8)) ?? ""
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: " ")
            guard parts.count == 2, let value = Int(parts[1]) else { continue }
            if parts[0] == "rchar:" { result.readBytes = value }
            if parts[0] == "wchar:" { result.writtenBytes = value }
        }
        return result
    }
}

@Suite("What is transferred") struct TransferCountTests {
    private static func open(_ path: String) throws -> (BlockStore, Prefix) {
        var disk = DiskConfiguration(path: path, capacityBytes: 256 << 20)
        disk.writeBackDelaySeconds = nil
        var configuration = Configuration(memoryCapacityBytes: 64 << 20, disk: disk)
        configuration.scrub = .off
        configuration.warmUpFraction = 0
        let store = try BlockStore(configuration)
        let space = try store.namespace(
            NamespaceIdentity(model: "counted", elementType: .opaque, opaqueBlockByteCount: 1 << 20, tokensPerBlock: 16)
        )
        store.waitUntilWarm()
        return (store, space.prefix(tokens: (0..<UInt32(32 * 16)).map { $0 }))
    }

    /// In a child: the kernel counts for a whole process.
    @Test func `Every byte goes to disk once and comes back once`() async {
        await #expect(processExitsWith: .success) {
            let directory = TemporaryDirectory("transfer")
            var random = SystemRandomNumberGenerator()
            let (store, prefix) = try TransferCountTests.open(directory.path + "/store")
            store.store(prefix) { _, bytes in
                for offset in stride(from: 0, to: bytes.byteCount, by: 8) {
                    bytes.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
                }
            }
            let beforeFlush = Transferred.now()
            #expect(store.flush().refusedBlocks == 0)
            let written = Transferred.now().writtenBytes - beforeFlush.writtenBytes
            let payload = 32 << 20
            // Index rows, logs and footers come on top; a second copy would be another 32 MiB.
            #expect(written >= payload && written < payload * 21 / 20, "\(written) bytes for \(payload)")
            store.close()

            let (again, same) = try TransferCountTests.open(directory.path + "/store")
            let beforeRead = Transferred.now()
            let lease = again.acquire(same)
            let count = lease?.count ?? 0
            #expect(count == 32)
            let read = Transferred.now().readBytes - beforeRead.readBytes
            // Direct reads are of whole pages, and each segment's own index is read once.
            #expect(read >= payload && read < payload * 11 / 10, "\(read) bytes for \(payload)")
            again.close()
        }
    }
}
