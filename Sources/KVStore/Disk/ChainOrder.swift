/// The rows of an index in the order in which their blocks were used, found from the rows alone.
///
/// A row's recency is the highest sequence of its own and of its descendants, so no parent is colder than a child. Going
/// through the rows from the highest sequence down, and from each up to the first ancestor that was seen before, every
/// row is met once, already with its final recency: one sort of numbers, and one look-up a row.
struct ChainOrder {
    /// Rows that a chain from a root reaches, hottest first; of a chain that is as hot as its end, the root first. So
    /// parents come before children, and backwards it is the order of the disk tier.
    private(set) var reached: [Int] = []
    /// Rows that no root reaches.
    private(set) var orphans: [Int] = []
    /// For every row what it goes by; for an orphan its own sequence.
    private(set) var recency: [UInt64]

    /// - Complexity: O(n).
    init(_ rows: [IndexRow]) {
        recency = rows.map(\.sequence)
        reached.reserveCapacity(rows.count)
        let parents = RowNumbers(rows).parents(of: rows)
        var states = [State](repeating: .unseen, count: rows.count)
        var path: [Int] = []
        for newest in Self.newestFirst(recency) {
            var isReached = false
            var number = newest
            while number >= 0 {
                guard states[number] == .unseen else {
                    isReached = states[number] == .reached
                    break
                }
                // Until a root is found; a chain that bites its tail ends here too.
                states[number] = .orphan
                path.append(number)
                isReached = parents[number] == RowNumbers.root
                number = Int(parents[number])
            }
            if isReached {
                for number in path.reversed() {
                    states[number] = .reached
                    recency[number] = recency[newest]
                    reached.append(number)
                }
            } else {
                orphans += path
            }
            path.removeAll(keepingCapacity: true)
        }
    }

    private enum State: UInt8 { case unseen, reached, orphan }

    /// Numbers of the rows by falling sequence. A radix sort over the bits in which the sequences differ: for a store's
    /// running numbers two passes a million rows, where comparing took a fifth of a start.
    private static func newestFirst(_ sequences: [UInt64]) -> [Int] {
        guard let oldest = sequences.min(), let newest = sequences.max() else { return [] }
        var items = sequences.enumerated().map { (age: newest - $0.element, number: UInt32($0.offset)) }
        var sorted = items
        let digitBits = 11
        for shift in stride(from: 0, to: 64, by: digitBits) where (newest - oldest) >> shift != 0 {
            var places = [Int](repeating: 0, count: 1 << digitBits)
            func digit(_ age: UInt64) -> Int { Int(truncatingIfNeeded: (age &>> UInt64(shift)) & (1 << digitBits - 1)) }
            for item in items { places[digit(item.age)] += 1 }
            var start = 0
            for place in places.indices { (places[place], start) = (start, start + places[place]) }
            for item in items {
                sorted[places[digit(item.age)]] = item
                places[digit(item.age)] += 1
            }
            swap(&items, &sorted)
        }
        return items.map { Int($0.number) }
    }
}

/// Numbers of rows by key: open addressing with linear probing, at most half full.
///
/// A key is a SHA-256, so its first bytes serve as the hash; RocksDB has the rows in their order, which makes filling the
/// table one walk through memory. Keys of a client's own making may all begin alike: then the table is filled once more,
/// by a hash that nobody can foresee. A slot holds the row's number + 1 and below that half of another word of the key, so
/// that hardly ever a row is looked at in vain; whole keys are compared all the same.
private struct RowNumbers {
    private var slots: [UInt64]
    private let shift: UInt64
    private var hash: KeyHash?

    init(_ rows: [IndexRow]) {
        let bits = max(4, Int.bitWidth - (2 * rows.count).leadingZeroBitCount)
        shift = UInt64(64 - bits)
        slots = [UInt64](repeating: 0, count: 1 << bits)
        // Digests need half a step each in a table this empty.
        if fill(rows, stepLimit: 16 * rows.count + 4096) { return }
        hash = KeyHash()
        slots = [UInt64](repeating: 0, count: 1 << bits)
        _ = fill(rows, stepLimit: .max)
    }

    /// False when that takes more steps past filled slots than the limit.
    private mutating func fill(_ rows: [IndexRow], stepLimit: Int) -> Bool {
        var steps = 0
        for number in rows.indices {
            let key = rows[number].key
            var place = start(of: key)
            while slots[place] != 0 {
                place = (place + 1) & (slots.count - 1)
                steps += 1
            }
            if steps > stepLimit { return false }
            slots[place] = UInt64(number + 1) << 32 | key.word1 >> 32
        }
        return true
    }

    private func start(of key: BlockKey) -> Int {
        Int(truncatingIfNeeded: (hash.map { $0(key) } ?? key.word0.byteSwapped) &>> shift)
    }

    static let root: Int32 = -1
    private static let missing: Int32 = -2

    /// For every row the number of its parent, or `root`, or another negative number. All in one go, since then the
    /// processor waits for many of these reads all over memory at a time; along a chain it would wait for each.
    func parents(of rows: [IndexRow]) -> [Int32] {
        rows.indices.map { number in
            let parent = rows[number].parent
            if parent == rows[number].fingerprint { return Self.root }
            return find(parent, in: rows).map { Int32($0) } ?? Self.missing
        }
    }

    private func find(_ key: BlockKey, in rows: [IndexRow]) -> Int? {
        var place = start(of: key)
        while slots[place] != 0 {
            let number = Int(slots[place] >> 32) - 1
            if slots[place] & 0xFFFF_FFFF == key.word1 >> 32, rows[number].key == key { return number }
            place = (place + 1) & (slots.count - 1)
        }
        return nil
    }
}
