import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("The directory of a disk tier") struct StoreDirectoryTests {
    let scratch = DiskScratch()

    private func expectOpen(
        _ code: KVStoreError.Code,
        _ path: String? = nil,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let error = #expect(throws: KVStoreError.self, sourceLocation: sourceLocation) {
            try SegmentLog(directory: path ?? scratch.store)
        }
        #expect(error?.code == code, "\(String(describing: error))", sourceLocation: sourceLocation)
    }

    private func makeStore(_ files: [String: String]) throws {
        try FileManager.default.createDirectory(atPath: scratch.store, withIntermediateDirectories: true)
        for (name, content) in files {
            try Data(content.utf8).write(to: URL(fileURLWithPath: scratch.store + "/" + name))
        }
    }

    private func names(_ folder: String = "") throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: scratch.store + "/" + folder).sorted()
    }

    @Test func `is made with its parents for its owner only`() throws {
        let log = try SegmentLog(directory: scratch.store + "/a/b/")
        try log.write([1])
        for name in ["", "/a", "/a/b", "/a/b/db", "/a/b/incoming"] {
            let mode = try FileManager.default.attributesOfItem(atPath: scratch.store + name)[.posixPermissions] as? Int
            #expect(mode == 0o700, "\(name)")
        }
        for name in ["FORMAT", "kvstore.lock", "removals.log"] {
            let path = scratch.store + "/a/b/" + name
            #expect(try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int == 0o600)
        }
        #expect(try String(contentsOfFile: scratch.store + "/a/b/FORMAT", encoding: .utf8) == "kvstore-disk 1\n")
    }

    @Test func `of somebody else is refused and left as it is`() throws {
        try makeStore(["thesis.txt": "years of work"])
        expectOpen(.foreignDirectory)
        #expect(try names() == ["thesis.txt"])
    }

    @Test func `with a FORMAT of something else is refused`() throws {
        try makeStore(["FORMAT": "other-store 1\n"])
        expectOpen(.foreignDirectory)
    }

    @Test func `of a later version is refused`() throws {
        try makeStore(["FORMAT": "kvstore-disk 2\n", "new-thing": ""])
        expectOpen(.futureFormat)
        #expect(try names() == ["FORMAT", "kvstore.lock", "new-thing"])
    }

    @Test func `whose making was interrupted is completed`() throws {
        try makeStore(["kvstore.lock": "", "FORMAT.new": "kvst"])
        try scratch.open().write([1])
    }

    @Test func `is held by one store of a process at a time`() throws {
        let log = try scratch.open()
        expectOpen(.locked)
        try log.write([1])
        log.close()
        #expect(try scratch.open().blocks() == [1])
    }

    @Test func `is held by one process at a time`() throws {
        try scratch.open().close()
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        let script = """
            import fcntl, sys
            lock = open(sys.argv[1], 'r+')
            fcntl.flock(lock, fcntl.LOCK_EX)
            print('held', flush=True)
            sys.stdin.read()
            """
        process.arguments = ["python3", "-c", script, scratch.store + "/kvstore.lock"]
        let (input, output) = (Pipe(), Pipe())
        process.standardInput = input
        process.standardOutput = output
        try process.run()
        // Its first byte says that the child has the lock.
        #expect(try output.fileHandleForReading.read(upToCount: 1) == Data("h".utf8))
        expectOpen(.locked)
        try input.fileHandleForWriting.close()
        process.waitUntilExit()
        #expect(try scratch.open().blocks() == [])
    }

    @Test func `is free once it is closed though a child was just forked`() throws {
        let log = try scratch.open()
        try withInheritedDescriptor(of: scratch.store + "/kvstore.lock") {
            log.close()
            try scratch.open().close()
        }
    }

    @Test func `under a file is a configuration mistake`() throws {
        try makeStore(["FORMAT": "x"])
        expectOpen(.invalidArgument, scratch.store + "/FORMAT/below")
        expectOpen(.invalidArgument, scratch.store + "/FORMAT")
        expectOpen(.invalidArgument, "")
    }

    /// Root may do everything, so the child gives its rights up before it tries.
    @Test func `that may not be written is refused with the path and what to do`() async {
        await #expect(processExitsWith: .success) {
            let scratch = DiskScratch()
            try scratch.open().close()
            chmod(scratch.path, 0o755)
            if geteuid() == 0 {
                chmod(scratch.store, 0o755)
                guard setegid(65534) == 0, seteuid(65534) == 0 else { exit(3) }
            } else {
                chmod(scratch.store, 0o000)
            }
            var code: KVStoreError?
            do throws(KVStoreError) { _ = try scratch.open() } catch { code = error }
            var newCode: KVStoreError?
            do throws(KVStoreError) { _ = try SegmentLog(directory: scratch.path + "/new") } catch { newCode = error }
            let isRoot = getuid() == 0
            if isRoot { seteuid(0) } else { chmod(scratch.store, 0o700) }
            guard let code, code.code == .permissionDenied, code.message.contains(scratch.store) else { exit(4) }
            if isRoot, newCode?.code != .permissionDenied { exit(5) }
            exit(0)
        }
    }

    @Test func `loses its leftovers at open and nothing that is not its own`() throws {
        try scratch.open().write(0..<3)
        let leftover = scratch.store + "/incoming/segment-7.sst"
        let foreign = ["notes.txt", "db/notes.txt", "incoming/notes.txt", "db/readme.sst"]
        for path in [leftover] + foreign.map({ scratch.store + "/" + $0 }) {
            try Data("x".utf8).write(to: URL(fileURLWithPath: path))
        }
        let log = try scratch.open()
        #expect(log.recovery.leftoversDeleted == 1)
        #expect(!scratch.exists("incoming/segment-7.sst"))
        #expect(try log.blocks() == [0, 1, 2])
        log.close()
        try scratch.delete(scratch.files(prefix: "CURRENT"))
        let repaired = try scratch.open()
        #expect(repaired.recovery.wasRepaired)
        #expect(try repaired.blocks() == [0, 1, 2])
        for name in foreign { #expect(scratch.exists(name), "\(name)") }
    }

    @Test func `counts a file with two names once`() throws {
        let log = try scratch.open()
        let id = try log.write(0..<4, byteCount: 1 << 20)
        let before = log.allocatedBytes()
        let table = try scratch.table(of: id, in: log)
        try FileManager.default.linkItem(atPath: table, toPath: scratch.store + "/incoming/guard-1.sst")
        #expect(log.allocatedBytes() - before < 64 << 10)
    }
}

