/// Index of an entry, dense from 0. `none` says "no entry".
package typealias EntryID = UInt32
extension UInt32 {
    static var none: UInt32 { .max }
}

/// What the store knows about one block. 64 bytes, because there is one for every block on disk.
struct Entry: BitwiseCopyable {
    /// Where the block's bytes in memory stand.
    enum Residence: UInt8, BitwiseCopyable {
        /// No slot: the block is on disk only.
        case none
        /// A slot is being filled by whoever reserved it. Invisible.
        case reserved
        /// A slot holds the bytes and the memory tier counts it.
        case resident
        /// Evicted from the memory tier, but the slot stays until the bytes are on disk.
        case spilling
        /// A slot is being filled from disk.
        case loading
    }

    var key: BlockKey
    var parent: EntryID = .none
    var firstChild: EntryID = .none
    var nextSibling: EntryID = .none
    var previousSibling: EntryID = .none
    var slot: SlotID = .none
    var segment: UInt32 = .none
    var ordinal: UInt16 = 0
    var namespace: UInt16
    var residence: Residence = .none
    /// Waits to be written to disk, or is being written.
    var isQueued = false
    /// The writer holds its slot right now.
    var isWriting = false
    /// Saturating count of hits, kept on disk too.
    var uses: UInt8 = 0

    var isOnDisk: Bool { segment != .none }
    /// The disk tier counts a block from the moment it is queued for it.
    var isInDiskTier: Bool { isOnDisk || isQueued }
    /// A lookup may find it.
    var isPresent: Bool { residence != .reserved }
}

/// All entries, found by key, linked as the tree of prefixes.
///
/// Entries live in one array that never moves; a hash table in 16 shards maps keys to them, so that growing one shard
/// is short. Memory comes from `mmap` and counts against the memory cap. Lives inside the store's lock.
struct EntryTable: ~Copyable {
    private var entries: MappedArray<Entry>
    private var shards: [KeyShard]
    private var shardByteCount = 0
    private var freeHead: EntryID = .none
    private(set) var count = 0
    let capacity: Int
    private let hash: KeyHash

    private static let shardBits = 4

    init(capacity: Int, hash: KeyHash = KeyHash()) throws(KVStoreError) {
        self.capacity = capacity
        self.hash = hash
        entries = try MappedArray(capacity: capacity)
        shards = []
        for _ in 0..<(1 << Self.shardBits) { shards.append(KeyShard()) }
        shardByteCount = shards.reduce(0) { $0 + $1.byteCount }
    }

    /// Memory the table takes from the cap.
    var metadataBytes: Int { entries.committedBytes + shardByteCount }

    /// Ids ever in use are below this; other tables keyed by entry grow to it.
    var highWater: Int { entries.count }

    subscript(id: EntryID) -> Entry {
        @inline(__always) get { entries[Int(id)] }
        @inline(__always) _modify { yield &entries[Int(id)] }
    }

    private static func shard(_ hash: UInt64) -> Int { Int(hash >> (64 - UInt64(shardBits))) }

    /// The entry of `key`, present or reserved. O(1).
    func find(_ key: BlockKey) -> EntryID? {
        let start = hash(key)
        return shards[Self.shard(start)].find(key, start, entries: entries)
    }

    /// The entry of `key`, which is likely the newest child of `parent`: along a chain that saves the look-up. O(1).
    @inline(__always)
    func find(_ key: BlockKey, after parent: EntryID) -> EntryID? {
        if parent != .none {
            let child = entries[Int(parent)].firstChild
            if child != .none, entries[Int(child)].key == key { return child }
        }
        return find(key)
    }

    /// The entry of `key`, which is likely `guess` (any id, or none). O(1).
    @inline(__always)
    func find(_ key: BlockKey, likely guess: EntryID) -> EntryID? {
        if guess != .none, Int(guess) < entries.count, entries[Int(guess)].key == key { return guess }
        return find(key)
    }

    /// Adds an entry under `parent` (or as a root). Nil when the metadata limit is reached.
    mutating func insert(_ key: BlockKey, parent: EntryID, namespace: UInt16) -> EntryID? {
        guard let id = takeID() else { return nil }
        entries[Int(id)] = Entry(key: key, parent: parent, namespace: namespace)
        if parent != .none { linkChild(id, to: parent) }
        let start = hash(key)
        let shard = Self.shard(start)
        shardByteCount += shards[shard].makeRoom(for: 1, entries: entries, hash)
        shards[shard].insert(start, id: id)
        count += 1
        return id
    }

    /// Grows one shard at once for its part of `newCount` more entries, instead of doubling it again and again on the way:
    /// doubling moves every key of the shard, which a lookup has to wait for. Not if that takes more than `byteLimit`.
    mutating func reserve(shard: Int, forNewEntries newCount: Int, byteLimit: Int) {
        // Parts differ by chance, by less than a fiftieth where it matters.
        let part = newCount / shards.count * 51 / 50 + 16
        guard shards[shard].byteCountWithRoom(for: part) - shards[shard].byteCount <= byteLimit else { return }
        shardByteCount += shards[shard].makeRoom(for: part, entries: entries, hash)
    }

    static var shardCount: Int { 1 << shardBits }

    /// Takes a childless entry out.
    mutating func remove(_ id: EntryID) {
        let entry = entries[Int(id)]
        precondition(entry.firstChild == .none, "an entry with children stays")
        if entry.parent != .none { unlinkChild(id, from: entry.parent) }
        let start = hash(entry.key)
        shards[Self.shard(start)].remove(start, id: id, entries: entries, hash)
        self.entries[Int(id)] = Entry(
            key: BlockKey(word0: 0, word1: 0, word2: 0, word3: 0),
            nextSibling: freeHead,
            namespace: 0
        )
        freeHead = id
        count -= 1
    }

