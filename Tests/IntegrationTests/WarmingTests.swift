import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

/// A store is used from the first moment, while the index of its disk tier is still being loaded. A block that is
/// reserved just then has a row on disk already, and must not lose it.
@Suite("A block that is reserved while the index loads")
struct WarmingTests {
    @Test(arguments: [0.1, 1.5])
    func `is still on disk when the reservation is given back`(_ heldSeconds: Double) throws {
        let directory = TemporaryDirectory("warming")
        var disk = DiskConfiguration(path: directory.path + "/store", capacityBytes: 64 << 20)
        disk.writeBackDelaySeconds = nil
        let configuration = Configuration(memoryCapacityBytes: 16 << 20, disk: disk)
        do {
            let store = try BlockStore(configuration)
            #expect(store.waitUntilWarm())
            let prefix = try store.namespace(.test()).prefix([1, 2, 3, 4])
            store.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
        }
        do {
            let store = try BlockStore(configuration)
            let space = try store.namespace(.test())
            do {
                // Opening takes milliseconds, so this comes first.
                let reservation = store.reserve(space.prefix([1, 2]))
                let count = reservation?.count
                #expect(count == 2)
                usleep(UInt32(heldSeconds * 1e6))
            }
            #expect(store.waitUntilWarm())
            if heldSeconds < 1 { #expect(store.match(space.prefix([1, 2, 3, 4])).count == 4) }
            // Writes a segment, before which rows of blocks that are gone are deleted.
            let other = space.prefix([9])
            store.store(other) { _, span in Payload.fill(&span, key: other.keys[0]) }
            #expect(store.flush().refusedBlocks == 0)
        }
        let store = try BlockStore(configuration)
        #expect(store.waitUntilWarm())
        #expect(store.match(try store.namespace(.test()).prefix([1, 2, 3, 4])).count == 4)
    }
}
