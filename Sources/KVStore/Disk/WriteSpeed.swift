/// How fast the disk has been taking segments, for choosing codecs: the median of the last few.
///
/// Measured is what one segment's file kept the writer waiting, for room and for the sync at its end. What the disk wrote
/// while blocks were coded does not count, so a disk that is never waited for is a fast one. Small segments do
/// not count: their sync is all latency and says nothing of a rate.
struct WriteSpeed: Hashable, Sendable {
    static let leastByteCount = 4 << 20
    /// Fewer could all be the same hiccup.
    static let leastCount = 3
    static let mostCount = 9

    private var recent: [Double] = []

    init() {}

    /// Takes a segment into account.
    mutating func note(byteCount: Int, nanoseconds: UInt64) {
        guard byteCount >= Self.leastByteCount, nanoseconds > 0 else { return }
        if recent.count == Self.mostCount { recent.removeFirst() }
        recent.append(Double(byteCount) * 1e9 / Double(nanoseconds))
    }

    /// The median, of the slower two when their number is even; nil until enough is known.
    var bytesPerSecond: Double? {
        guard recent.count >= Self.leastCount else { return nil }
        return recent.sorted()[(recent.count - 1) / 2]
    }
}