@Suite("A full disk") struct FullDiskTests {
    /// A file system of 16 MiB, where mounting is allowed.
    private static func mountSmall(_ path: String) -> Bool {
        mount("tmpfs", path, "tmpfs", 0, "size=16m") == 0
    }

    @Test func `fails a segment and nothing else and heals`() async throws {
        let scratch = DiskScratch()
        guard Self.mountSmall(scratch.path) else {
            print("skipped: this user may not mount a file system to fill up")
            return
        }
        defer { umount2(scratch.path, 2) }
        let log = try scratch.open()
        let first = try log.write(0..<8, byteCount: 512 << 10)
        for _ in 0..<3 {
            let writer = try log.beginSegment()
            let error = #expect(throws: KVStoreError.self) {
                for number in 8..<80 {
                    try writer.append(DiskSample.row(number), DiskSample.record(number, byteCount: 512 << 10))
                }
                _ = try writer.seal()
            }
            #expect(error?.code == .diskFull)
            writer.abandon()
            #expect(scratch.files("incoming").isEmpty)
        }
        #expect(!log.isBroken)
        let second = try log.write(100..<104, byteCount: 512 << 10)
        try log.dropSegment(first)
        try log.forget((0..<8).map { DiskSample.identity($0) })
        #expect(try log.blocks(byteCount: 512 << 10) == Set(100..<104))
        #expect(log.segments().map(\.id) == [second])
        log.close()
        #expect(try scratch.open().recovery == RecoveryReport())
    }

    /// In a child: an assertion in RocksDB would end the process.
    @Test func `of the write-ahead log stops writing at the first error and a reopen heals`() async {
        await #expect(processExitsWith: .success) {
            let scratch = DiskScratch()
            guard mount("tmpfs", scratch.path, "tmpfs", 0, "size=16m") == 0 else {
                print("skipped: this user may not mount a file system to fill up")
                exit(0)
            }
            defer { umount2(scratch.path, 2) }
            let log = try scratch.open()
            try log.write(0..<8)
            let ballast = scratch.path + "/ballast"
            let descriptor = open(ballast, O_CREAT | O_WRONLY, 0o600)
            let chunk = [UInt8](repeating: 1, count: 4096)
            while write(descriptor, chunk, chunk.count) > 0 {}
            close(descriptor)
            var failure: KVStoreError?
            for number in 0..<40_000 where failure == nil {
                do throws(KVStoreError) {
                    try log.putNamespace(
                        NamespaceRow(
                            fingerprint: DiskSample.key(number),
                            tenant: 1,
                            description: [UInt8](repeating: 2, count: 1000)
                        )
                    )
                } catch { failure = error }
            }
            guard failure?.code == .diskFull, log.isBroken else { exit(4) }
            var later: KVStoreError?
            do throws(KVStoreError) { try log.forget([DiskSample.identity(1)]) } catch { later = error }
            guard later != nil, try log.blocks() == Set(0..<8) else { exit(5) }
            log.close()
            unlink(ballast)
            let again = try scratch.open()
            guard try again.blocks() == Set(0..<8), !again.isBroken else { exit(6) }
            try again.write(8..<10)
            guard try again.blocks() == Set(0..<10) else { exit(7) }
            again.close()
            umount2(scratch.path, 2)
            exit(0)
        }
    }
}

@Suite("A killed process") struct KilledProcessTests {
    @Test func `leaves every sealed segment`() async throws {
        let path = NSTemporaryDirectory() + "/kvstore-killed-\(getpid())"
        setenv("KVSTORE_KILLED_PATH", path, 1)
        defer { try? FileManager.default.removeItem(atPath: path) }
        await #expect(processExitsWith: .signal(SIGKILL)) {
            let path = String(cString: getenv("KVSTORE_KILLED_PATH"))
            let log = try SegmentLog(directory: path)
            for segment in 0..<20 { try log.write(segment * 10..<segment * 10 + 10) }
            try log.remove([DiskSample.identity(0)])
            let open = try log.beginSegment()
            try open.append(DiskSample.row(900), DiskSample.record(900))
            kill(getpid(), SIGKILL)
        }
        let log = try SegmentLog(directory: path)
        #expect(log.recovery.leftoversDeleted == 1)
        #expect(try log.blocks() == Set(1..<200))
    }
}
