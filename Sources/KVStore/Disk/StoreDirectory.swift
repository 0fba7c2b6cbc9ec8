import Glibc
import Synchronization

/// The directory of a disk tier: whose it is, who holds it, and how much it occupies.
///
/// ```
/// FORMAT         "kvstore-disk 1": without it, a directory with anything in it is somebody else's
/// kvstore.lock   held with flock for as long as the directory is open
/// removals.log   see RemovalsLog
/// scrub.cursor   see ScrubCursor; may be missing
/// db/            RocksDB's
/// incoming/      the segment being written; emptied at open
/// salvage/       only while a repair is under way: segment files on their way into a new db/
/// ```
final class StoreDirectory: Sendable {
    static let formatVersion = 1
    /// Found at the root of a fresh file system, which is a fair place for a cache.
    private static let ignoredNames: Set<String> = ["lost+found"]
    /// What an open that was killed in the middle of making a new directory leaves behind.
    private static let unfinishedNames: Set<String> = ["kvstore.lock", "FORMAT.new"]

    let path: String
    private let lockDescriptor: Mutex<Int32>
    /// The process that took the lock.
    private let owner: pid_t

    var databasePath: String { path + "/db" }
    var incomingPath: String { path + "/incoming" }
    var salvagePath: String { path + "/salvage" }
    var removalsPath: String { path + "/removals.log" }

    /// The file of a segment while it is being written.
    func incomingSegmentPath(_ id: UInt32) -> String { incomingPath + "/segment-\(id).sst" }

    /// Takes the directory, making it if there is none. Nothing in a directory of others is touched.
    init(path: String) throws(KVStoreError) {
        let trimmed = path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path
        guard !trimmed.isEmpty else { throw KVStoreError(.invalidArgument, "the disk path is empty; give a directory") }
        try DiskFiles.makeDirectory(trimmed)
        let names = Set(try DiskFiles.list(trimmed) ?? []).subtracting(Self.ignoredNames)
        let isNew = names.isSubset(of: Self.unfinishedNames)
        guard isNew || names.contains("FORMAT") else {
            throw KVStoreError(
                .foreignDirectory,
                "\(trimmed) is not empty and has no FORMAT file of kvstore; choose an empty directory"
            )
        }
        let descriptor = try Self.lock(trimmed)
        do throws(KVStoreError) {
            try Self.checkFormat(trimmed)
            for name in ["db", "incoming"] { try DiskFiles.makeDirectory(trimmed + "/" + name) }
        } catch {
            close(descriptor)
            throw error
        }
        self.path = trimmed
        lockDescriptor = Mutex(descriptor)
        owner = getpid()
    }

    deinit { release() }

    /// Whether files here can be read around the page cache.
    var allowsDirectReads: Bool { DiskFiles.canOpenDirectly(path + "/FORMAT") }

    /// Lets others take the directory. Idempotent.
    func release() {
        lockDescriptor.withLock { descriptor in
            guard descriptor >= 0 else { return }
            // Closing alone gives the lock back only once every copy is closed, and a child that this process forks has
            // one until it execs. The child itself must not take its parent's lock away.
            if getpid() == owner { _ = flock(descriptor, LOCK_UN) }
            close(descriptor)
            descriptor = -1
        }
    }

    /// Bytes that the directory occupies on its file system, everything in it included; a file with several names
    /// counts once.
    func allocatedBytes() -> Int64 {
        var seen: Set<DiskFiles.Inode> = []
        var total: Int64 = 0
        var pending = [path]
        while let next = pending.popLast() {
            // Files come and go while we look; what is gone occupies nothing.
            guard let status = DiskFiles.status(next, followingLinks: false), seen.insert(status.inode).inserted else {
                continue
            }
            total += status.allocatedByteCount
            if status.isDirectory, let names = try? DiskFiles.list(next) { pending += names.map { next + "/" + $0 } }
        }
        return total
    }

    private static func lock(_ path: String) throws(KVStoreError) -> Int32 {
        let lockPath = path + "/kvstore.lock"
        let descriptor = try DiskFiles.open(lockPath, O_RDWR | O_CREAT)
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            let number = errno
            if number == EINTR { continue }
            close(descriptor)
            guard number == EWOULDBLOCK else { throw DiskFiles.error(number, "lock", lockPath) }
            throw KVStoreError(
                .locked,
                "\(path) is in use by another store; close that one, or choose another disk path"
            )
        }
        return descriptor
    }

    /// Reads FORMAT, or writes it in a directory that is still without. The lock is held.
    private static func checkFormat(_ path: String) throws(KVStoreError) {
        let formatPath = path + "/FORMAT"
        guard DiskFiles.status(formatPath) != nil else {
            return try DiskFiles.replace(formatPath, with: Array("kvstore-disk \(formatVersion)\n".utf8))
        }
        let descriptor = try DiskFiles.open(formatPath, O_RDONLY)
        defer { close(descriptor) }
        let text = String(decoding: try DiskFiles.read(descriptor, formatPath).prefix(64), as: UTF8.self)
        let words = text.split(whereSeparator: \.isWhitespace)
        guard words.count == 2, words[0] == "kvstore-disk", let version = Int(words[1]), version > 0 else {
            throw KVStoreError(
                .foreignDirectory,
                "\(formatPath) is not a FORMAT file of kvstore; choose another directory"
            )
        }
        guard version <= formatVersion else {
            throw KVStoreError(
                .futureFormat,
                "\(path) has disk format \(version), this version reads up to \(formatVersion); upgrade or move it"
            )
        }
    }
}
