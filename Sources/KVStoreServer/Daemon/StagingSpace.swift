internal import KVStore

/// Which bytes of a staging region are given out. First fit, by place; a connection has at most 64 reservations.
struct StagingSpace: Sendable {
    private struct Range: Sendable {
        var start: Int
        var end: Int
    }

    let byteCount: Int
    /// In ascending order, never touching each other.
    private var free: [Range]

    init(byteCount: Int) {
        self.byteCount = byteCount
        free = byteCount > 0 ? [Range(start: 0, end: byteCount)] : []
    }

    /// Bytes of the place for a block: whole pages, so that blocks do not share any.
    static func placeByteCount(_ blockByteCount: Int) -> Int { roundUp(max(1, blockByteCount), to: pageByteCount) }

    /// Bytes that are given out.
    var usedByteCount: Int { byteCount - free.reduce(0) { $0 + $1.end - $1.start } }

    /// Blocks of that size for which there is room.
    func freeCount(blockByteCount: Int) -> Int {
        let place = Self.placeByteCount(blockByteCount)
        return free.reduce(0) { $0 + ($1.end - $1.start) / place }
    }

    /// Places for `count` blocks, or nil; then nothing changed.
    mutating func take(_ count: Int, blockByteCount: Int) -> [Int]? {
        guard count <= freeCount(blockByteCount: blockByteCount) else { return nil }
        let place = Self.placeByteCount(blockByteCount)
        var offsets: [Int] = []
        for index in free.indices {
            while offsets.count < count, free[index].end - free[index].start >= place {
                offsets.append(free[index].start)
                free[index].start += place
            }
        }
        free.removeAll { $0.start == $0.end }
        return offsets
    }

    /// Takes places back.
    mutating func give(_ offsets: [Int], blockByteCount: Int) {
        let place = Self.placeByteCount(blockByteCount)
        free += offsets.map { Range(start: $0, end: $0 + place) }
        free.sort { $0.start < $1.start }
        var merged: [Range] = []
        for range in free {
            if let last = merged.last, last.end >= range.start {
                precondition(last.end == range.start, "a place was given back twice")
                merged[merged.count - 1].end = range.end
            } else {
                merged.append(range)
            }
        }
        free = merged
    }
}
