import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

/// A real store whose bytes change behind its back. Nobody looks blocks up: what is found is found by the scrub.
@Suite("The scrub of a store")
struct ScrubTests {
    static let blockBytes = 65536

    /// As fast as the machine allows, pass after pass, from the start.
    static var eager: ScrubConfiguration {
        var scrub = ScrubConfiguration()
        scrub.memoryBytesPerSecond = 1 << 40
        scrub.diskBytesPerSecond = 1 << 40
        scrub.passIntervalSeconds = 0
        scrub.startDelaySeconds = 0
        return scrub
    }

    static func configuration(_ directory: TemporaryDirectory?, _ scrub: ScrubConfiguration) -> Configuration {
        var configuration = Configuration(memoryCapacityBytes: 16 << 20)
        configuration.scrub = scrub
        configuration.warmUpFraction = 0
        if let directory {
            var disk = DiskConfiguration(path: directory.path + "/store", capacityBytes: 128 << 20)
            disk.writeBackDelaySeconds = nil
            configuration.disk = disk
        }
        return configuration
    }

    static func open(_ directory: TemporaryDirectory?, _ scrub: ScrubConfiguration = eager) throws -> BlockStore {
        let store = try BlockStore(configuration(directory, scrub))
        #expect(store.waitUntilWarm())
        return store
    }

    static func space(_ store: BlockStore) throws -> Namespace { try store.namespace(.test(blockBytes: blockBytes)) }

    /// Waits for what the scrub does in its own time; false after far longer than it can take.
    static func wait(_ condition: () -> Bool) -> Bool {
        let deadline = monotonicNanoseconds() + 20_000_000_000
        while monotonicNanoseconds() < deadline {
            if condition() { return true }
            usleep(2000)
        }
        return false
    }

    /// Waits until each tier was scrubbed twice more: one of them began after now.
    static func waitForPass(_ store: BlockStore, memory: Bool = true, disk: Bool = false) -> Bool {
        let before = store.statistics
        return wait {
            let now = store.statistics
            return (!memory || now.memory.scrub.passes >= before.memory.scrub.passes + 2)
                && (!disk || now.disk.scrub.passes >= before.disk.scrub.passes + 2)
        }
    }

    static func flipInMemory(_ store: BlockStore, _ key: BlockKey) {
        store.core.with { core in
            let slot = core.entries[core.entries.find(key)!].slot
            core.slots.memory(of: slot).mutableBytes(blockBytes)[1000] ^= 1
        }
    }

    /// Changes a byte of a block's record in its segment's file.
    static func flipOnDisk(_ directory: TemporaryDirectory, _ key: BlockKey) throws {
        let payload = withUnsafeTemporaryAllocation(byteCount: blockBytes, alignment: 8) { buffer in
            var span = buffer.mutableBytes
            Payload.fill(&span, key: key)
            return Data(buffer)
        }
        let folder = directory.path + "/store/db"
        for name in try FileManager.default.contentsOfDirectory(atPath: folder) where name.hasSuffix(".sst") {
            let content = try Data(contentsOf: URL(fileURLWithPath: "\(folder)/\(name)"))
            guard let place = content.range(of: payload[1024..<1088]) else { continue }
            try DiskScratch.damage("\(folder)/\(name)", at: place.lowerBound + 5000)
            return
        }
        Issue.record("no segment holds the block")
    }

    static func expectSound(_ store: BlockStore) {
        #expect(store.core.with { $0.checkInvariants() } == [])
        // The scrub holds one slot at a time, for moments.
        #expect(wait { store.statistics.pinnedSlots == 0 })
    }

    // MARK: Memory

    @Test func `drops a block whose bytes in memory changed with what builds on it`() throws {
        let store = try Self.open(nil)
        let space = try Self.space(store)
        BlockStoreTests.put(store, space.prefix([1, 2, 3, 4]))
        BlockStoreTests.put(store, space.prefix([1, 2, 30]))
        #expect(Self.waitForPass(store))
        #expect(store.statistics.memory.scrub.damagedBlocks == 0)
        Self.flipInMemory(store, space.prefix([1, 2, 3]).keys[2])
        #expect(Self.wait { store.statistics.memory.scrub.damagedBlocks == 1 })
        #expect(store.match(space.prefix([1, 2, 3, 4])).count == 2)
        #expect(store.match(space.prefix([1, 2, 30])).count == 3)
        let statistics = store.statistics
        #expect(statistics.memory.scrub.repairedBlocks == 0)
        #expect(statistics.corruptBlocks == 1)
        #expect(statistics.memory.scrub.checkedBytes == statistics.memory.scrub.checkedBlocks * Self.blockBytes)
        #expect(statistics.memory.scrub.secondsSincePass != nil)
        #expect(BlockStoreTests.get(store, space.prefix([1, 2, 30])).count == 3)
        Self.expectSound(store)
    }

