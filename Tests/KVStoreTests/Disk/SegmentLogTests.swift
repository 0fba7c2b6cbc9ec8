import Foundation
import Synchronization
import Testing

@testable import KVStore

/// One thread tells another.
private final class Flag: Sendable {
    private let value = Atomic<Bool>(false)
    var isRaised: Bool { value.load(ordering: .sequentiallyConsistent) }
    func raise() { value.store(true, ordering: .sequentiallyConsistent) }
}

@Suite("A segment log") struct SegmentLogTests {
    let scratch = DiskScratch()

    @Test func `gives back what was written also after reopening`() throws {
        do {
            let log = try scratch.open()
            #expect(log.recovery == RecoveryReport())
            try log.putNamespace(NamespaceRow(fingerprint: DiskSample.namespaceA, tenant: 1, description: [1, 2, 3]))
            try log.write(0..<10)
            try log.write(10..<20)
            #expect(try log.blocks() == Set(0..<20))
            log.close()
        }
        let log = try scratch.open()
        #expect(log.recovery == RecoveryReport())
        #expect(try log.blocks() == Set(0..<20))
        #expect(
            log.namespaces() == [NamespaceRow(fingerprint: DiskSample.namespaceA, tenant: 1, description: [1, 2, 3])]
        )
        #expect(log.segments().map(\.id) == [1, 2])
        #expect(log.segments().map(\.recordCount) == [10, 10])
        let found = try #require(try log.row(of: DiskSample.identity(13)))
        #expect(found.position == RecordPosition(segment: 2, ordinal: 3))
        #expect(found.parent == DiskSample.key(12) && found.uses == 13 && found.sequence == 130)
        #expect(found.rawByteCount == 4096 && found.storedByteCount == 4096)
    }

    @Test func `answers nil for a record that is not there`() throws {
        let log = try scratch.open()
        try log.write(0..<2)
        #expect(try log.read(segment: 1, ordinal: 2) { $0.count } == nil)
        #expect(try log.read(segment: 9, ordinal: 0) { $0.count } == nil)
        #expect(try log.row(of: DiskSample.identity(5)) == nil)
        #expect(try log.row(of: DiskSample.identity(0, tenant: 2)) == nil)
        #expect(try log.row(of: DiskSample.identity(0, fingerprint: DiskSample.namespaceB)) == nil)
    }

    @Test func `reads records past RocksDB`() throws {
        let log = try scratch.open()
        try log.write(0..<10)
        try log.write(10..<20)
        #expect(try log.straight(2, 3..<7) == (13..<17).map { DiskSample.record($0) })
        #expect(try log.straight(1, [9]) == [DiskSample.record(9)])
        #expect(try log.straight(1, [10]) == [nil], "the footer is no record")
        #expect(try log.straight(1, [.max]) == [nil])
        #expect(try log.straight(9, [0]) == nil)
        log.close()
        let again = try scratch.open()
        #expect(try again.straight(2, 0..<10) == (10..<20).map { DiskSample.record($0) })
        again.close()
        #expect(throws: KVStoreError.self) { try again.straight(2, [0]) }
    }

    @Test func `a file that is not the one expected is not read past RocksDB`() throws {
        let log = try scratch.open()
        let (first, second) = (try log.write(0..<3), try log.write(10..<13))
        #expect(try log.straight(first, [0]) == [DiskSample.record(0)])
        // Another segment under the name that was noted: its heads say so.
        let (path, other) = (try scratch.table(of: first, in: log), try scratch.table(of: second, in: log))
        try scratch.delete([path])
        try FileManager.default.copyItem(atPath: other, toPath: path)
        #expect(try log.straight(first, 0..<3) == [nil, nil, nil])
        try DiskScratch.shorten(path, to: 5000)
        #expect(try log.straight(first, 1..<3) == [nil, nil])
        try scratch.delete([path])
        #expect(try log.straight(first, 1..<3) == nil)
    }

    @Test func `keeps segments on the bottommost level and never compacts them`() throws {
        let log = try scratch.open()
        for segment in 0..<30 { try log.write([segment]) }
        let names = try log.liveTables().filter { $0.family == .segments }
        #expect(names.count == 30)
        #expect(names.allSatisfy { $0.level == 6 })
        log.close()
        let again = try scratch.open()
        let namesAgain = try again.liveTables().filter { $0.family == .segments }
        #expect(Set(namesAgain.map(\.name)) == Set(names.map(\.name)))
    }

    @Test func `leaves nothing of a segment that was abandoned`() throws {
        let log = try scratch.open()
        let writer = try log.beginSegment()
        try writer.append(DiskSample.row(1), DiskSample.record(1))
        #expect(scratch.files("incoming").count == 1)
        writer.abandon()
        #expect(scratch.files("incoming").isEmpty)
        #expect(throws: KVStoreError.self) { try writer.append(DiskSample.row(2), DiskSample.record(2)) }
        do {
            let forgotten = try log.beginSegment()
            try forgotten.append(DiskSample.row(1), DiskSample.record(1))
        }
        #expect(scratch.files("incoming").isEmpty)
        #expect(try log.blocks().isEmpty)
    }

    @Test func `never uses a segment id twice`() throws {
        var log = try scratch.open()
        #expect(try log.write([1]) == 1)
        let last = try log.write([2])
        try log.dropSegment(last)
        log.close()
        log = try scratch.open()
        #expect(log.nextSegment > last)
        let killed = try scratch.afterKill()
        try killed.delete(killed.files(prefix: "CURRENT"))
        let repaired = try killed.open()
        #expect(repaired.recovery.wasRepaired)
        #expect(repaired.nextSegment > last)
    }

    @Test func `carries records over only where the row still names the old place`() throws {
        let log = try scratch.open()
        let old = try log.write(0..<4)
        let writer = try log.beginSegment()
        for number in 0..<3 {
            let origin = RecordPosition(segment: old, ordinal: UInt32(number))
            try writer.append(DiskSample.row(number), DiskSample.record(number), carriedFrom: origin)
        }
        try log.forget([DiskSample.identity(1)])
        try log.remove([DiskSample.identity(2)])
        let sealed = try writer.seal()
        #expect(sealed.rows.map(\.key) == [DiskSample.key(0)])
        #expect(sealed.staleRows.map(\.key) == [DiskSample.key(1), DiskSample.key(2)])
        try log.forget([DiskSample.identity(3)])
        try log.dropSegment(old)
        #expect(try log.blocks() == [0])
        #expect(
            try log.row(of: DiskSample.identity(0))?.position == RecordPosition(segment: sealed.info.id, ordinal: 0)
        )
    }

    @Test func `does not index a block that was removed while its segment was open`() throws {
        let log = try scratch.open()
        let writer = try log.beginSegment()
        try writer.append(DiskSample.row(1), DiskSample.record(1))
        try writer.append(DiskSample.row(2), DiskSample.record(2))
        try log.remove([DiskSample.identity(1)])
        try writer.append(DiskSample.row(1), DiskSample.record(1))  // Put again after the removal: a new block.
        try writer.append(DiskSample.row(3, tenant: 2), DiskSample.record(3))
        try log.purge(tenant: 2)
        let sealed = try writer.seal()
        #expect(sealed.staleRows.map(\.ordinal) == [0, 3])
        #expect(try log.row(of: DiskSample.identity(1))?.ordinal == 2)
        #expect(try log.blocks() == [1, 2])
        let killed = try scratch.afterKill()
        try killed.delete(killed.files(prefix: "MANIFEST"))
        #expect(try killed.open().blocks() == [1, 2], "a rebuild from the footer comes to the same")
    }

    @Test func `updates rows without bringing back what is gone`() throws {
        let log = try scratch.open()
        try log.write(0..<3)
        var rows = try (0..<3).map { try #require(try log.row(of: DiskSample.identity($0))) }
        for index in rows.indices { rows[index].uses = 77 }
        try log.forget([DiskSample.identity(0)])
        rows[1].segment = 9
        try log.updateRows(rows)
        #expect(try log.row(of: DiskSample.identity(0)) == nil)
        #expect(try log.row(of: DiskSample.identity(1))?.uses == 1)
        #expect(try log.row(of: DiskSample.identity(2))?.uses == 77)
    }

    @Test func `purges a namespace or a tenant and nobody else`() throws {
        let log = try scratch.open()
        try log.write(0..<2, tenant: 1, fingerprint: DiskSample.namespaceA)
        try log.write(2..<4, tenant: 1, fingerprint: DiskSample.namespaceB)
        try log.write(4..<6, tenant: 2, fingerprint: DiskSample.namespaceA)
        try log.write(6..<8, tenant: .max, fingerprint: DiskSample.namespaceA)
        try log.purge(namespace: DiskSample.namespaceA, tenant: 1)
        #expect(try log.blocks() == [2, 3, 4, 5, 6, 7])
        try log.purge(tenant: .max)
        #expect(try log.blocks() == [2, 3, 4, 5])
        try log.write(0..<1, tenant: 1, fingerprint: DiskSample.namespaceA)
        #expect(try log.blocks() == [0, 2, 3, 4, 5], "what is put after a purge stays")
        log.close()
        #expect(try scratch.open().blocks() == [0, 2, 3, 4, 5])
    }

    @Test func `frees the space of a dropped segment at once and a read in flight still completes`() throws {
        let log = try scratch.open()
        let id = try log.write(0..<16, byteCount: 1 << 20)
        let before = log.allocatedBytes()
        #expect(before >= 16 << 20)
        let expected = DiskSample.record(3, byteCount: 1 << 20)
        try log.read(segment: id, ordinal: 3) { bytes throws(KVStoreError) in
            try log.dropSegment(id)
            #expect(log.allocatedBytes() < before - (15 << 20))
            #expect(bytes.elementsEqual(expected))
        }
        #expect(try log.read(segment: id, ordinal: 3) { $0.count } == nil)
        #expect(log.segments().isEmpty)
    }

    @Test func `keeps a segment readable for who reads it while it is dropped`() throws {
        let log = try scratch.open()
        let id = try log.write(0..<8, byteCount: 1 << 20)
        let found = try log.withReader(of: id) { reader in
            #expect(throws: Never.self) { try log.dropSegment(id) }
            return (0..<8).map { ordinal in
                let record = reader.record(RecordPosition(segment: id, ordinal: UInt32(ordinal)), until: 7)
                let bytes = record?.lend(0..<1 << 20)
                return bytes?.elementsEqual(DiskSample.record(ordinal, byteCount: 1 << 20)) == true
            }
        }
        #expect(found == [Bool](repeating: true, count: 8))
        #expect(try log.read(segment: id, ordinal: 3) { $0.count } == nil)
        #expect(try log.straight(id, [3]) == nil)
    }

    @Test func `occupies little besides its segments`() throws {
        let log = try scratch.open()
        try log.write([1])
        let bytes = log.allocatedBytes()
        print("one open and one small segment allocate \(bytes) bytes")
        #expect(bytes < 4 << 20)
    }

    @Test func `waits for readers in flight when it is closed`() async throws {
        let log = try scratch.open()
        let id = try log.write(0..<8)
        let reading = Flag()
        let finished = Flag()
        await withTaskGroup(of: Void.self) { group in
            group.addTask {
                _ = try? log.read(segment: id, ordinal: 0) { bytes in
                    reading.raise()
                    usleep(200_000)
                    #expect(Array(bytes) == DiskSample.record(0))
                    finished.raise()
                }
            }
            group.addTask {
                while !reading.isRaised { usleep(1000) }
                log.close()
                #expect(finished.isRaised)
            }
        }
        log.close()
        #expect(throws: KVStoreError.self) { try log.read(segment: id, ordinal: 0) { $0.count } }
        #expect(throws: KVStoreError.self) { try log.beginSegment() }
        #expect(throws: KVStoreError.self) { try log.forEachRow { _ in true } }
    }

    @Test func `serves readers while segments are written removed and dropped`() async throws {
        let log = try scratch.open()
        let stop = Flag()
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                defer { stop.raise() }
                try Self.churn(log)
            }
            group.addTask {
                while !stop.isRaised { try Self.readNewest(log) }
            }
            try await group.waitForAll()
        }
        #expect(!log.isBroken)
    }

    // Swift 6.3.1 crashed while it optimised these two as parts of the asynchronous test.
    @inline(never)
    private static func churn(_ log: SegmentLog) throws {
        for round in 0..<60 {
            try log.write(round * 8..<round * 8 + 8)
            try log.remove([DiskSample.identity(round * 8)])
            if round > 4 { try log.dropSegment(UInt32(round - 4)) }
        }
    }

    @inline(never)
    private static func readNewest(_ log: SegmentLog) throws {
        var rows: [IndexRow] = []
        try log.forEachRow {
            rows.append($0)
            return true
        }
        for found in rows.suffix(40) {
            let expected = DiskSample.record(Int(found.key.word0))
            let bytes = try log.read(segment: found.segment, ordinal: found.ordinal) { Array($0) }
            if let bytes { #expect(bytes == expected) }
            let straight = try log.straight(found.segment, [found.ordinal])
            if let bytes = straight?[0] { #expect(bytes == expected) }
        }
    }
}