    private mutating func takeID() -> EntryID? {
        if freeHead != .none {
            let id = freeHead
            freeHead = entries[Int(id)].nextSibling
            return id
        }
        let id = entries.count
        return entries.grow(toCount: id + 1) ? EntryID(id) : nil
    }

    private mutating func linkChild(_ id: EntryID, to parent: EntryID) {
        let first = entries[Int(parent)].firstChild
        entries[Int(id)].nextSibling = first
        if first != .none { entries[Int(first)].previousSibling = id }
        entries[Int(parent)].firstChild = id
    }

    private mutating func unlinkChild(_ id: EntryID, from parent: EntryID) {
        let entry = entries[Int(id)]
        if entry.previousSibling == .none {
            entries[Int(parent)].firstChild = entry.nextSibling
        } else {
            entries[Int(entry.previousSibling)].nextSibling = entry.nextSibling
        }
        if entry.nextSibling != .none { entries[Int(entry.nextSibling)].previousSibling = entry.previousSibling }
    }
}

/// Where in the table a key belongs. A key is a SHA-256, of which any word would do, if it were not that the daemon's
/// clients send keys of their own making: without the secret, nobody can make keys that all land in one place.
struct KeyHash {
    private let secret: (UInt64, UInt64, UInt64, UInt64)

    init() {
        var random = SystemRandomNumberGenerator()
        self.init(secret: (random.next(), random.next(), random.next(), random.next()))
    }

    init(secret: (UInt64, UInt64, UInt64, UInt64)) { self.secret = secret }

    /// Two products of words that nobody knows, folded: the idea of wyhash. The end is that of MurmurHash 3: without it, an
    /// unlucky secret leaves few of the low bits to choose a place by.
    @inline(__always)
    func callAsFunction(_ key: BlockKey) -> UInt64 {
        let first = (key.word0 ^ secret.0).multipliedFullWidth(by: key.word1 ^ secret.1)
        let second = (key.word2 ^ secret.2).multipliedFullWidth(by: key.word3 ^ secret.3)
        let folded = first.high ^ first.low ^ second.high ^ second.low
        let mixed = (folded ^ folded &>> 33) &* 0xFF51_AFD7_ED55_8CCD
        return mixed ^ mixed &>> 33
    }
}

/// One shard of the key table: open addressing with linear probing, at most 3/4 full, backward-shift deletion.
///
/// A slot holds the entry's id + 1; keys are compared in the entry itself.
private struct KeyShard {
    private var slots: [UInt32]
    private var used = 0

    init() { slots = [UInt32](repeating: 0, count: 256) }

    var byteCount: Int { slots.count * MemoryLayout<UInt32>.size }

    func home(_ hash: UInt64) -> Int { Int(truncatingIfNeeded: hash) & (slots.count - 1) }
    func next(_ position: Int) -> Int { (position + 1) & (slots.count - 1) }
    func id(at position: Int) -> EntryID { slots[position] &- 1 }

    func find(_ key: BlockKey, _ hash: UInt64, entries: borrowing MappedArray<Entry>) -> EntryID? {
        var position = home(hash)
        while true {
            let id = id(at: position)
            if id == .none { return nil }
            if entries[Int(id)].key == key { return id }
            position = next(position)
        }
    }

    mutating func insert(_ hash: UInt64, id: EntryID) {
        place(hash, id)
        used += 1
    }

    func byteCountWithRoom(for newCount: Int) -> Int {
        var size = slots.count
        while (used + newCount) * 4 > size * 3 { size *= 2 }
        return size * MemoryLayout<UInt32>.size
    }

    /// Returns the bytes that it grew by.
    @inline(__always)
    mutating func makeRoom(for newCount: Int, entries: borrowing MappedArray<Entry>, _ hash: KeyHash) -> Int {
        if (used + newCount) * 4 <= slots.count * 3 { return 0 }
        let old = byteCount
        grow(toCount: byteCountWithRoom(for: newCount) / MemoryLayout<UInt32>.size, entries: entries, hash)
        return byteCount - old
    }

    private mutating func place(_ hash: UInt64, _ id: EntryID) {
        var position = home(hash)
        while slots[position] != 0 { position = next(position) }
        slots[position] = id + 1
    }

    private mutating func grow(toCount count: Int, entries: borrowing MappedArray<Entry>, _ hash: KeyHash) {
        let old = slots
        slots = [UInt32](repeating: 0, count: count)
        for slot in old where slot != 0 { place(hash(entries[Int(slot - 1)].key), slot - 1) }
    }

    mutating func remove(_ start: UInt64, id: EntryID, entries: borrowing MappedArray<Entry>, _ hash: KeyHash) {
        var hole = home(start)
        while slots[hole] != id + 1 {
            precondition(slots[hole] != 0, "removing a key that is not in the table")
            hole = next(hole)
        }
        // Move later members of the run into the hole unless that would put them before their start.
        var position = next(hole)
        while slots[position] != 0 {
            let home = home(hash(entries[Int(slots[position] - 1)].key))
            if ((position - home) & (slots.count - 1)) >= ((position - hole) & (slots.count - 1)) {
                slots[hole] = slots[position]
                hole = position
            }
            position = next(position)
        }
        slots[hole] = 0
        used -= 1
    }
}
