import Glibc

/// The system calls of the disk tier: each retries on EINTR and turns errno into a `KVStoreError`.
/// Paths are handed to C as strings that live for the length of the call; other uses of `unsafe` state their reason.
enum DiskFiles {
    static func error(_ number: Int32, _ action: String, _ path: String) -> KVStoreError {
        let reason = unsafe String(cString: strerror(number))
        switch number {
        case EACCES, EPERM, EROFS:
            return KVStoreError(
                .permissionDenied,
                "cannot \(action) \(path): \(reason); give this user read and write access, or choose another disk path"
            )
        case ENOSPC, EDQUOT:
            return KVStoreError(.diskFull, "cannot \(action) \(path): \(reason); free space or lower the disk capacity")
        case ENOTDIR, ENAMETOOLONG, ELOOP:
            return KVStoreError(.invalidArgument, "cannot \(action) \(path): \(reason); choose another disk path")
        default:
            return KVStoreError(.io, "cannot \(action) \(path): \(reason)")
        }
    }

    /// Whether a file can be opened for reads around the page cache; tmpfs and some network file systems refuse.
    static func canOpenDirectly(_ path: String) -> Bool {
        let descriptor = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC | openDirect)
        guard descriptor >= 0 else { return false }
        close(descriptor)
        return true
    }

    /// `O_DIRECT`, which Glibc's module leaves out.
    #if arch(arm64)
        private static let openDirect: Int32 = 0o200000
    #else
        private static let openDirect: Int32 = 0o40000
    #endif

    /// Makes a file for writes around the page cache, or through it where the file system has no others.
    static func createForDirectWrites(_ path: String) throws(KVStoreError) -> Int32 {
        let flags = O_WRONLY | O_CREAT | O_TRUNC
        let descriptor = unsafe Glibc.open(path, flags | O_CLOEXEC | openDirect, 0o600)
        return descriptor >= 0 ? descriptor : try open(path, flags)
    }

    /// From here on writes go through the page cache. False when they did already.
    @discardableResult
    static func endDirectWrites(_ descriptor: Int32) -> Bool {
        let flags = fcntl(descriptor, F_GETFL)
        guard flags >= 0, flags & openDirect != 0 else { return false }
        return fcntl(descriptor, F_SETFL, flags & ~openDirect) == 0
    }

    /// Opens a file for reads around the page cache, or through it.
    static func openForReads(_ path: String, direct: Bool) throws(KVStoreError) -> Int32 {
        try open(path, O_RDONLY | (direct ? openDirect : 0))
    }

    /// Reads until `bytes` are full or the file ends; direct reads want all three on page boundaries.
    ///
    /// - Returns: The bytes read; nil after an error.
    static func read(_ descriptor: Int32, into bytes: UnsafeMutableRawBufferPointer, at offset: Int) -> Int? {
        var done = 0
        while done < bytes.count {
            // In range: `done` is below the count.
            let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[done...])
            let count = unsafe pread(descriptor, rest.baseAddress, rest.count, off_t(offset + done))
            if count == 0 { break }
            if count > 0 {
                done += count
                // Only the end of the file cuts a read within a page.
                if count % pageByteCount != 0 { break }
            } else if errno != EINTR {
                return nil
            }
        }
        return done
    }

    /// The entries of a directory except `.` and `..`, or nil when there is no such directory.
    static func list(_ path: String) throws(KVStoreError) -> [String]? {
        // The stream and its entries are only touched between opendir and closedir.
        guard let stream = unsafe opendir(path) else {
            if errno == ENOENT { return nil }
            throw error(errno, "read", path)
        }
        defer { unsafe _ = closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
                unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Makes the directory and its missing parents, readable by this user only.
    static func makeDirectory(_ path: String) throws(KVStoreError) {
        guard unsafe mkdir(path, 0o700) != 0 else { return }
        let number = errno
        if number == EEXIST {
            guard status(path)?.isDirectory == true else { throw error(ENOTDIR, "use", path) }
            return
        }
        guard number == ENOENT, let slash = path.lastIndex(of: "/"), slash != path.startIndex else {
            throw error(number, "create", path)
        }
        try makeDirectory(String(path[..<slash]))
        guard unsafe mkdir(path, 0o700) == 0 || errno == EEXIST else { throw error(errno, "create", path) }
    }

    struct Status {
        var inode: Inode
        var isDirectory: Bool
        var allocatedByteCount: Int64
    }

    struct Inode: Hashable {
        var device: UInt64
        var number: UInt64
    }

    /// nil when there is nothing, or nothing that may be looked at.
    static func status(_ path: String, followingLinks: Bool = true) -> Status? {
        var info = stat()
        // `info` is a local that the call fills in.
        let result = unsafe followingLinks ? stat(path, &info) : lstat(path, &info)
        guard result == 0 else { return nil }
        return Status(
            inode: Inode(device: UInt64(info.st_dev), number: UInt64(info.st_ino)),
            isDirectory: info.st_mode & S_IFMT == S_IFDIR,
            allocatedByteCount: Int64(info.st_blocks) * 512
        )
    }

    static func remove(_ path: String) throws(KVStoreError) {
        guard unsafe unlink(path) == 0 || errno == ENOENT else { throw error(errno, "delete", path) }
    }

    static func removeEmptyDirectory(_ path: String) { unsafe _ = rmdir(path) }

    static func rename(_ path: String, to newPath: String) throws(KVStoreError) {
        guard unsafe Glibc.rename(path, newPath) == 0 else { throw error(errno, "rename", path) }
    }

    /// Makes a second name for a file. False on a file system without hard links.
    static func link(_ path: String, to newPath: String) throws(KVStoreError) -> Bool {
        guard unsafe Glibc.link(path, newPath) != 0 else { return true }
        switch errno {
        case EPERM, EOPNOTSUPP, EMLINK, EXDEV: return false
        default: throw error(errno, "link", path)
        }
    }

    static func open(_ path: String, _ flags: Int32) throws(KVStoreError) -> Int32 {
        while true {
            let descriptor = unsafe Glibc.open(path, flags | O_CLOEXEC, 0o600)
            if descriptor >= 0 { return descriptor }
            if errno != EINTR { throw error(errno, "open", path) }
        }
    }

    /// The whole content of a small file.
    static func read(_ descriptor: Int32, _ path: String) throws(KVStoreError) -> [UInt8] {
        var result: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            // The call writes at most `chunk.count` bytes.
            let count = unsafe pread(descriptor, &chunk, chunk.count, off_t(result.count))
            if count == 0 { return result }
            if count > 0 {
                result.append(contentsOf: chunk[..<count])
            } else if errno != EINTR {
                throw error(errno, "read", path)
            }
        }
    }

    static func write(_ bytes: [UInt8], to descriptor: Int32, at offset: Int, _ path: String) throws(KVStoreError) {
        // `write` throws KVStoreError only; closures of withUnsafeBytes lose the type, hence the detour.
        let outcome = unsafe bytes.withUnsafeBytes { buffer in
            Result { () throws(KVStoreError) in try unsafe write(buffer, to: descriptor, at: offset, path) }
        }
        try outcome.get()
    }

    /// Writes all bytes. Where a direct write is refused for its place or length (a disk with large sectors, the rest of
    /// a write that was cut short), it and all that follow go through the page cache.
    static func write(
        _ bytes: UnsafeRawBufferPointer,
        to descriptor: Int32,
        at offset: Int,
        _ path: String
    ) throws(KVStoreError) {
        var written = 0
        while written < bytes.count {
            // In range: `written` is below the count.
            let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[written...])
            let count = unsafe pwrite(descriptor, rest.baseAddress, rest.count, off_t(offset + written))
            if count >= 0 {
                written += count
            } else if errno == EINVAL, endDirectWrites(descriptor) {
                continue
            } else if errno != EINTR {
                throw error(errno, "write", path)
            }
        }
    }

    static func synchronize(_ descriptor: Int32, _ path: String) throws(KVStoreError) {
        while fdatasync(descriptor) != 0 {
            if errno != EINTR { throw error(errno, "synchronise", path) }
        }
    }

    /// Makes `path` hold exactly `bytes`, or what it held before, whenever the process or the machine stops.
    static func replace(_ path: String, with bytes: [UInt8]) throws(KVStoreError) {
        let newPath = path + ".new"
        let descriptor = try open(newPath, O_WRONLY | O_CREAT | O_TRUNC)
        defer { Glibc.close(descriptor) }
        do throws(KVStoreError) {
            try write(bytes, to: descriptor, at: 0, newPath)
            try synchronize(descriptor, newPath)
            try rename(newPath, to: path)
        } catch {
            unsafe _ = unlink(newPath)
            throw error
        }
    }
}
