import Foundation

extension TestScale {
    /// The seeds of a test of many short runs: the same every time, or just `KVSTORE_SEED` to repeat one.
    public static func seeds(default normal: Int, full: Int) -> [UInt64] {
        if let one = ProcessInfo.processInfo.environment["KVSTORE_SEED"].flatMap({ UInt64($0) }) { return [one] }
        return (0..<UInt64(pick(default: normal, full: full))).map { $0 }
    }
}
