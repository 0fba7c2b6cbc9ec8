import KVStoreTestSupport
import Testing

@testable import KVStore

/// Codecs where users meet them: a store is filled, closed, opened again and read.
@Suite("Codecs in a store")
struct CodecStoreTests {
    private static func identity(_ storage: NamespaceIdentity.Storage) -> NamespaceIdentity {
        NamespaceIdentity(
            model: "m",
            layers: 4,
            keyHeads: 2,
            keyHeadDimension: 64,
            tokensPerBlock: 64,
            storage: storage
        )
    }

    private static let blocks = (0..<8).map {
        KVSample.generated(FrameGeometry(identity(.lossless)), seed: UInt64($0))
    }

    /// With record headers; the disk is too young to be called slow.
    private static let leastRatios: [CodecChoice: Double] = [
        .automatic: 1.32, .raw: 0.99, .lz4: 0.99, .nib4: 1.32, .nib4h: 1.45, .hsplit: 1.45, .int8: 1.9,
    ]

    /// Writes all blocks, opens the store again, and gives back what is read from disk.
    private func restart(_ codec: CodecChoice, _ identity: NamespaceIdentity) throws -> [[UInt8]] {
        let directory = DiskScratch()
        var disk = DiskConfiguration(path: directory.store, capacityBytes: 64 << 20)
        disk.codec = codec
        let configuration = Configuration(memoryCapacityBytes: 32 << 20, disk: disk)
        let tokens = (0..<8 * 64).map { UInt32($0) }
        do {
            let store = try BlockStore(configuration)
            let prefix = try store.namespace(identity).prefix(tokens: tokens)
            store.store(prefix) { number, span in
                span.withUnsafeMutableBytes { $0.copyBytes(from: Self.blocks[number]) }
            }
            // What is in memory is as it was stored, whatever the disk may do.
            guard let lease = store.acquire(prefix) else { throw KVStoreError(.corrupt, "nothing is stored") }
            for (number, block) in Self.blocks.enumerated() {
                #expect(lease.withBytes(at: number) { $0.withUnsafeBytes { Array($0) } } == block)
            }
            #expect(store.flush().durableBlocks == 8)
            let ratio = store.statistics.compressionRatio
            #expect(ratio >= Self.leastRatios[codec]! || identity.storage == .int8 && ratio >= 1.9, "\(ratio)")
            store.close()
        }
        let store = try BlockStore(configuration)
        defer { store.close() }
        #expect(store.waitUntilWarm())
        let prefix = try store.namespace(identity).prefix(tokens: tokens)
        guard let lease = store.acquire(prefix), lease.count == 8 else {
            throw KVStoreError(.corrupt, "not all blocks were found again")
        }
        #expect(store.statistics.corruptBlocks == 0)
        var found: [[UInt8]] = []
        for number in 0..<8 { found.append(lease.withBytes(at: number) { $0.withUnsafeBytes { Array($0) } }) }
        return found
    }

    @Test(arguments: [CodecChoice.automatic, .raw, .lz4, .nib4, .nib4h, .hsplit])
    func `Blocks come back bit for bit after a restart`(codec: CodecChoice) throws {
        #expect(try restart(codec, Self.identity(.lossless)) == Self.blocks)
    }

    @Test(arguments: [CodecChoice.automatic, .int8])
    func `Blocks of a namespace that allows loss come back nearly`(codec: CodecChoice) throws {
        for (found, block) in zip(try restart(codec, Self.identity(.int8)), Self.blocks) {
            #expect(found != block)
            #expect(CodecReference.relativeError(found, of: block, .bf16) <= 0.007)
        }
    }

    @Test func `A namespace that allows loss and one that does not never share a block`() throws {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 32 << 20))
        let tokens = (0..<64).map { UInt32($0) }
        let lossy = try store.namespace(Self.identity(.int8)).prefix(tokens: tokens)
        store.store(lossy) { _, span in span.withUnsafeMutableBytes { $0.copyBytes(from: Self.blocks[0]) } }
        #expect(store.match(lossy).count == 1)
        #expect(store.match(try store.namespace(Self.identity(.lossless)).prefix(tokens: tokens)).count == 0)
    }
}
