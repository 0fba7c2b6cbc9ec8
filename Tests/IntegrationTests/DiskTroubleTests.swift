import Foundation
import KVStoreTestSupport
import Synchronization
import Testing

@testable import KVStore

/// The disk tier cannot be used, or not now. The memory tier does not care, one warning says why, and nothing that is
/// not ours is touched.
@Suite("A store whose disk gives trouble", .serialized)
struct DiskTroubleTests {
    /// What a store said through `onEvent`.
    final class Events: Sendable {
        private let all = Synchronization.Mutex<[StoreEvent]>([])
        func note(_ event: StoreEvent) { all.withLock { $0.append(event) } }
        var warnings: [String] { all.withLock { $0.filter { $0.severity == .warning }.map(\.message) } }
    }

    static func open(_ path: String, _ events: Events, capacityBytes: Int = 64 << 20) throws -> BlockStore {
        var disk = DiskConfiguration(path: path, capacityBytes: capacityBytes)
        disk.writeBackDelaySeconds = 0.1
        var configuration = Configuration(memoryCapacityBytes: 16 << 20, disk: disk)
        configuration.onEvent = { events.note($0) }
        return try BlockStore(configuration)
    }

    /// Stores blocks `range` in chains of 4 and counts those that come back right.
    static func putAndGet(_ store: BlockStore, _ range: Range<Int>, blockBytes: Int = 65536) throws -> Int {
        let space = try store.namespace(.test(blockBytes: blockBytes))
        for first in stride(from: range.lowerBound, to: range.upperBound, by: 4) {
            let prefix = space.prefix(Array(first..<min(first + 4, range.upperBound)))
            store.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
        }
        return try countRight(store, range, blockBytes: blockBytes)
    }

    static func countRight(_ store: BlockStore, _ range: Range<Int>, blockBytes: Int = 65536) throws -> Int {
        let space = try store.namespace(.test(blockBytes: blockBytes))
        var right = 0
        for first in stride(from: range.lowerBound, to: range.upperBound, by: 4) {
            let prefix = space.prefix(Array(first..<min(first + 4, range.upperBound)))
            guard let lease = store.acquire(prefix) else { continue }
            for number in 0..<lease.count {
                guard lease.withBytes(at: number, { Payload.matches($0, key: prefix.keys[number]) }) else { return -1 }
                right += 1
            }
        }
        return right
    }

    /// All that holds while the disk cannot be used. Long enough for two more tries of the writer.
    static func expectMemoryOnly(_ store: BlockStore, _ events: Events, problem: String) throws {
        #expect(!store.waitUntilWarm())
        #expect(try putAndGet(store, 0..<40) == 40)
        usleep(2_200_000)
        #expect(try putAndGet(store, 100..<140) == 40)
        let statistics = store.statistics
        #expect(statistics.diskProblem?.contains(problem) == true, "\(statistics.diskProblem ?? "no problem")")
        #expect(events.warnings.count == 1, "\(events.warnings)")
        let flushed = store.flush()
        #expect(flushed.durableBlocks == 0 && flushed.refusedBlocks == 80)
        #expect(flushed.reason?.contains(problem) == true)
        #expect(statistics.memory.bytes <= statistics.memory.capacityBytes)
    }

    /// Waits until a flush refuses nothing: the disk is back.
    static func waitUntilWritten(_ store: BlockStore, seconds: Double = 20) -> Bool {
        let deadline = nanosecondsNow() + UInt64(seconds * 1e9)
        while nanosecondsNow() < deadline {
            if store.flush().refusedBlocks == 0 { return true }
            usleep(100_000)
        }
        return false
    }

    /// Names, contents and times of everything in a directory.
    static func snapshot(_ path: String) -> [String: String] {
        var result: [String: String] = [:]
        for name in FileManager.default.enumerator(atPath: path)?.compactMap({ $0 as? String }) ?? [] {
            var info = stat()
            lstat(path + "/" + name, &info)
            let content = FileManager.default.contents(atPath: path + "/" + name)?.hashValue ?? 0
            result[name] = "\(info.st_size) \(info.st_mode) \(info.st_mtim.tv_sec).\(info.st_mtim.tv_nsec) \(content)"
        }
        return result
    }

