internal import Synchronization

/// One read of several records by whoever has time: pieces of the run are handed out one by one.
///
/// A piece is what lies side by side in one segment, up to `pieceByteCount`: one request to the disk. Larger pieces would
/// leave threads without work, and smaller ones cost a request each. How often a byte is copied on the way up: disk to
/// RocksDB's buffer to the slot, or (coded) decoded from the buffer into the slot; each unit is hashed right after.
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
                && claims[index].ordinal == claims[index - 1].ordinal &+ 1 && index - start < blockLimit
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
        let first = claims[piece.lowerBound]
        if piece.count > 1 {
            // A record that cannot be read ends the request; the ones it leaves out are asked for one by one below.
            try? unsafe log.readRun(
                segment: first.segment,
                from: UInt32(first.ordinal),
                count: piece.count,
                readAheadByteCount: piece.count * (namespace.blockByteCount + 1024)
            ) { ordinal, record in
                let offset = Int(ordinal) - Int(first.ordinal)
                guard results.indices.contains(offset) else { return false }
                let claim = claims[piece.lowerBound + offset]
                results[offset] = unsafe claim.decode(
                    record,
                    fingerprint: namespace.fingerprint,
                    into: blocks[claim.position].memory,
                    byteCount: namespace.blockByteCount
                )
                return true
            }
        }
        for offset in results.indices where results[offset] == .pending {
            let claim = claims[piece.lowerBound + offset]
            results[offset] = claim.read(
                from: log,
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
        do throws(KVStoreError) {
            let outcome = try unsafe log.read(segment: segment, ordinal: UInt32(ordinal)) { record -> Outcome in
                unsafe decode(record, fingerprint: fingerprint, into: memory, byteCount: byteCount)
            }
            return outcome ?? .gone
        } catch {
            return error.code == .corrupt ? .damaged : .unreadable
        }
    }

    /// Decodes the claimed record into the slot that the claim's pin holds.
    func decode(
        _ record: UnsafeRawBufferPointer,
        fingerprint: BlockKey,
        into memory: SlotMemory,
        byteCount: Int
    ) -> Outcome {
        // The claim's pin holds the slot for us alone until `finishLoads`.
        let slot = unsafe memory.mutableBytes(byteCount)
        do throws(RecordDamage) {
            let digest = try unsafe BlockRecord.decode(
                record,
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
