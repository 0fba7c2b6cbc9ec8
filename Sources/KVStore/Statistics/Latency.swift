internal import Histogram

/// How many values were at most so large.
public struct LatencyBucket: Sendable, Codable, Hashable {
    /// The bucket's upper bound in nanoseconds, itself included.
    public var upToNanoseconds: Int
    /// Values up to the bound, those of all smaller buckets included.
    public var count: Int

    /// A bucket of `count` values up to `upToNanoseconds`.
    public init(upToNanoseconds: Int, count: Int) {
        self.upToNanoseconds = upToNanoseconds
        self.count = count
    }
}

/// How long an operation took, over all its calls since the store was opened.
public struct LatencySummary: Sendable, Codable, Hashable {
    /// Calls.
    public var count = 0
    /// Sum of all of them.
    public var sumNanoseconds = 0
    /// Median, to within 1 %, as the other percentiles.
    public var p50Nanoseconds = 0
    /// 99th percentile.
    public var p99Nanoseconds = 0
    /// 99.9th percentile.
    public var p999Nanoseconds = 0
    /// Calls up to each of `bucketBounds`, in that order. The rest took longer than the last.
    public var buckets: [LatencyBucket] = []

    /// No calls.
    public init() {}

    /// The fixed upper bounds of `buckets` in nanoseconds: 1, 2, 5, 10 … microseconds up to 10 seconds.
    public static let bucketBounds: [Int] = {
        var bounds: [Int] = []
        var decade = 1_000
        while decade < 10_000_000_000 {
            bounds += [decade, 2 * decade, 5 * decade]
            decade *= 10
        }
        return bounds + [decade]
    }()
}

/// How old something was when it was given up.
public struct AgeSummary: Sendable, Codable, Hashable {
    /// Blocks whose age is known. That of a block that has not been used since the store was opened is not.
    public var count = 0
    /// Sum of their ages.
    public var sumSeconds = 0
    /// Median of their ages in seconds.
    public var p50Seconds = 0
    /// 99th percentile of their ages in seconds.
    public var p99Seconds = 0
    /// Blocks up to each of `bucketBounds`.
    public var buckets: [AgeBucket] = []

    /// Nothing given up.
    public init() {}

    /// The fixed upper bounds of `buckets` in seconds: from 1 second to 1 week.
    public static let bucketBounds = [1, 10, 60, 300, 900, 3_600, 14_400, 43_200, 86_400, 259_200, 604_800]
}

/// How many blocks were at most so old.
public struct AgeBucket: Sendable, Codable, Hashable {
    /// The bucket's upper bound in seconds, itself included.
    public var upToSeconds: Int
    /// Blocks up to the bound, those of all smaller buckets included.
    public var count: Int

    /// A bucket of `count` blocks up to `upToSeconds`.
    public init(upToSeconds: Int, count: Int) {
        self.upToSeconds = upToSeconds
        self.count = count
    }
}

/// Collects latencies. Recording allocates nothing.
struct LatencyHistogram {
    private var values = Histogram<UInt32>(highestTrackableValue: 60_000_000_000, numberOfSignificantValueDigits: .two)
    private var sum: UInt64 = 0
    private var buckets = [UInt32](repeating: 0, count: LatencySummary.bucketBounds.count)

    mutating func record(_ nanoseconds: UInt64) {
        _ = values.record(min(nanoseconds, 60_000_000_000))
        sum &+= nanoseconds
        let bucket = Self.bucket(of: nanoseconds)
        if bucket < buckets.count { buckets[bucket] &+= 1 }
    }

    /// The first bucket whose bound is not below the value. Most values are small, so the search starts there.
    private static func bucket(of nanoseconds: UInt64) -> Int {
        var (bucket, decade) = (0, UInt64(1_000))
        while decade < 10_000_000_000 {
            if nanoseconds <= decade { return bucket }
            if nanoseconds <= 2 * decade { return bucket + 1 }
            if nanoseconds <= 5 * decade { return bucket + 2 }
            (bucket, decade) = (bucket + 3, decade * 10)
        }
        return nanoseconds <= decade ? bucket : bucket + 1
    }

    func percentile(_ percentile: Double) -> Int { Int(clamping: values.valueAtPercentile(percentile)) }

    var summary: LatencySummary {
        var summary = LatencySummary()
        summary.count = Int(clamping: values.totalCount)
        summary.sumNanoseconds = Int(clamping: sum)
        summary.p50Nanoseconds = percentile(50)
        summary.p99Nanoseconds = percentile(99)
        summary.p999Nanoseconds = percentile(99.9)
        var total = 0
        for (bound, count) in zip(LatencySummary.bucketBounds, buckets) {
            total += Int(count)
            summary.buckets.append(LatencyBucket(upToNanoseconds: bound, count: total))
        }
        return summary
    }
}

/// Collects ages. Recording allocates nothing.
struct AgeHistogram {
    private static let longestSeconds: UInt64 = 1 << 25
    private var values = Histogram<UInt32>(highestTrackableValue: longestSeconds, numberOfSignificantValueDigits: .two)
    private var sum: UInt64 = 0
    private var buckets = [UInt32](repeating: 0, count: AgeSummary.bucketBounds.count)

    mutating func record(_ seconds: UInt32) {
        _ = values.record(min(UInt64(seconds), Self.longestSeconds))
        sum &+= UInt64(seconds)
        let bucket = AgeSummary.bucketBounds.firstIndex { seconds <= $0 }
        if let bucket { buckets[bucket] &+= 1 }
    }

    var summary: AgeSummary {
        var summary = AgeSummary()
        summary.count = Int(clamping: values.totalCount)
        summary.sumSeconds = Int(clamping: sum)
        summary.p50Seconds = Int(clamping: values.valueAtPercentile(50))
        summary.p99Seconds = Int(clamping: values.valueAtPercentile(99))
        var total = 0
        for (bound, count) in zip(AgeSummary.bucketBounds, buckets) {
            total += Int(count)
            summary.buckets.append(AgeBucket(upToSeconds: bound, count: total))
        }
        return summary
    }
}
