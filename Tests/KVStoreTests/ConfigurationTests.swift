import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("Configuration")
struct ConfigurationTests {
    @Test func `One error names every limit that does not hold`() {
        var configuration = Configuration(memoryCapacityBytes: 1 << 20)
        configuration.memoryBlockLimit = 0
        var disk = DiskConfiguration(path: "", capacityBytes: 1 << 20)
        disk.blockLimit = -1
        disk.writeBackDelaySeconds = .nan
        disk.readerThreads = 0
        configuration.disk = disk
        configuration.scrub.memoryBytesPerSecond = -1
        configuration.scrub.diskBytesPerSecond = -1
        configuration.scrub.passIntervalSeconds = .nan
        configuration.scrub.startDelaySeconds = -1
        configuration.warmUpFraction = 1.5
        let error = #expect(throws: KVStoreError.self) { try BlockStore(configuration) }
        #expect(error?.code == .invalidArgument)
        let words = [
            "memoryCapacityBytes is 1048576", "16 MiB", "memoryBlockLimit", "disk path is empty", "disk capacity",
            "32 MiB",
            "disk block limit", "writeBackDelaySeconds", "readerThreads", "memoryBytesPerSecond", "diskBytesPerSecond",
            "passIntervalSeconds", "startDelaySeconds", "warmUpFraction",
        ]
        for word in words { #expect(error?.message.contains(word) == true, "\(word)") }
    }

    @Test func `Blocks too large for the cap say what would be needed`() throws {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        #expect(throws: Never.self) { try store.namespace(.test(blockBytes: 2 << 20)) }
        let error = #expect(throws: KVStoreError.self) { try store.namespace(.test(blockBytes: (2 << 20) + 2)) }
        #expect(error?.code == .invalidArgument)
        #expect(error?.message.contains("16777232") == true, "\(error?.message ?? "")")
        #expect(error?.message.contains("fewer tokens per block") == true)
    }

    @Test func `With what the error asks for the namespace opens`() throws {
        let directory = TemporaryDirectory()
        let disk = DiskConfiguration(path: directory.path, capacityBytes: 64 << 20)
        let identity = NamespaceIdentity.test(blockBytes: 3 << 20)
        let small = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20, disk: disk))
        let error = #expect(throws: KVStoreError.self) { try small.namespace(identity) }
        small.close()
        let number = try #require(error?.message.split(separator: " ").compactMap { Int($0.filter(\.isNumber)) }.max())
        let large = try BlockStore(Configuration(memoryCapacityBytes: number, disk: disk))
        let space = try large.namespace(identity)
        #expect(BlockStoreTests.put(large, space.prefix([1])) == 1)
        #expect(large.flush().refusedBlocks == 0)
    }
}
