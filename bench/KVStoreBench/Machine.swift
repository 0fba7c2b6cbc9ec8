import ArgumentParser
import Foundation
import KVStore

/// A measurement could not be made; says why and what to do.
struct BenchError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }

    /// With the text of the last failed system call.
    static func system(_ action: String) -> BenchError {
        BenchError("cannot \(action): \(String(cString: strerror(errno)))")
    }
}

/// Where a subcommand writes.
struct DiskPlace: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Where to make the directory that is written; must be on a disk.",
            discussion: "A directory in memory (tmpfs) is refused: it would measure memcpy.",
            valueName: "DIR"
        )
    )
    var path = "."
}

/// A directory of our own on a disk, removed at the end, also after Ctrl-C.
final class ScratchDirectory {
    let path: String

    /// - Parameter neededBytes: refused when the file system has less room.
    init(in place: DiskPlace, neededBytes: Int) throws {
        guard !["tmpfs", "ramfs"].contains(try Self.fileSystemType(of: place.path)) else {
            throw ValidationError(
                "'\(place.path)' is in memory (tmpfs), so this would measure memcpy; give --path DIR on a disk"
            )
        }
        var system = statvfs()
        guard statvfs(place.path, &system) == 0 else { throw BenchError.system("use '\(place.path)'") }
        let free = Int(system.f_bavail) * Int(system.f_frsize)
        guard free > neededBytes else {
            throw ValidationError(
                "'\(place.path)' has \(ByteCount(free)) free and this run needs \(ByteCount(neededBytes)); "
                    + "give another --path or smaller sizes"
            )
        }
        var template = Array("\(place.path)/kvstore-bench-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw BenchError.system("make a directory in '\(place.path)'") }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        Self.removeOnInterrupt(path)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// From the line of /proc/self/mountinfo that names the device: `36 35 98:0 / /mnt rw - ext4 /dev/sda1 rw`.
    private static func fileSystemType(of path: String) throws -> String {
        var status = stat()
        guard stat(path, &status) == 0 else { throw BenchError.system("use '\(path)'") }
        let number = UInt64(status.st_dev)
        // The bits of the two numbers are interleaved; see gnu_dev_major(3).
        let major = number >> 8 & 0xFFF | number >> 32 & ~0xFFF
        let device = "\(major):\(number & 0xFF | number >> 12 & 0xFFFF_FF00)"
        for line in try String(contentsOfFile: "/proc/self/mountinfo", encoding: .utf8).split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count > 2, words[2] == device, let dash = words.firstIndex(of: "-") else { continue }
            return String(words[dash + 1])
        }
        return "unknown"
    }

    func remove(_ name: String) { try? FileManager.default.removeItem(atPath: "\(path)/\(name)") }

    /// Kept alive; only the main thread adds to it.
    nonisolated(unsafe) private static var interrupts: [any DispatchSourceSignal] = []

    private static func removeOnInterrupt(_ path: String) {
        for number in [SIGINT, SIGTERM] {
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler {
                try? FileManager.default.removeItem(atPath: path)
                _exit(128 + number)
            }
            source.resume()
            interrupts.append(source)
        }
    }
}

extension BlockStore {
    /// Waits until the disk tier can be used; a measurement without it would be of something else.
    func requireDisk() throws {
        guard waitUntilWarm() else { throw BenchError(statistics.diskProblem ?? "the disk tier did not open") }
    }
}

/// The kernel's cache of file contents.
enum PageCache {
    /// Writes a directory's files out and makes the kernel forget their contents. Returns the bytes that it kept.
    @discardableResult
    static func drop(filesIn directory: String) -> Int {
        let files = regularFiles(in: directory)
        for file in files {
            let descriptor = open(file.path, O_RDONLY | O_CLOEXEC)
            guard descriptor >= 0 else { continue }
            defer { close(descriptor) }
            fdatasync(descriptor)
            posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
        }
        return files.reduce(0) { $0 + cachedBytes($1.path, byteCount: $1.byteCount) }
    }

    static func regularFiles(in directory: String) -> [(path: String, byteCount: Int)] {
        guard let names = FileManager.default.enumerator(atPath: directory) else { return [] }
        return names.compactMap { name in
            var status = stat()
            let path = "\(directory)/\(name)"
            guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_size > 0 else { return nil }
            return (path, Int(status.st_size))
        }
    }

    private static func cachedBytes(_ path: String, byteCount: Int) -> Int {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return 0 }
        defer { close(descriptor) }
        guard let memory = mmap(nil, byteCount, PROT_READ, MAP_SHARED, descriptor, 0), memory != MAP_FAILED else {
            return 0
        }
        defer { munmap(memory, byteCount) }
        let pageSize = sysconf(Int32(_SC_PAGESIZE))
        var pages = [UInt8](repeating: 0, count: (byteCount + pageSize - 1) / pageSize)
        guard mincore(memory, byteCount, &pages) == 0 else { return 0 }
        return pages.count { $0 & 1 == 1 } * pageSize
    }
}

/// What this process used.
enum Usage {
    /// Nanoseconds of processor time of all threads, the kernel's included.
    static var processorNanoseconds: Double {
        var usage = rusage()
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        func nanoseconds(_ time: timeval) -> Double { Double(time.tv_sec) * 1e9 + Double(time.tv_usec) * 1e3 }
        return nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime)
    }

    /// Memory that is in use now, shared memory included: VmRSS of /proc/self/status.
    static var residentBytes: Int {
        let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("VmRSS:") }
        return (line?.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0) << 10
    }
}

/// Several threads that run the same closure; returns when the last has ended.
func runThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
    let group = DispatchGroup()
    for number in 0..<count {
        group.enter()
        let thread = Thread {
            body(number)
            group.leave()
        }
        thread.start()
    }
    group.wait()
}
