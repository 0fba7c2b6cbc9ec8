import Foundation
import Testing

@testable import KVStore

/// Every case starts from the same store, killed with unflushed rows: segments 1 to 4 with blocks 0..<40 of tenants 1
/// and 2, of which block 5 was removed, block 6 forgotten, and a namespace of tenant 2 with blocks 20..<30 purged.
@Suite("A damaged segment log") struct SegmentLogDamageTests {
    static let present = Set(0..<40).subtracting(20..<30).subtracting([5])

    let scratch: DiskScratch
    /// The table file of each segment.
    let tables: [UInt32: String]

    init() throws {
        let original = DiskScratch()
        let log = try original.open()
        try log.putNamespace(NamespaceRow(fingerprint: DiskSample.namespaceA, tenant: 1, description: [42]))
        try log.write(0..<10)
        try log.write(10..<20)
        try log.write(20..<30, tenant: 2, fingerprint: DiskSample.namespaceB)
        try log.write(30..<40)
        try log.remove([DiskSample.identity(5)])
        try log.forget([DiskSample.identity(6)])
        try log.purge(namespace: DiskSample.namespaceB, tenant: 2)
        let copy = try original.afterKill()
        scratch = copy
        tables = try Dictionary(
            uniqueKeysWithValues: (1...4).map {
                ($0, try original.table(of: $0, in: log).replacing(original.store, with: copy.store))
            }
        )
    }

