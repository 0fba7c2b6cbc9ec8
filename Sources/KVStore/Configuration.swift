/// Every limit of a store. Sizes are bytes, times are seconds, and both say so in their names.
public struct Configuration: Sendable {
    /// Hard cap of the memory tier: regions and metadata together never take more. At least 16 MiB.
    public var memoryCapacityBytes: Int = 512 << 20
    /// If set, the memory tier counts at most this many blocks (the spill buffer comes on top, inside the byte cap).
    /// For replays that compare policies at equal capacity.
    public var memoryBlockLimit: Int?
    /// How the memory tier and the disk tier choose their victims.
    public var policy: EvictionPolicyName = .default
    /// Compare the digest of every block that a memory hit returns. Costs a pass over the bytes.
    public var verifyMemoryHits = false
    /// The disk tier; nil keeps everything in memory.
    public var disk: DiskConfiguration?
    /// The background check of what is stored.
    public var scrub = ScrubConfiguration()
    /// After a start the most used heads on disk are read into memory in the background, up to this part of
    /// `memoryCapacityBytes`; 0 for none. Lookups go first, and nothing is evicted for it.
    public var warmUpFraction = 0.5
    /// Up to this much memory is taken from the system, and cleared, before it is needed, by a thread in the background:
    /// whoever stores or loads then does not wait for it. Only until three quarters of `memoryCapacityBytes` are taken.
    /// 0, the default, takes memory when it is needed.
    public var memoryAheadBytes = 0
    /// Told what happens that somebody may want to log. Called on the store's threads, must return quickly.
    public var onEvent: (@Sendable (StoreEvent) -> Void)?

    /// Defaults: 512 MiB of memory, no disk.
    public init() {}

    /// A store of `memoryCapacityBytes`, with an optional disk tier.
    public init(memoryCapacityBytes: Int, disk: DiskConfiguration? = nil) {
        self.memoryCapacityBytes = memoryCapacityBytes
        self.disk = disk
    }

    /// Throws one error that names every limit that does not hold.
    public func validate() throws(KVStoreError) {
        var problems: [String] = []
        if memoryCapacityBytes < 16 << 20 {
            problems.append("memoryCapacityBytes is \(memoryCapacityBytes); it must be at least 16 MiB (16777216)")
        }
        if memoryCapacityBytes > 1 << 42 { problems.append("memoryCapacityBytes is above 4 TiB") }
        if let limit = memoryBlockLimit, limit < 1 {
            problems.append("memoryBlockLimit is \(limit); it must be positive")
        }
        if memoryAheadBytes < 0 { problems.append("memoryAheadBytes is \(memoryAheadBytes); it must be 0 or more") }
        if let disk { problems.append(contentsOf: disk.problems) }
        problems.append(contentsOf: scrub.problems)
        if !(warmUpFraction >= 0 && warmUpFraction <= 1) {
            problems.append("warmUpFraction is \(warmUpFraction); it must be 0 to 1")
        }
        if !problems.isEmpty { throw KVStoreError(.invalidArgument, problems.joined(separator: "; ")) }
    }
}

/// How fast and how often the store compares everything it holds with the digests it was stored with, in the background.
///
/// A block found damaged in one tier is served from the other, or written to it again; damaged in both, or stored in one
/// only, it is dropped with what builds on it. Both are counted (`TierStatistics.scrub`).
public struct ScrubConfiguration: Sendable, Hashable {
    /// Bytes of memory blocks hashed in a second, at most; 0 turns the scrub of memory off.
    public var memoryBytesPerSecond = 64 << 20
    /// Bytes of records read from disk and checked in a second, at most; 0 turns the scrub of the disk off.
    public var diskBytesPerSecond = 32 << 20
    /// Least time from the start of one pass over a tier to the start of the next.
    public var passIntervalSeconds: Double = 3600
    /// How long after the store was opened the first pass starts.
    public var startDelaySeconds: Double = 10

    /// Defaults: 64 MiB/s of memory and 32 MiB/s of disk, a pass an hour, the first after 10 s.
    public init() {}

    /// Nothing is scrubbed and no thread is started.
    public static var off: ScrubConfiguration {
        var off = ScrubConfiguration()
        off.memoryBytesPerSecond = 0
        off.diskBytesPerSecond = 0
        return off
    }

