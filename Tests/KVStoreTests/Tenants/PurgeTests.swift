import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("Purge of a tenant")
struct PurgeTests {
    private static func configuration(_ path: String) -> Configuration {
        var disk = DiskConfiguration(path: path, capacityBytes: 64 << 20)
        disk.writeBackDelaySeconds = nil
        var configuration = Configuration(memoryCapacityBytes: 16 << 20, disk: disk)
        configuration.scrub = .off
        configuration.warmUpFraction = 0
        return configuration
    }

    private static func put(_ store: BlockStore, _ prefix: Prefix) {
        store.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
    }

    private static func isServed(_ store: BlockStore, _ prefix: Prefix) -> Bool {
        guard let lease = store.acquire(prefix), lease.count == prefix.keys.count else { return false }
        for (index, key) in prefix.keys.enumerated() {
            let isGood = lease.withBytes(at: index) { Payload.matches($0, key: key) }
            if !isGood { return false }
        }
        return true
    }

    /// A copy of the directory is what a kill -9 at this moment would leave.
    private static func copy(_ path: String, to other: TemporaryDirectory, without lost: [String]) throws -> String {
        let copied = other.path + "/store"
        try FileManager.default.copyItem(atPath: path, toPath: copied)
        for name in try FileManager.default.contentsOfDirectory(atPath: copied + "/db")
        where lost.contains(where: { name.hasPrefix($0) || name.hasSuffix($0) }) {
            try FileManager.default.removeItem(atPath: copied + "/db/" + name)
        }
        return copied
    }

