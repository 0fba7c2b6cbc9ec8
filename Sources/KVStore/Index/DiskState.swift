internal import DequeModule

/// What the core knows about the disk tier: its order, its segments, and what waits to be written. No I/O.
struct DiskState: ~Copyable {
    let policy: any SharedEvictionPolicy
    /// Number of each namespace's tenant, by namespace.
    var namespaceTenants: [Int] = []
    /// Whether blocks may be queued: there is a disk, it is open, and it is not pausing after an error.
    var accepts = false
    /// Set while the index is being loaded at start.
    var isWarming = false
    /// Keys removed while the index was being loaded, which the rows just read may still name.
    var removedWhileWarming: Set<BlockKey> = []
    /// Tenants purged meanwhile, likewise.
    var tenantsPurgedWhileWarming: Set<UInt64> = []
    /// Blocks to write, coldest first. Stale ids (dequeued or dropped meanwhile) are skipped by their `isQueued` flag.
    var queue: Deque<EntryID> = []
    var queuedBlocks = 0
    var queuedBytes = 0
    /// Evicted from memory, still in their slots.
    var spillingCount = 0
    /// Rows of blocks that left the tier; the disk's thread deletes them in batches.
    var rowsToForget: [BlockIdentity] = []
    /// Set while blocks leave whose rows are deleted as one range.
    var forgetsNoRows = false
    /// Live segments by id.
    private(set) var segments: [UInt32: Segment] = [:]
    /// Records of all segments, dead ones included. Kept, because the memory they take is asked for with every new entry.
    private(set) var recordCount = 0
    /// Committed blocks with the second of their commit, oldest first, for write-back.
    private var dirty: Deque<(id: EntryID, seconds: UInt32)> = []
    private let tracksDirty: Bool
    private let hasDisk: Bool

    /// One segment's books.
    struct Segment {
        /// Entry of each record by ordinal, `none` once it died.
        var records: [EntryID]
        /// Bytes of each record by ordinal; of dead records what it was.
        var storedByteCounts: [UInt32]
        var liveCount: Int
        /// Sum of the live records' ticks: with `liveCount`, how hot the segment is, at one addition per touch.
        var tickSum: UInt64
        var byteCount: Int
    }

    init(configuration: Configuration, entryCapacity: Int) throws(KVStoreError) {
        policy = try configuration.policy.makeShared(capacity: entryCapacity)
        hasDisk = configuration.disk != nil
        tracksDirty = configuration.disk?.writeBackDelaySeconds != nil
    }

    var metadataBytes: Int {
        policy.metadataBytes + recordCount * 8 + queue.count * 4 + dirty.count * 8
            + rowsToForget.capacity * MemoryLayout<BlockIdentity>.stride
    }

    mutating func noteDirty(_ id: EntryID, nowSeconds: UInt32) {
        guard tracksDirty else { return }
        dirty.append((id, nowSeconds))
    }

    /// The next committed block that is at least as old as `beforeSeconds`.
    mutating func popDirty(committedBy seconds: UInt32) -> EntryID? {
        guard let first = dirty.first, first.seconds <= seconds else { return nil }
        return dirty.removeFirst().id
    }

    /// Marks a member as used.
    mutating func touch(_ id: EntryID, _ entry: Entry, tick: UInt32) {
        let old = policy.tick(of: id)
        guard old != tick else { return }
        policy.touch(id, tenant: namespaceTenants[Int(entry.namespace)], tick: tick)
        if entry.isOnDisk { segments[entry.segment]?.tickSum += UInt64(tick &- old) }
    }

    mutating func addSegment(_ id: UInt32, recordCount: Int, byteCount: Int) {
        removeSegment(id)
        self.recordCount += recordCount
        segments[id] = Segment(
            records: [EntryID](repeating: .none, count: recordCount),
            storedByteCounts: [UInt32](repeating: 0, count: recordCount),
            liveCount: 0,
            tickSum: 0,
            byteCount: byteCount
        )
    }

    /// Whether there is such a segment. Its list is made longer if it does not reach to the record: the count of a
    /// segment's records is in a row of its own, which may be the one that was lost.
    mutating func hasPlace(segment: UInt32, ordinal: UInt16) -> Bool {
        guard let index = segments.index(forKey: segment) else { return false }
        let missing = Int(ordinal) + 1 - segments.values[index].records.count
        if missing > 0 {
            segments.values[index].records.append(contentsOf: repeatElement(.none, count: missing))
            segments.values[index].storedByteCounts.append(contentsOf: repeatElement(0, count: missing))
            recordCount += missing
        }
        return true
    }

    mutating func recordLives(segment: UInt32, ordinal: UInt16, entry: EntryID, storedByteCount: Int) {
        // By index, here and below: each subscript by key would hash the id again.
        let index = segments.index(forKey: segment)!
        segments.values[index].records[Int(ordinal)] = entry
        segments.values[index].storedByteCounts[Int(ordinal)] = UInt32(clamping: storedByteCount)
        segments.values[index].liveCount += 1
        segments.values[index].tickSum += UInt64(policy.tick(of: entry))
    }

    /// Bytes of a live record.
    func storedByteCount(segment: UInt32, ordinal: UInt16) -> Int {
        segments[segment].map { Int($0.storedByteCounts[Int(ordinal)]) } ?? 0
    }

    mutating func recordDied(segment: UInt32, ordinal: UInt16, tick: UInt32) {
        guard let index = segments.index(forKey: segment) else { return }
        segments.values[index].records[Int(ordinal)] = .none
        segments.values[index].liveCount -= 1
        segments.values[index].tickSum -= UInt64(tick)
    }

    mutating func removeSegment(_ id: UInt32) {
        if let segment = segments.removeValue(forKey: id) { recordCount -= segment.records.count }
    }

    mutating func removeAllSegments() {
        segments.removeAll()
        recordCount = 0
    }

    /// Halves every tick when the counter is about to wrap; returns the new counter.
    mutating func rescaleTicks(_ policies: [any EvictionPolicy], entries: borrowing EntryTable) -> UInt32 {
        for policy in policies { policy.halveTicks() }
        policy.halveTicks()
        for id in segments.keys {
            var sum: UInt64 = 0
            for entry in segments[id]!.records where entry != .none { sum += UInt64(policy.tick(of: entry)) }
            segments[id]!.tickSum = sum
        }
        return .max / 2 + 1
    }
}