    var problems: [String] {
        var problems: [String] = []
        if memoryBytesPerSecond < 0 {
            problems.append("scrub.memoryBytesPerSecond is \(memoryBytesPerSecond); it must be 0 or more")
        }
        if diskBytesPerSecond < 0 {
            problems.append("scrub.diskBytesPerSecond is \(diskBytesPerSecond); it must be 0 or more")
        }
        // A year; also keeps the sums of nanoseconds far from their end.
        if !(passIntervalSeconds >= 0 && passIntervalSeconds <= 31_536_000) {
            problems.append("scrub.passIntervalSeconds is \(passIntervalSeconds); it must be 0 to 31536000")
        }
        if !(startDelaySeconds >= 0 && startDelaySeconds <= 31_536_000) {
            problems.append("scrub.startDelaySeconds is \(startDelaySeconds); it must be 0 to 31536000")
        }
        return problems
    }
}

/// Limits of the disk tier.
public struct DiskConfiguration: Sendable {
    /// Directory of the tier; made if missing. It must be empty or have been made by kvstore.
    public var path: String
    /// Hard cap over the allocated bytes of the whole directory. At least 32 MiB.
    public var capacityBytes: Int
    /// If set, at most this many blocks are indexed; records that died stay on top until their segment is dropped.
    public var blockLimit: Int?
    /// Blocks in memory are written to disk when they are about this old, so that a crash finds them. Nil writes only
    /// what the memory tier evicts.
    public var writeBackDelaySeconds: Double? = 5
    /// Queue every block for the disk as soon as it is committed.
    public var writeThrough = false
    /// Write what is only in memory when the store closes.
    public var flushOnClose = true
    /// How blocks are coded. With `int8`, which is lossy, the store refuses namespaces that do not allow it.
    public var codec = CodecChoice.automatic
    /// Threads that read records; more than the disk can serve at once gain nothing.
    public var readerThreads = 2

    /// A disk tier in `path` of at most `capacityBytes`.
    public init(path: String, capacityBytes: Int) {
        self.path = path
        self.capacityBytes = capacityBytes
    }

    /// Fixed costs of the database: two write-ahead logs, MANIFEST, info logs, index.
    static let minimumCapacityBytes = 32 << 20

    var problems: [String] {
        var problems: [String] = []
        if path.isEmpty { problems.append("the disk path is empty") }
        if capacityBytes < Self.minimumCapacityBytes {
            problems.append("the disk capacity is \(capacityBytes); it must be at least 32 MiB (33554432)")
        }
        if let limit = blockLimit, limit < 1 {
            problems.append("the disk block limit is \(limit); it must be positive")
        }
        if let delay = writeBackDelaySeconds, !(delay >= 0.05 && delay <= 86_400) {
            problems.append("writeBackDelaySeconds is \(delay); it must lie between 0.05 and 86400")
        }
        if !(1...64).contains(readerThreads) {
            problems.append("readerThreads is \(readerThreads); it must be 1 to 64")
        }
        return problems
    }

    /// Bytes of records in one segment: `clamp(cap / 64, 1 MiB, 256 MiB)`, but no more than 7/16 of the spill buffer, so
    /// that the next segment is there in full when one is written; with a half it was not quite, and the disk waited a
    /// tenth of the time. Segments of 4 MiB under a cap of 188 MiB were too coarse for reclaim and made the room that is
    /// kept free for the next one too dear.
    func segmentBytes(spillBufferBytes: Int) -> Int {
        max(256 << 10, min(max(1 << 20, min(capacityBytes / 64, 256 << 20)), spillBufferBytes * 7 / 16))
    }
}

/// Something an operator may want to see in a log.
public struct StoreEvent: Sendable, CustomStringConvertible {
    /// How much it matters.
    public enum Severity: String, Sendable {
        /// Normal progress.
        case info
        /// The store goes on, but with less than was asked for.
        case warning
    }
    /// How much it matters.
    public let severity: Severity
    /// One sentence. Never holds token ids, whole keys or payload.
    public let message: String
    /// `severity: message`.
    public var description: String { "\(severity.rawValue): \(message)" }
}