    @Test func `A directory of somebody else is left as it is`() throws {
        let directory = TemporaryDirectory("trouble")
        try FileManager.default.createDirectory(atPath: directory.path + "/db", withIntermediateDirectories: true)
        for name in ["thesis.txt", "db/000001.sst", "db/CURRENT"] {
            try "years of work".write(toFile: directory.path + "/" + name, atomically: false, encoding: .utf8)
        }
        let before = Self.snapshot(directory.path)
        let events = Events()
        let store = try Self.open(directory.path, events)
        try Self.expectMemoryOnly(store, events, problem: "foreignDirectory")
        store.close()
        #expect(Self.snapshot(directory.path) == before)
    }

    @Test(arguments: ["kvstore-disk 2\n", "kvstore-disk", "", "other-store 1\n", nil])
    func `A directory whose FORMAT is not ours is left as it is`(_ format: String?) throws {
        let directory = TemporaryDirectory("trouble")
        let path = directory.path + "/store"
        do {
            let store = try Self.open(path, Events())
            #expect(store.waitUntilWarm())
            #expect(try Self.putAndGet(store, 0..<8) == 8)
        }
        if let format {
            try Data(format.utf8).write(to: URL(fileURLWithPath: path + "/FORMAT"))
        } else {
            try FileManager.default.removeItem(atPath: path + "/FORMAT")
        }
        let before = Self.snapshot(path)
        let events = Events()
        let store = try Self.open(path, events)
        try Self.expectMemoryOnly(
            store,
            events,
            problem: format == "kvstore-disk 2\n" ? "futureFormat" : "foreignDirectory"
        )
        store.close()
        #expect(Self.snapshot(path) == before)
    }

    @Test func `A directory that another process holds is taken over when that process ends`() throws {
        let directory = TemporaryDirectory("trouble")
        let path = directory.path + "/store"
        let holder = try WorkerProcess(["hold", path])
        #expect(holder.nextLine(untilNanoseconds: nanosecondsNow() + 10_000_000_000) == "warm 1")
        let before = Self.snapshot(path)
        let events = Events()
        let store = try Self.open(path, events)
        try Self.expectMemoryOnly(store, events, problem: "locked")
        #expect(Self.snapshot(path) == before)
        #expect(holder.killAndWait() == SIGKILL)
        #expect(Self.waitUntilWritten(store))
        #expect(store.statistics.diskProblem == nil)
        store.close()
        let again = try Self.open(path, events)
        #expect(again.waitUntilWarm())
        #expect(try Self.countRight(again, 0..<40) == 40)
        #expect(events.warnings.count == 1)
    }

    /// Root may do everything, so a child gives its rights up first.
    @Test(arguments: [false, true])
    func `A directory that may not be written is used once it may`(_ existsAlready: Bool) async throws {
        guard getuid() == 0 else {
            print("skipped: only root can take its own rights away and back")
            return
        }
        await #expect(processExitsWith: .success) { [existsAlready] in
            let directory = TemporaryDirectory("trouble")
            let path = directory.path + "/store"
            chmod(directory.path, 0o755)
            if existsAlready {
                let store = try DiskTroubleTests.open(path, Events())
                #expect(store.waitUntilWarm())
                #expect(try DiskTroubleTests.putAndGet(store, 500..<508) == 8)
                store.close()
                chmod(path, 0o755)
            }
            let before = DiskTroubleTests.snapshot(directory.path)
            guard setegid(65534) == 0, seteuid(65534) == 0 else { exit(3) }
            let events = Events()
            let store = try DiskTroubleTests.open(path, events)
            try DiskTroubleTests.expectMemoryOnly(store, events, problem: "permissionDenied")
            #expect(events.warnings.first?.contains(path) == true)
            seteuid(0)
            setegid(0)
            #expect(DiskTroubleTests.snapshot(directory.path) == before)
            #expect(DiskTroubleTests.waitUntilWritten(store))
            #expect(store.statistics.diskProblem == nil)
            if existsAlready { #expect(try DiskTroubleTests.countRight(store, 500..<508) == 8) }
            store.close()
            #expect(events.warnings.count == 1)
        }
    }

