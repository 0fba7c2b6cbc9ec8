import Glibc

/// How a log is opened.
package struct SegmentLogOptions: Sendable {
    /// How many files RocksDB may keep open; by default half of what the process may have, at most 4096.
    package var maxOpenFileCount: Int
    /// Reads around the page cache, which holds nothing that the memory tier does not hold better; nil: where the file
    /// system can. Measured on cold runs of 1 MiB blocks: for half of the processor's time, and faster.
    package var usesDirectReads: Bool?
    /// Keeps the rows that the open reads, for `takeRows`.
    package var keepsRows: Bool

    package init(maxOpenFileCount: Int? = nil, usesDirectReads: Bool? = nil, keepsRows: Bool = false) {
        self.keepsRows = keepsRows
        self.maxOpenFileCount = maxOpenFileCount ?? Self.defaultMaxOpenFileCount()
        self.usesDirectReads = usesDirectReads
    }

    private static func defaultMaxOpenFileCount() -> Int {
        var limit = rlimit()
        // `limit` is a local that the call fills in.
        guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 256 }
        return min(4096, max(32, Int(clamping: limit.rlim_cur) / 2))
    }
}
