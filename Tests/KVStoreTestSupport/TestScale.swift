import Foundation

/// How much a randomised test does: little by default, a lot with `KVSTORE_FULL=1`.
public enum TestScale {
    /// Whether the large counts were asked for.
    public static let isFull = ProcessInfo.processInfo.environment["KVSTORE_FULL"] == "1"

    /// The count for this run.
    public static func pick<Value>(default small: Value, full: Value) -> Value { isFull ? full : small }

    /// The seed of this run: `KVSTORE_SEED`, or a fresh one.
    public static var seed: UInt64 {
        ProcessInfo.processInfo.environment["KVSTORE_SEED"].flatMap { UInt64($0) } ?? UInt64.random(in: 1...999_999_999)
    }
}
