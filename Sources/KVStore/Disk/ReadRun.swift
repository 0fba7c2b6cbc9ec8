internal import Synchronization

/// One read of several records by whoever has time: pieces of the run are handed out one by one.
///
/// A piece is what lies side by side in one segment, up to `pieceByteCount` or one block: one request to the disk, or one
/// for each window of a larger block. Larger pieces would leave threads without work, smaller ones cost a request each. A
/// byte is copied once on the way up, from a reader's window to the slot, or (coded) decoded from there into the slot;
/// each unit is hashed on the way. What cannot be read so, or is not what was written, is read again through RocksDB,
/// whose word on it counts.
///
/// @unchecked Sendable would be needed for sharing slots between threads; `SlotMemory` carries that reason.
final class ReadRun: Sendable {
    private static let pieceByteCount = 1 << 20

    private let claims: [LoadClaim]
    private let pieces: [Range<Int>]
    private let blocks: [PinnedBlock]
    private let namespace: Namespace
    private let log: SegmentLog
    private let next = Atomic<Int>(0)
    private let outcomes: Monitor<(results: [LoadClaim.Outcome], missing: Int)>

    init(claims: [LoadClaim], blocks: [PinnedBlock], namespace: Namespace, log: SegmentLog) {
        self.claims = claims
        self.blocks = blocks
        self.namespace = namespace
        self.log = log
        pieces = Self.pieces(of: claims, blockLimit: max(1, Self.pieceByteCount / max(1, namespace.blockByteCount)))
        outcomes = Monitor(([LoadClaim.Outcome](repeating: .pending, count: claims.count), claims.count))
    }

    var pieceCount: Int { pieces.count }

    /// Cuts a run of claims into ranges of neighbours on disk, at most `blockLimit` blocks each.
    static func pieces(of claims: [LoadClaim], blockLimit: Int) -> [Range<Int>] {
        var pieces: [Range<Int>] = []
        var start = 0
        for index in claims.indices {
            let isNeighbour =
                index > start && claims[index].segment == claims[index - 1].segment
                && Int(claims[index].ordinal) == Int(claims[index - 1].ordinal) + 1 && index - start < blockLimit
            if index > start, !isNeighbour {
                pieces.append(start..<index)
                start = index
            }
        }
        if start < claims.count { pieces.append(start..<claims.count) }
        return pieces
    }

    /// Reads pieces until none is left.
    func work() {
        while true {
            let index = next.add(1, ordering: .relaxed).oldValue
            guard index < pieces.count else { return }
            let results = read(pieces[index])
            outcomes.update { state in
                for (offset, outcome) in results.enumerated() {
                    state.results[pieces[index].lowerBound + offset] = outcome
                }
                state.missing -= results.count
            }
        }
    }

    /// Waits for pieces that others took and returns all claims with their outcomes.
    func finish() -> [LoadClaim] {
        let results =
            outcomes.wait(untilNanoseconds: nil) { state -> [LoadClaim.Outcome]? in
                state.missing == 0 ? state.results : nil
            } ?? []
        return zip(claims, results).map { claim, outcome in
            var claim = claim
            claim.outcome = outcome
            return claim
        }
    }

    private func read(_ piece: Range<Int>) -> [LoadClaim.Outcome] {
        var results = [LoadClaim.Outcome](repeating: .pending, count: piece.count)
        let last = claims[piece.upperBound - 1]
        _ = try? log.withReader(of: last.segment) { reader in
            for index in piece {
                let claim = claims[index]
                let outcome = claim.read(
                    straightFrom: reader,
                    until: UInt32(last.ordinal),
                    fingerprint: namespace.fingerprint,
                    into: blocks[claim.position].memory,
                    byteCount: namespace.blockByteCount
                )
                if let outcome { results[index - piece.lowerBound] = outcome }
            }
        }
        for offset in results.indices where results[offset] == .pending {
            let claim = claims[piece.lowerBound + offset]
            results[offset] = claim.readThroughDatabase(
                of: log,
                fingerprint: namespace.fingerprint,
                into: blocks[claim.position].memory,
                byteCount: namespace.blockByteCount
            )
        }
        return results
    }
}

extension LoadClaim {
    /// Reads the claimed record and decodes it into the slot that the claim's pin holds.
    func read(
        from log: SegmentLog,
        fingerprint: BlockKey,
        into memory: SlotMemory,
        byteCount: Int
    ) -> Outcome {
        let outcome = try? log.withReader(of: segment) { reader in
            read(
                straightFrom: reader,
                until: UInt32(ordinal),
                fingerprint: fingerprint,
                into: memory,
                byteCount: byteCount
            )
        }
        if let outcome, let loaded = outcome { return loaded }
        return readThroughDatabase(of: log, fingerprint: fingerprint, into: memory, byteCount: byteCount)
    }

    /// Reads past RocksDB, where only success counts: whatever else it finds is for RocksDB to say.
    ///
    /// - Parameter last: The last ordinal that will be wanted of this reader, which reads ahead as far as that.
    func read(
        straightFrom reader: RecordReader,
        until last: UInt32,
        fingerprint: BlockKey,
        into memory: SlotMemory,
        byteCount: Int
    ) -> Outcome? {
        let position = RecordPosition(segment: segment, ordinal: UInt32(ordinal))
        guard var record = reader.record(position, until: last) else { return nil }
        let outcome = decode(from: &record, fingerprint: fingerprint, into: memory, byteCount: byteCount)
        if case .loaded = outcome { return outcome }
        return nil
    }

    func readThroughDatabase(
        of log: SegmentLog,
        fingerprint: BlockKey,
        into memory: SlotMemory,
        byteCount: Int
    ) -> Outcome {
        do throws(KVStoreError) {
            let outcome = try unsafe log.read(segment: segment, ordinal: UInt32(ordinal)) { bytes -> Outcome in
                // Lent for the length of this closure.
                var record = unsafe RecordInMemory(bytes)
                return decode(from: &record, fingerprint: fingerprint, into: memory, byteCount: byteCount)
            }
            return outcome ?? .gone
        } catch {
            return error.code == .corrupt ? .damaged : .unreadable
        }
    }

    /// Decodes the claimed record into the slot that the claim's pin holds.
    func decode(
        from record: inout some RecordSource,
        fingerprint: BlockKey,
        into memory: SlotMemory,
        byteCount: Int
    ) -> Outcome {
        // The claim's pin holds the slot for us alone until `finishLoads`.
        let slot = unsafe memory.mutableBytes(byteCount)
        do throws(RecordDamage) {
            let digest = try unsafe BlockRecord.decode(
                from: &record,
                expectingKey: key,
                fingerprint: fingerprint,
                into: slot
            )
            return .loaded(digest: digest)
        } catch {
            return .damaged
        }
    }
}