    @Test func `A read-only file system is left as it is`() throws {
        let directory = TemporaryDirectory("trouble")
        guard mount("tmpfs", directory.path, "tmpfs", 0, "size=64m") == 0 else {
            print("skipped: this user may not mount a file system")
            return
        }
        defer { umount2(directory.path, 2) }
        let path = directory.path + "/store"
        do {
            let store = try Self.open(path, Events())
            #expect(store.waitUntilWarm())
            #expect(try Self.putAndGet(store, 500..<508) == 8)
        }
        try #require(mount("tmpfs", directory.path, "tmpfs", UInt(MS_REMOUNT | MS_RDONLY), "") == 0)
        let before = Self.snapshot(directory.path)
        let events = Events()
        let store = try Self.open(path, events)
        try Self.expectMemoryOnly(store, events, problem: "permissionDenied")
        #expect(Self.snapshot(directory.path) == before)
        try #require(mount("tmpfs", directory.path, "tmpfs", UInt(MS_REMOUNT), "") == 0)
        #expect(Self.waitUntilWritten(store))
        #expect(try Self.countRight(store, 500..<508) == 8)
        store.close()
    }

    /// In a child: an assertion in RocksDB would end the process.
    @Test(arguments: [true, false])
    func `A full file system pauses writing until there is space again`(_ isFullAtOpen: Bool) async throws {
        let probe = TemporaryDirectory("trouble")
        guard mount("tmpfs", probe.path, "tmpfs", 0, "size=1m") == 0 else {
            print("skipped: this user may not mount a file system to fill up")
            return
        }
        umount2(probe.path, 2)
        await #expect(processExitsWith: .success) { [isFullAtOpen] in
            let directory = TemporaryDirectory("trouble")
            guard mount("tmpfs", directory.path, "tmpfs", 0, "size=48m") == 0 else { exit(3) }
            defer { umount2(directory.path, 2) }
            let events = Events()
            let path = directory.path + "/store"
            let ballast = directory.path + "/ballast"
            if isFullAtOpen { DiskTroubleTests.fill(ballast) }
            let store = try DiskTroubleTests.open(path, events, capacityBytes: 256 << 20)
            if isFullAtOpen {
                #expect(!store.waitUntilWarm())
            } else {
                #expect(store.waitUntilWarm())
                #expect(try DiskTroubleTests.putAndGet(store, 0..<40) == 40)
                #expect(store.flush().refusedBlocks == 0)
                DiskTroubleTests.fill(ballast)
            }
            let before = FileManager.default.contents(atPath: ballast)
            let problem = DiskTroubleTests.problem(store, whileStoringFrom: 1000)
            #expect(problem?.contains("diskFull") == true, "\(problem ?? "none")")
            // Memory serves whatever is small enough for it.
            #expect(try DiskTroubleTests.putAndGet(store, 200..<280) == 80)
            let refused = store.flush()
            #expect(refused.refusedBlocks > 0 && refused.reason != nil)
            usleep(2_200_000)
            #expect(events.warnings.count == 1, "\(events.warnings)")
            if !isFullAtOpen { #expect(try DiskTroubleTests.countRight(store, 0..<40) >= 0) }
            #expect(FileManager.default.contents(atPath: ballast) == before)
            unlink(ballast)
            #expect(DiskTroubleTests.waitUntilWritten(store, seconds: 40))
            #expect(store.statistics.diskProblem == nil)
            #expect(try DiskTroubleTests.countRight(store, 200..<280) == 80)
            store.close()
            let again = try DiskTroubleTests.open(path, events, capacityBytes: 256 << 20)
            #expect(again.waitUntilWarm())
            #expect(try DiskTroubleTests.countRight(again, 200..<280) == 80)
            // What was flushed before the disk was full is there too.
            if !isFullAtOpen { #expect(try DiskTroubleTests.countRight(again, 0..<40) == 40) }
            #expect(again.statistics.corruptBlocks == 0)
            again.close()
        }
    }

    /// Takes all the space that is left.
    static func fill(_ path: String) {
        let descriptor = Foundation.open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0o600)
        for size in [1 << 20, 4096] {
            let chunk = [UInt8](repeating: 1, count: size)
            while write(descriptor, chunk, size) == size {}
        }
        close(descriptor)
    }

    /// Stores until the disk tier has a problem.
    static func problem(_ store: BlockStore, whileStoringFrom first: Int) -> String? {
        for round in 0..<200 {
            if let problem = store.statistics.diskProblem { return problem }
            _ = try? putAndGet(store, first + round * 20..<first + round * 20 + 20)
            usleep(20_000)
        }
        return nil
    }
}