    /// All that has to hold whatever was damaged.
    private func check(_ log: SegmentLog, lost: Range<Int> = 0..<0, forgottenMayReturn: Bool = true) throws {
        let blocks = try log.blocks()
        #expect(blocks.subtracting([6]) == Self.present.subtracting(lost).subtracting([6]))
        if !forgottenMayReturn { #expect(!blocks.contains(6)) }
        #expect(!log.isBroken)
        // It works on, and what comes back is the same after one more kill.
        let id = try log.write(100..<105)
        #expect(log.segments().map(\.id).max() == id)
        #expect(try log.liveTables().filter { $0.family == .segments }.allSatisfy { $0.level == 6 })
        log.close()
        let again = try scratch.open()
        #expect(again.recovery == RecoveryReport())
        #expect(try again.blocks() == blocks.union(100..<105))
        #expect(!scratch.exists("salvage"))
        #expect(scratch.files("incoming").isEmpty)
    }

    @Test func `is all there after a kill`() throws {
        let log = try scratch.open()
        #expect(!log.recovery.wasRepaired)
        try check(log, forgottenMayReturn: false)
    }

    @Test(arguments: ["CURRENT", "MANIFEST", "IDENTITY", "OPTIONS"])
    func `comes back without`(_ name: String) throws {
        try scratch.delete(scratch.files(prefix: name))
        let log = try scratch.open()
        #expect(log.recovery.wasRepaired == ["CURRENT", "MANIFEST"].contains(name))
        if log.recovery.wasRepaired {
            #expect(log.recovery.segmentsSalvaged == 4 && log.recovery.segmentsRebuilt == 4)
        }
        #expect(log.namespaces() == [NamespaceRow(fingerprint: DiskSample.namespaceA, tenant: 1, description: [42])])
        try check(log)
    }

    @Test func `comes back without its write-ahead log`() throws {
        try scratch.delete(scratch.files(suffix: ".log"))
        let log = try scratch.open()
        #expect(log.recovery.segmentsRebuilt == 4)
        #expect(log.recovery.rowsRemovedAgain == 11)
        try check(log)
    }

    @Test func `comes back with a write-ahead log that is cut or changed anywhere`() throws {
        let path = try #require(scratch.files(suffix: ".log").last)
        let size = try DiskScratch.fileSize(path)
        for offset in stride(from: 0, to: size, by: max(1, size / 12)) {
            let copy = try scratch.afterKill()
            let log = path.replacing(scratch.store, with: copy.store)
            if offset % 2 == 0 {
                try DiskScratch.shorten(log, to: offset)
            } else {
                try DiskScratch.damage(log, at: offset)
            }
            let blocks = try copy.open().blocks()
            #expect(blocks.subtracting([6]) == Self.present.subtracting([6]), "offset \(offset)")
        }
    }

    @Test func `comes back with a MANIFEST that is cut or changed anywhere`() throws {
        let path = try #require(scratch.files(prefix: "MANIFEST").last)
        let size = try DiskScratch.fileSize(path)
        for offset in stride(from: 0, to: size, by: max(1, size / 30)) {
            for cuts in [true, false] {
                let copy = try scratch.afterKill()
                let manifest = path.replacing(scratch.store, with: copy.store)
                if cuts {
                    try DiskScratch.shorten(manifest, to: offset)
                } else {
                    try DiskScratch.damage(manifest, at: offset)
                }
                let log = try copy.open()
                let blocks = try log.blocks()
                #expect(blocks.subtracting([6]) == Self.present.subtracting([6]), "offset \(offset), cut: \(cuts)")
                #expect(log.segments().count == 4)
            }
        }
    }

    @Test(arguments: ["", "garbage", "MANIFEST-999999\n"])
    func `comes back with a CURRENT that says`(_ content: String) throws {
        try Data(content.utf8).write(to: URL(fileURLWithPath: scratch.store + "/db/CURRENT"))
        let log = try scratch.open()
        #expect(log.recovery.wasRepaired)
        try check(log)
    }

    @Test func `loses only the segment whose file is gone`() throws {
        try scratch.delete([tables[2]!])
        let log = try scratch.open()
        #expect(log.segments().map(\.id) == [1, 3, 4])
        try check(log, lost: 10..<20)
    }

    @Test(arguments: [0, 1, 100, 5000, 20000])
    func `loses only the segment whose file was cut to`(_ byteCount: Int) throws {
        try DiskScratch.shorten(tables[2]!, to: byteCount)
        let log = try scratch.open()
        #expect(log.recovery.filesRefused > 0)
        #expect(log.segments().map(\.id) == [1, 3, 4])
        try check(log, lost: 10..<20)
    }

    @Test func `loses at most one segment to a change anywhere in its file and no wrong byte is read`() throws {
        let size = try DiskScratch.fileSize(tables[2]!)
        for offset in stride(from: 0, to: size, by: max(1, size / 60)) {
            for loses in [nil, "CURRENT", ".log"] {
                let copy = try scratch.afterKill()
                try DiskScratch.damage(tables[2]!.replacing(scratch.store, with: copy.store), at: offset)
                if loses == ".log" { try copy.delete(copy.files(suffix: ".log")) }
                if loses == "CURRENT" { try copy.delete(copy.files(prefix: "CURRENT")) }
                let blocks = try copy.open().blocks().subtracting([6])
                let others = Self.present.subtracting(10..<20).subtracting([6])
                #expect(blocks.isSuperset(of: others), "offset \(offset)")
                #expect(blocks.isSubset(of: Self.present), "offset \(offset)")
            }
        }
    }

    @Test func `reports a damaged record as corrupt and reads its neighbours`() throws {
        let log = try scratch.open()
        try DiskScratch.damage(tables[2]!, at: 6000)
        let error = #expect(throws: KVStoreError.self) { try log.read(segment: 2, ordinal: 1) { $0.count } }
        #expect(error?.code == .corrupt)
        #expect(try log.read(segment: 2, ordinal: 5) { Array($0) } == DiskSample.record(15))
        #expect(!log.isBroken)
    }

    @Test func `drops a segment whose rows and footer are both lost`() throws {
        try scratch.delete(scratch.files(suffix: ".log"))
        // Sits in the middle of the footer, which is the last block of data.
        try DiskScratch.damage(tables[2]!, at: 10 * 4120 + 700)
        let log = try scratch.open()
        #expect(log.recovery.segmentsDropped == 1)
        #expect(log.nextSegment > 4)
        try check(log, lost: 10..<20)
    }

    @Test func `comes back when the tables of the index are damaged`() throws {
        try scratch.open().close()  // Flushes the rows into tables.
        let segments = Set(tables.values)
        let indexTables = scratch.files(suffix: ".sst").filter { !segments.contains($0) }
        #expect(!indexTables.isEmpty)
        for path in indexTables { try DiskScratch.damage(path, at: 40) }
        let log = try scratch.open()
        #expect(log.recovery.wasRepaired)
        try check(log)
    }

    @Test func `keeps removals although the last record of removals.log is torn`() throws {
        let path = scratch.store + "/removals.log"
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        try file.seekToEnd()
        try file.write(contentsOf: [0x4B, 0x56, 0x52, 0x4D, 1, 2, 3])
        try file.close()
        try scratch.delete(scratch.files(suffix: ".log"))
        try check(try scratch.open())
    }

    @Test func `keeps later removals when an earlier one in removals.log is damaged`() throws {
        try DiskScratch.damage(scratch.store + "/removals.log", at: 20)
        let log = try scratch.open()
        #expect(log.recovery.damagedRemovalByteCount > 0)
        #expect(try log.blocks().subtracting([6]) == Self.present.subtracting([6]))
    }

    @Test func `goes on with a repair that was killed before the new database was made`() throws {
        try scratch.moveToSalvage(tables.values.filter { $0 != tables[3] })
        try scratch.delete(scratch.files(prefix: "CURRENT"))
        try check(try scratch.open())
    }

    @Test func `goes on with a repair that was killed while segments were being taken in`() throws {
        // A database that opens and has segments 1 and 2 only; 3 and 4 wait, 2 waits under its old name as well.
        let aside = try scratch.afterKill()
        let log = try scratch.open()
        try log.dropSegment(3)
        try log.dropSegment(4)
        log.close()
        for (id, path) in tables where id > 1 {
            try scratch.moveToSalvage([path.replacing(scratch.store, with: aside.store)], linking: id == 2 ? path : nil)
        }
        let resumed = try scratch.open()
        #expect(resumed.recovery.segmentsSalvaged == 2)
        #expect(!resumed.recovery.wasRepaired)
        try check(resumed)
    }

    @Test func `goes on with a repair that was killed after any number of tables was moved`() throws {
        let count = scratch.files(suffix: ".sst").count
        for moved in 0...count {
            for loses in [["CURRENT"], ["CURRENT", "MANIFEST"]] {
                let copy = try scratch.afterKill()
                try copy.moveToSalvage(Array(copy.files(suffix: ".sst").prefix(moved)))
                for prefix in loses { try copy.delete(copy.files(prefix: prefix)) }
                #expect(try copy.open().blocks().subtracting([6]) == Self.present.subtracting([6]), "moved \(moved)")
            }
        }
    }
}

extension DiskScratch {
    fileprivate func moveToSalvage(_ paths: [String], linking live: String? = nil) throws {
        try FileManager.default.createDirectory(atPath: store + "/salvage", withIntermediateDirectories: true)
        for path in paths {
            let target = store + "/salvage/" + path.split(separator: "/").last!
            if let live {
                try FileManager.default.linkItem(atPath: live, toPath: target)
            } else {
                try FileManager.default.moveItem(atPath: path, toPath: target)
            }
        }
    }
}
