import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

/// A removal takes what builds on the removed blocks too, and a crash must not bring any of it back: not even when a
/// removed parent is stored again, which would make its old children reachable.
@Suite("What was removed with its parent")
struct RemovalTests {
    private static func configuration(_ path: String) -> Configuration {
        var disk = DiskConfiguration(path: path, capacityBytes: 64 << 20)
        disk.writeBackDelaySeconds = nil
        return Configuration(memoryCapacityBytes: 16 << 20, disk: disk)
    }

    @Test(arguments: [[], ["CURRENT"], [".log"], ["MANIFEST", ".log"]])
    func `stays gone when the parent is stored again and the process is killed`(_ alsoLost: [String]) throws {
        let (open, killed) = (TemporaryDirectory("removal"), TemporaryDirectory("removal"))
        let store = try BlockStore(Self.configuration(open.path + "/store"))
        #expect(store.waitUntilWarm())
        let space = try store.namespace(.test())
        func put(_ path: [Int]) {
            let prefix = space.prefix(path)
            store.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
        }
        put([1, 2, 3, 4])
        put([1, 2, 30])
        #expect(store.flush().refusedBlocks == 0)
        // Names block 2 only; 3, 4 and 30 go with it.
        #expect(store.remove(space.prefix([1, 2]), from: 1) == 4)
        put([1, 2])
        #expect(store.flush().refusedBlocks == 0)
        try FileManager.default.copyItem(atPath: open.path + "/store", toPath: killed.path + "/store")
        store.close()

        let folder = killed.path + "/store/db"
        for name in DirectoryMeasure.files(in: folder)
        where alsoLost.contains(where: { name.hasPrefix($0) || name.hasSuffix($0) }) {
            try FileManager.default.removeItem(atPath: folder + "/" + name)
        }
        let again = try BlockStore(Self.configuration(killed.path + "/store"))
        #expect(again.waitUntilWarm())
        let sameSpace = try again.namespace(.test())
        #expect(again.match(sameSpace.prefix([1, 2, 3, 4])).count == 2)
        #expect(again.match(sameSpace.prefix([1, 2, 30])).count == 2)
    }

    @Test func `stays gone although the removal came before the disk tier was open`() throws {
        let (open, killed) = (TemporaryDirectory("removal"), TemporaryDirectory("removal"))
        for round in 0..<10 {
            do {
                let store = try BlockStore(Self.configuration(open.path + "/store"))
                #expect(store.waitUntilWarm())
                let prefix = try store.namespace(.test()).prefix([round * 10, round * 10 + 1])
                store.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
            }
            let store = try BlockStore(Self.configuration(open.path + "/store"))
            let prefix = try store.namespace(.test()).prefix([round * 10, round * 10 + 1])
            store.remove(prefix, from: 1)
            // As a kill right after the return would leave it; `removals.log` alone has to be enough.
            let copy = killed.path + "/\(round)"
            try FileManager.default.createDirectory(atPath: copy, withIntermediateDirectories: true)
            try FileManager.default.copyItem(atPath: open.path + "/store/removals.log", toPath: copy + "/removals.log")
            store.close()
            let (log, removals, _) = try RemovalsLog.open(copy + "/removals.log")
            log.close()
            let namespace = prefix.namespace
            let identity = BlockIdentity(
                tenant: namespace.identity.tenantHash,
                fingerprint: namespace.fingerprint,
                key: prefix.keys[1]
            )
            #expect(removals.covers(identity, at: RecordPosition(segment: UInt32(round) + 1, ordinal: 1)))
        }
    }

    /// The writer chose its blocks before it appends them: one that is removed in between is appended after its removal.
    @Test(arguments: [false, true])
    func `is not written by a segment that was begun before`(_ losesLog: Bool) throws {
        let directory = TemporaryDirectory("removal")
        let path = directory.path + "/store"
        let space = try BlockStore(Configuration()).namespace(.test())
        let keys = space.prefix([1, 2]).keys
        let log = try SegmentLog(directory: path)
        let writer = try log.beginSegment()
        try log.remove(
            [BlockIdentity(tenant: 1, fingerprint: space.fingerprint, key: keys[1])],
            includingOpenSegments: true
        )
        for (number, key) in keys.enumerated() {
            let row = IndexRow(
                key: key,
                parent: number == 0 ? space.fingerprint : keys[number - 1],
                fingerprint: space.fingerprint,
                tenant: 1,
                rawByteCount: 4096
            )
            let record = [UInt8](repeating: UInt8(number), count: 4096)
            let appended = record.withUnsafeBytes { bytes in
                Result { () throws(KVStoreError) in try writer.append(row, record: bytes) }
            }
            _ = try appended.get()
        }
        #expect(try writer.seal().staleRows.map(\.key) == [keys[1]])
        log.close()
        if losesLog { try FileManager.default.removeItem(atPath: path + "/db/CURRENT") }
        var found: [BlockKey] = []
        try SegmentLog(directory: path).forEachRow {
            found.append($0.key)
            return true
        }
        #expect(found == [keys[0]])
    }
}
