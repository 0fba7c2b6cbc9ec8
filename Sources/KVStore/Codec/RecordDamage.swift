/// Why a record was refused. Each is a miss to the reader; the text is fixed, so it never shows what was stored.
package enum RecordDamage: Error, Hashable, Sendable, CaseIterable {
    /// The record ends before its lengths say.
    case truncated
    /// There are bytes after the record's end.
    case trailingBytes
    /// The bytes are not a record.
    case notARecord
    /// The record or its frame was written by a later version, or needs a codec that this version lacks.
    case unsupported
    /// The digest of the identity does not match.
    case identityDigest
    /// The record is of another block.
    case otherKey
    /// The record is of another namespace.
    case otherNamespace
    /// The identity and the frame were not written together.
    case mismatchedParts
    /// The digest of the frame header does not match.
    case headerDigest
    /// A length or a reserved field is impossible.
    case malformed
    /// The block is not as long as the slot.
    case lengthMismatch
    /// The digest of the stored bytes does not match.
    case storedDigest
    /// The digest of one stored unit does not match.
    case unitDigest
    /// A unit cannot be decoded.
    case undecodable
    /// The digest of the decoded bytes does not match.
    case rawDigest
    /// There was no memory to check the record.
    case noMemory
}

extension RecordDamage: CustomStringConvertible {
    /// What is wrong, in a few words.
    package var description: String {
        switch self {
        case .truncated: "the record is cut off"
        case .trailingBytes: "bytes follow the record's end"
        case .notARecord: "the bytes are not a record"
        case .unsupported: "the record needs a later version"
        case .identityDigest: "the identity's digest does not match"
        case .otherKey: "the record is of another block"
        case .otherNamespace: "the record is of another namespace"
        case .mismatchedParts: "the identity and the frame do not belong together"
        case .headerDigest: "the frame header's digest does not match"
        case .malformed: "a length or a reserved field is impossible"
        case .lengthMismatch: "the block is not as long as its slot"
        case .storedDigest: "the stored bytes' digest does not match"
        case .unitDigest: "a unit's digest does not match"
        case .undecodable: "a unit cannot be decoded"
        case .rawDigest: "the decoded bytes' digest does not match"
        case .noMemory: "there was no memory to check the record"
        }
    }
}