    @Test(arguments: [[], ["CURRENT"], [".log"], ["MANIFEST", ".log"]])
    func `takes its blocks from every tier for good and nobody else's`(_ alsoLost: [String]) throws {
        let (open, killed, killedLater) = (
            TemporaryDirectory("purge"), TemporaryDirectory("purge"), TemporaryDirectory("purge")
        )
        let path = open.path + "/store"
        let store = try BlockStore(Self.configuration(path))
        #expect(store.waitUntilWarm())
        let gone = [
            try store.namespace(.test(tenant: "gone")), try store.namespace(.test(tenant: "gone", model: "other")),
        ]
        let stays = try store.namespace(.test(tenant: "stays"))
        for number in 0..<20 {
            for space in gone { Self.put(store, space.chain([number, 1, 2])) }
            Self.put(store, stays.chain([number, 1, 2]))
        }
        #expect((store.flush() as FlushResult).refusedBlocks == 0)
        // These are only in memory.
        for number in 20..<25 { Self.put(store, gone[0].chain([number])) }
        let held = store.acquire(gone[0].chain([3, 1, 2]))!
        let reserved = store.reserve(gone[0].chain([99]))!
        // Two times 20 chains of 3, 5 more, and the one that is reserved.
        #expect(store.purge(tenant: "gone") == 126)

        let left = try #require(store.tenantStatistics().first { $0.name == "gone" })
        #expect(left.diskBlocks == 0)
        #expect(left.diskBytes == 0)
        #expect(left.memoryBlocks == 0)
        #expect(left.unwrittenBlocks == 0)
        #expect(store.core.with { $0.checkInvariants() } == [])
        #expect(held.withBytes(at: 0) { Payload.matches($0, key: gone[0].chain([3]).keys[0]) })
        let late = reserved.commit()
        #expect(late == 0)
        for number in 0..<25 {
            for space in gone { #expect(store.match(space.chain([number])).count == 0) }
        }
        let afterKill = try Self.copy(path, to: killed, without: alsoLost)

        // Stored again, it is as good as anything.
        Self.put(store, gone[0].chain([1, 1, 2]))
        #expect((store.flush() as FlushResult).refusedBlocks == 0)
        let afterMore = try Self.copy(path, to: killedLater, without: alsoLost)
        for number in 0..<20 { #expect(store.match(stays.chain([number])).count == 1) }
        _ = consume held
        store.close()

        for (path, found) in [(afterKill, 0), (afterMore, 3)] {
            let again = try BlockStore(Self.configuration(path))
            #expect(again.waitUntilWarm())
            let spaces = [
                try again.namespace(.test(tenant: "gone")), try again.namespace(.test(tenant: "gone", model: "other")),
            ]
            for number in 0..<25 where number != 1 {
                for space in spaces { #expect(again.match(space.chain([number])).count == 0) }
            }
            #expect(again.match(spaces[0].chain([1, 1, 2])).count == found)
            let others = try again.namespace(.test(tenant: "stays"))
            for number in 0..<20 { #expect(Self.isServed(again, others.chain([number]))) }
            #expect(again.core.with { $0.checkInvariants() } == [])
        }
    }

    @Test func `holds although it came before the index was loaded`() throws {
        let directory = TemporaryDirectory("purge")
        let path = directory.path + "/store"
        do {
            let store = try BlockStore(Self.configuration(path))
            #expect(store.waitUntilWarm())
            for tenant in ["gone", "stays"] {
                let space = try store.namespace(.test(tenant: tenant))
                for number in 0..<500 { Self.put(store, space.chain([number])) }
            }
            store.close()
        }
        for _ in 0..<2 {
            let store = try BlockStore(Self.configuration(path))
            store.purge(tenant: "gone")
            #expect(store.waitUntilWarm())
            let (gone, stays) = (
                try store.namespace(.test(tenant: "gone")), try store.namespace(.test(tenant: "stays"))
            )
            for number in 0..<500 {
                #expect(store.match(gone.chain([number])).count == 0)
                #expect(store.match(stays.chain([number])).count == 1)
            }
            #expect(store.core.with { $0.checkInvariants() } == [])
            store.close()
        }
    }

    @Test func `of a tenant nobody knows takes nothing`() throws {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        Self.put(store, try store.namespace(.test()).chain([1, 2]))
        #expect(store.purge(tenant: "nobody") == 0)
        #expect(store.statistics.memory.blocks == 2)
        #expect(store.purge(tenant: "tenant") == 2)
        #expect(store.statistics.removedBlocks == 2)
        #expect(store.statistics.memory.blocks == 0)
    }

    private static func flushNow(_ store: BlockStore) -> FlushResult { store.flush() }

    @Test func `may run beside those who store`() async throws {
        let directory = TemporaryDirectory("purge")
        let store = try BlockStore(Self.configuration(directory.path + "/store"))
        #expect(store.waitUntilWarm())
        let gone = try store.namespace(.test(tenant: "gone"))
        let stays = try store.namespace(.test(tenant: "stays"))
        await withTaskGroup(of: Void.self) { group in
            for worker in 0..<2 {
                group.addTask {
                    for number in 0..<300 {
                        Self.put(store, gone.chain([worker * 1000 + number % 50, 1, 2, 3]))
                        Self.put(store, stays.chain([worker * 1000 + number % 50, 1, 2, 3]))
                    }
                }
            }
            group.addTask { for _ in 0..<20 { store.purge(tenant: "gone") } }
            group.addTask { for _ in 0..<5 { _ = await store.flush() } }
        }
        #expect(store.core.with { $0.checkInvariants() } == [])
        store.purge(tenant: "gone")
        let end = try #require(store.tenantStatistics().first { $0.name == "gone" })
        #expect(end.memoryBlocks == 0)
        #expect(end.diskBlocks == 0)
        #expect(Self.flushNow(store).refusedBlocks == 0)
        let durable = try #require(store.tenantStatistics().first { $0.name == "stays" }).diskBlocks
        store.close()
        let again = try BlockStore(Self.configuration(directory.path + "/store"))
        #expect(again.waitUntilWarm())
        _ = try again.namespace(.test(tenant: "gone"))
        #expect(again.tenantStatistics().first { $0.name == "gone" }?.diskBlocks == 0)
        #expect(again.statistics.disk.blocks == durable)
    }
}
