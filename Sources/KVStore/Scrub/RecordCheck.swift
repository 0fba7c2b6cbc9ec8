/// Whose a record must be.
struct ExpectedRecord: Hashable, Sendable {
    var key: BlockKey
    /// The key of the block before it; the fingerprint for the first.
    var parent: BlockKey
    var fingerprint: BlockKey
}

/// One record compared with what was written: every length and digest, and that it is the block that the index names.
/// The offline verifier and the scrub of an open store ask the same question here.
enum RecordCheck: Equatable, Sendable {
    case good(byteCount: Int)
    case damaged(reason: String)
    /// The index names a record that is not there.
    case missing
    /// There was no memory to decode it: nothing is known.
    case notChecked

    /// Reads a record and checks it.
    ///
    /// - Parameter expected: nil for a record that no row of the index names.
    /// - Throws: when the disk cannot be read, which says nothing about the record.
    static func run(
        _ log: SegmentLog,
        at position: RecordPosition,
        expecting expected: ExpectedRecord?
    ) throws(KVStoreError) -> RecordCheck {
        do throws(KVStoreError) {
            // The record is lent for the length of the closure.
            return try unsafe log.read(segment: position.segment, ordinal: position.ordinal) { record in
                do throws(RecordDamage) {
                    try unsafe BlockRecord.verify(record)
                    let identity = try unsafe BlockRecord.inspect(record).identity
                    let found = ExpectedRecord(
                        key: identity.key,
                        parent: identity.parent,
                        fingerprint: identity.fingerprint
                    )
                    if let expected, expected != found { return .damaged(reason: "the index names another block here") }
                    return .good(byteCount: record.count)
                } catch {
                    return error == .noMemory ? .notChecked : .damaged(reason: error.description)
                }
            } ?? .missing
        } catch {
            guard error.code == .corrupt else { throw error }
            return .damaged(reason: error.message)
        }
    }
}
