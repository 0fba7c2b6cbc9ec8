import Foundation
import KVStore
import KVStoreTestSupport
import Testing

@Suite("The README's example")
struct ReadmeExampleTests {
    /// The body of this function between the marks is, line by line, the example in README.md.
    static func example(path: String, promptTokens: [UInt32]) throws -> Int {
        // example begins
        let disk = DiskConfiguration(path: path, capacityBytes: 1 << 30)
        let store = try BlockStore(Configuration(memoryCapacityBytes: 64 << 20, disk: disk))
        let llama = try store.namespace(
            NamespaceIdentity(
                model: "Llama-3-8B", revision: "8cde5ca8", elementType: .bf16, layers: 32, keyHeads: 8,
                keyHeadDimension: 128, tokensPerBlock: 16))
        let prefix = llama.prefix(tokens: promptTokens)
        store.waitUntilWarm()  // or go on at once: the index loads in the background, misses count as warming

        var loadedBlocks = 0
        if let lease = store.acquire(prefix) {  // what is stored, from the front, in place
            for block in 0..<lease.count { lease.withBytes(at: block) { attendOver($0) } }
            loadedBlocks = lease.count
        }  // the lease ends here
        store.store(prefix) { block, bytes in computeKV(ofBlock: block, into: &bytes) }  // only what was missing
        let flushed = store.flush()  // durable: survives kill -9
        print("loaded \(loadedBlocks) of \(prefix.keys.count) blocks, \(flushed.durableBlocks) are on disk")
        store.close()
        // example ends
        return loadedBlocks
    }

    @Test func `runs and finds after a restart what it stored before`() throws {
        let directory = TemporaryDirectory("readme")
        let tokens = (0..<40).map { UInt32($0) }
        #expect(try Self.example(path: directory.path + "/store", promptTokens: tokens) == 0)
        let loaded = try Self.example(path: directory.path + "/store", promptTokens: tokens)
        #expect(loaded == 2)
    }

    @Test func `is the one that README shows`() throws {
        let source = try String(contentsOfFile: #filePath, encoding: .utf8)
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let readme = try String(contentsOf: root.appending(path: "README.md"), encoding: .utf8)
        let body = source.components(separatedBy: "// example begins\n")[1]
            .components(separatedBy: "        // example ends")[0]
        let lines = body.split(separator: "\n", omittingEmptySubsequences: false).map { $0.dropFirst(8) }
        #expect(readme.contains(lines.joined(separator: "\n").trimmingCharacters(in: .newlines)))
    }
}

private func attendOver(_ bytes: RawSpan) {}

private func computeKV(ofBlock block: Int, into bytes: inout MutableRawSpan) {
    for offset in stride(from: 0, to: bytes.byteCount, by: 8) {
        bytes.storeBytes(of: UInt64(block + offset), toByteOffset: offset, as: UInt64.self)
    }
}