    @Test func `serves a block from disk when its bytes in memory changed`() throws {
        let directory = TemporaryDirectory()
        let store = try Self.open(directory)
        let space = try Self.space(store)
        let prefix = space.prefix([1, 2, 3, 4])
        BlockStoreTests.put(store, prefix)
        #expect(store.flush().refusedBlocks == 0)
        Self.flipInMemory(store, prefix.keys[1])
        #expect(Self.wait { store.statistics.memory.scrub.repairedBlocks == 1 })
        #expect(store.match(prefix).tiers == [.memory, .disk, .memory, .memory])
        #expect(BlockStoreTests.get(store, prefix) == (4, 1))
        #expect(store.statistics.memory.scrub.damagedBlocks == 1)
        Self.expectSound(store)
    }

    @Test func `leaves a lease on a damaged block alone and frees its slot afterwards`() throws {
        let store = try Self.open(nil)
        let space = try Self.space(store)
        BlockStoreTests.put(store, space.prefix([1, 2]))
        do {
            let lease = store.acquire(space.prefix([1, 2]))!
            Self.flipInMemory(store, space.prefix([1, 2]).keys[0])
            #expect(Self.wait { store.statistics.memory.scrub.damagedBlocks == 1 })
            #expect(store.match(space.prefix([1, 2])).count == 0)
            let stillReadable = lease.withBytes(at: 1) { Payload.matches($0, key: space.prefix([1, 2]).keys[1]) }
            #expect(stillReadable)
        }
        Self.expectSound(store)
        #expect(store.core.with { $0.slots.usedSlotCount } == 0)
    }

    // MARK: Disk

    @Test func `finds a damaged record that nobody reads and leaves the others`() throws {
        let directory = TemporaryDirectory()
        let paths = [[1, 2, 3, 4], [1, 2, 30], [5, 6]]
        do {
            let store = try Self.open(directory, .off)
            let space = try Self.space(store)
            for path in paths { BlockStoreTests.put(store, space.prefix(path)) }
        }
        let other = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        let damaged = try Self.space(other).prefix([1, 2, 3]).keys[2]
        try Self.flipOnDisk(directory, damaged)
        do {
            let store = try Self.open(directory)
            let space = try Self.space(store)
            #expect(Self.wait { store.statistics.disk.scrub.damagedBlocks == 1 })
            #expect(store.match(space.prefix([1, 2, 3, 4])).count == 2)
            #expect(store.match(space.prefix([1, 2, 30])).count == 3)
            #expect(store.match(space.prefix([5, 6])).count == 2)
            #expect(Self.waitForPass(store, memory: false, disk: true))
            let statistics = store.statistics
            #expect(statistics.disk.scrub.damagedBlocks == 1)
            #expect(statistics.disk.scrub.repairedBlocks == 0)
            #expect(statistics.corruptBlocks == 1)
            #expect(statistics.lookups == 0)
            #expect(BlockStoreTests.get(store, space.prefix([1, 2, 30])).count == 3)
            Self.expectSound(store)
        }
        // The row went with the block.
        let log = try SegmentLog(directory: directory.path + "/store")
        var rows: Set<BlockKey> = []
        try log.forEachRow { rows.insert($0.key).inserted }
        log.close()
        #expect(rows.count == 5)
        #expect(!rows.contains(damaged))
    }

