import Testing

@testable import KVStore

@Suite("Runs that are read from disk") struct ReadRunTests {
    private static func claims(_ places: [(segment: UInt32, ordinal: UInt16)]) -> [LoadClaim] {
        places.enumerated().map { position, place in
            var entry = Entry(key: DiskSample.key(position), namespace: 0)
            (entry.segment, entry.ordinal) = place
            return LoadClaim(entry, position: position)
        }
    }

    @Test func `Neighbours are read together, up to a limit`() {
        let run = Self.claims([(1, 4), (1, 5), (1, 6), (1, 8), (2, 9), (2, 10)])
        #expect(ReadRun.pieces(of: run, blockLimit: 16) == [0..<3, 3..<4, 4..<6])
        #expect(ReadRun.pieces(of: run, blockLimit: 2) == [0..<2, 2..<3, 3..<4, 4..<6])
        #expect(ReadRun.pieces(of: run, blockLimit: 1).count == 6)
        #expect(ReadRun.pieces(of: [], blockLimit: 4).isEmpty)
    }

    @Test func `The last ordinal has no neighbour behind it`() {
        #expect(ReadRun.pieces(of: Self.claims([(1, .max), (1, 0)]), blockLimit: 4) == [0..<1, 1..<2])
    }

    @Test func `A reader gives no record beyond the last that was asked for`() throws {
        let scratch = DiskScratch()
        let log = try scratch.open()
        let segment = try log.write(0..<4)
        let found = try log.withReader(of: segment) { reader in
            reader.record(RecordPosition(segment: segment, ordinal: 3), until: 1)?.byteCount == nil
        }
        #expect(found == true)
    }
}