    @Test func `writes a block again when its record is damaged and memory has it`() throws {
        let directory = TemporaryDirectory()
        do {
            let store = try Self.open(directory, .off)
            let space = try Self.space(store)
            BlockStoreTests.put(store, space.prefix([1, 2, 3, 4]))
            #expect(store.flush().refusedBlocks == 0)
            store.close()
        }
        let keys: [BlockKey]
        do {
            // Two neighbours in one chain, one of them the other's parent; the rest of the chain is on disk only.
            let store = try Self.open(directory, .off)
            let space = try Self.space(store)
            keys = space.prefix([1, 2, 3, 4]).keys
            #expect(BlockStoreTests.get(store, space.prefix([1, 2, 3])).count == 3)
            try Self.flipOnDisk(directory, keys[1])
            try Self.flipOnDisk(directory, keys[2])
            #expect(Self.scrubDiskOnce(store) == [.good, .repaired, .repaired, .good])
            Self.expectSound(store)
            #expect(store.statistics.queuedBlocks == 2)
            #expect(store.match(space.prefix([1, 2, 3, 4])).count == 4)
            #expect(store.statistics.disk.blocks == 4, "what builds on them stays on disk")
            let flushed = store.flush()
            #expect((flushed.durableBlocks, flushed.refusedBlocks) == (4, 0))
            #expect(Self.scrubDiskOnce(store) == [.good, .good, .good, .good])
            #expect(store.statistics.disk.scrub.repairedBlocks == 2)
            Self.expectSound(store)
        }
        let store = try Self.open(directory)
        let space = try Self.space(store)
        #expect(BlockStoreTests.get(store, space.prefix([1, 2, 3, 4])) == (4, 4))
        #expect(store.statistics.corruptBlocks == 0)
    }

    @Test func `writes damaged records again by itself`() throws {
        let directory = TemporaryDirectory()
        let store = try Self.open(directory)
        let space = try Self.space(store)
        let prefix = space.prefix([1, 2, 3])
        BlockStoreTests.put(store, prefix)
        #expect(store.flush().refusedBlocks == 0)
        try Self.flipOnDisk(directory, prefix.keys[0])
        #expect(Self.wait { store.statistics.disk.scrub.repairedBlocks == 1 })
        #expect(store.flush().refusedBlocks == 0)
        #expect(Self.waitForPass(store, disk: true))
        #expect(store.statistics.disk.scrub.damagedBlocks == 1)
        #expect(store.match(prefix).tiers == [.memory, .memory, .memory])
        Self.expectSound(store)
    }

    @Test func `drops a block that is damaged in both tiers`() throws {
        let directory = TemporaryDirectory()
        let store = try Self.open(directory, .off)
        let space = try Self.space(store)
        let prefix = space.prefix([1, 2, 3])
        BlockStoreTests.put(store, prefix)
        #expect(store.flush().refusedBlocks == 0)
        try Self.flipOnDisk(directory, prefix.keys[1])
        Self.flipInMemory(store, prefix.keys[1])
        // The third goes with the second, before its turn comes.
        #expect(Self.scrubDiskOnce(store) == [.good, .dropped])
        #expect(store.match(prefix).count == 1)
        #expect(store.statistics.corruptBlocks == 1)
        #expect(store.statistics.memory.scrub.damagedBlocks == 1)
        Self.expectSound(store)
    }

    @Test func `keeps the tree whole when writing fails while a repair waits`() throws {
        let directory = TemporaryDirectory()
        let store = try Self.open(directory, .off)
        let space = try Self.space(store)
        let prefix = space.prefix([1, 2, 3, 4])
        BlockStoreTests.put(store, prefix)
        #expect(store.flush().refusedBlocks == 0)
        try Self.flipOnDisk(directory, prefix.keys[1])
        #expect(Self.scrubDiskOnce(store) == [.good, .repaired, .good, .good])
        store.core.with { $0.stopAccepting() }
        Self.expectSound(store)
        #expect(BlockStoreTests.get(store, prefix).count == 4)
        store.core.with { $0.disk.accepts = true }
        #expect(store.flush().refusedBlocks == 0)
        #expect(Self.scrubDiskOnce(store).allSatisfy { $0 == .good })
        Self.expectSound(store)
    }

    /// One pass over the disk, as the scrub's thread does it, while the thread is off.
    static func scrubDiskOnce(_ store: BlockStore) -> [ScrubVerdict] {
        var verdicts: [ScrubVerdict] = []
        var cursor: UInt64 = 0
        while true {
            let (step, next) = store.core.with { [cursor] core -> (ScrubStep<ScrubRecord>, UInt64) in
                var cursor = cursor
                let step = core.recordForScrub(from: &cursor, end: core.diskScrubEnd)
                return (step, cursor)
            }
            cursor = next
            switch step {
            case .nothingYet: break
            case .end: return verdicts
            case .check(let record):
                let log = store.disk!.currentLog!
                let found = try? RecordCheck.run(log, at: record.position, expecting: record.expected)
                var verdict = ScrubVerdict.good
                if case .good? = found {} else { verdict = Scrubber.repair(record, store.core) }
                store.core.with { [verdict] in $0.countScrubbed(verdict, recordByteCount: 1) }
                verdicts.append(verdict)
            }
        }
    }

    // MARK: Pace and restarts

    @Test func `goes on where it stopped when the store is opened again`() throws {
        let directory = TemporaryDirectory()
        do {
            let store = try Self.open(directory, .off)
            let space = try Self.space(store)
            for chain in 0..<10 { BlockStoreTests.put(store, space.prefix([chain * 10, chain * 10 + 1])) }
            store.close()
        }
        #expect(ScrubCursor(directory: directory.path + "/store").load() == nil)
        // A byte a second: one record, and then nothing for hours.
        var slow = Self.eager
        slow.diskBytesPerSecond = 1
        do {
            let store = try Self.open(directory, slow)
            #expect(Self.wait { store.statistics.disk.scrub.checkedBlocks == 1 })
            #expect(Self.waitForPass(store, memory: false) && store.statistics.disk.scrub.passes == 0)
            store.close()
            #expect(store.statistics.disk.scrub.checkedBlocks == 1)
            #expect(store.statistics.disk.scrub.checkedBytes > Self.blockBytes)
        }
        let saved = try #require(ScrubCursor(directory: directory.path + "/store").load())
        #expect(saved.ordinal == 1)
        do {
            var once = Self.eager
            once.passIntervalSeconds = 1000
            let store = try Self.open(directory, once)
            #expect(Self.wait { store.statistics.disk.scrub.passes == 1 })
            #expect(store.statistics.disk.scrub.checkedBlocks == 19, "the first record was checked before the restart")
            #expect(store.statistics.disk.blocks == 20)
            store.close()
        }
        #expect(ScrubCursor(directory: directory.path + "/store").load() == RecordPosition(segment: 0, ordinal: 0))
    }

    @Test func `ends at once when the store closes in the middle of a pass`() throws {
        let directory = TemporaryDirectory()
        for round in 0..<12 {
            let store = try Self.open(directory)
            let space = try Self.space(store)
            for chain in 0..<8 {
                let number = 1000 * (round + 1) + 10 * chain
                BlockStoreTests.put(store, space.prefix([-round, number, number + 1]))
            }
            if round % 3 != 0 { #expect(store.flush().refusedBlocks == 0) }
            if round % 2 == 0 { #expect(Self.waitForPass(store, disk: round % 3 != 0)) }
            store.close()
            #expect(store.statistics.pinnedSlots == 0)
            #expect(store.statistics.corruptBlocks == 0)
            let checked = store.statistics.memory.scrub.checkedBlocks
            #expect(store.statistics.memory.scrub.checkedBlocks == checked)
        }
    }

    @Test func `Rates of 0 start no thread and count nothing`() throws {
        let store = try Self.open(nil, .off)
        BlockStoreTests.put(store, try Self.space(store).prefix([1]))
        #expect(Scrubber(store.configuration, core: store.core, disk: nil) == nil)
        #expect(store.statistics.memory.scrub == ScrubStatistics())
        var diskOnly = Self.eager
        diskOnly.memoryBytesPerSecond = 0
        #expect(Scrubber(Self.configuration(nil, diskOnly), core: store.core, disk: nil) == nil)
    }

    @Test func `takes nothing amiss while blocks come and go`() async throws {
        let directory = TemporaryDirectory()
        let store = try Self.open(directory)
        let space = try Self.space(store)
        await withTaskGroup { group in
            for worker in 0..<3 {
                group.addTask {
                    var random = SeededRandom(seed: UInt64(worker))
                    for _ in 0..<400 {
                        let chain = Int.random(in: 0..<60, using: &random)
                        let prefix = space.prefix((0..<Int.random(in: 1...6, using: &random)).map { chain * 10 + $0 })
                        switch Int.random(in: 0..<10, using: &random) {
                        case 0: store.remove(prefix, from: prefix.keys.count - 1)
                        case 1..<5: BlockStoreTests.put(store, prefix)
                        default: #expect(BlockStoreTests.get(store, prefix).count >= 0)
                        }
                    }
                }
            }
        }
        #expect(Self.waitForPass(store))
        let statistics = store.statistics
        #expect(statistics.memory.scrub.damagedBlocks == 0)
        #expect(statistics.disk.scrub.damagedBlocks == 0)
        #expect(statistics.corruptBlocks == 0)
        #expect(statistics.disk.scrub.checkedBlocks > 0)
        Self.expectSound(store)
    }
}
