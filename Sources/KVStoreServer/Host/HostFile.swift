// Files of the daemon that are not the store's: configuration, tokens, salts. Paths are handed to C as strings that live
// for the length of the call; other uses of `unsafe` state their reason.
internal import Glibc

/// A file or directory is not as it must be; the message says what to do.
package struct HostFileError: Error, Hashable, CustomStringConvertible {
    /// One sentence with the path.
    package var description: String
    package init(_ description: String) { self.description = description }

    init(_ number: Int32, _ action: String, _ path: String) {
        description = "cannot \(action) \(path): \(errorText(number))"
    }
}

/// What the system says about an errno.
func errorText(_ number: Int32) -> String {
    // strerror's text is copied at once. (It is per thread in glibc.)
    unsafe String(cString: strerror(number))
}

/// What `fstat` and `lstat` tell.
struct FileStatus: Hashable {
    enum Kind { case regular, directory, symbolicLink, socket, other }
    var kind: Kind
    var ownerID: UInt32
    var groupID: UInt32
    var permissions: Int
    var byteCount: Int
    var device: UInt64
    var inode: UInt64

    /// Of what the path itself names, a symbolic link being a symbolic link. Nil when there is nothing.
    init?(path: String) throws(HostFileError) {
        var status = stat()
        // lstat fills the structure that is passed.
        guard unsafe lstat(path, &status) == 0 else {
            if errno == ENOENT { return nil }
            throw HostFileError(errno, "look at", path)
        }
        self.init(status)
    }

    init(descriptor: Int32, path: String) throws(HostFileError) {
        var status = stat()
        // fstat fills the structure that is passed.
        guard unsafe fstat(descriptor, &status) == 0 else { throw HostFileError(errno, "look at", path) }
        self.init(status)
    }

    private init(_ status: stat) {
        kind =
            switch status.st_mode & S_IFMT {
            case S_IFREG: .regular
            case S_IFDIR: .directory
            case S_IFLNK: .symbolicLink
            case S_IFSOCK: .socket
            default: .other
            }
        ownerID = status.st_uid
        groupID = status.st_gid
        permissions = Int(status.st_mode & 0o7777)
        byteCount = Int(status.st_size)
        device = UInt64(status.st_dev)
        inode = UInt64(status.st_ino)
    }

    /// `0660`.
    var permissionText: String { "0" + String(permissions, radix: 8) }

    /// Whether the daemon may trust what is there: its own, or root's.
    var isTrustedOwner: Bool { ownerID == geteuid() || ownerID == 0 }
}

enum HostFile {
    /// The whole file as UTF-8.
    static func readText(_ path: String, byteLimit: Int) throws(HostFileError) -> String {
        let descriptor = try open(path, O_RDONLY)
        defer { close(descriptor) }
        let bytes = try readAll(descriptor, path, byteLimit: byteLimit)
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw HostFileError("\(path) is not UTF-8 text")
        }
        return text
    }

    static func open(_ path: String, _ flags: Int32, permissions: mode_t = 0o600) throws(HostFileError) -> Int32 {
        while true {
            let descriptor = unsafe Glibc.open(path, flags | O_CLOEXEC, permissions)
            if descriptor >= 0 { return descriptor }
            if errno == EINTR { continue }
            if errno == ELOOP, flags & O_NOFOLLOW != 0 {
                throw HostFileError("\(path) is a symbolic link; put the file itself there")
            }
            throw HostFileError(errno, "open", path)
        }
    }

    static func readAll(_ descriptor: Int32, _ path: String, byteLimit: Int) throws(HostFileError) -> [UInt8] {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            // The kernel writes at most the chunk's size into it.
            let count = unsafe chunk.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress!, $0.count) }
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw HostFileError(errno, "read", path) }
            if count == 0 { return bytes }
            bytes += chunk[..<count]
            guard bytes.count <= byteLimit else { throw HostFileError("\(path) is larger than \(byteLimit) bytes") }
        }
    }

    static func writeAll(_ descriptor: Int32, _ path: String, _ bytes: [UInt8]) throws(HostFileError) {
        var done = 0
        while done < bytes.count {
            // In bounds: `done` is below the count, and no more than the rest is written.
            let count = unsafe bytes.withUnsafeBytes {
                unsafe write(descriptor, $0.baseAddress! + done, $0.count - done)
            }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw HostFileError(errno, "write", path) }
            done += count
        }
    }

    /// A directory that only this user reads, made if missing. One that others could change is refused.
    static func makePrivateDirectory(_ path: String) throws(HostFileError) {
        if unsafe mkdir(path, 0o700) != 0 {
            let number = errno
            if number == ENOENT, let slash = path.lastIndex(of: "/"), slash != path.startIndex {
                try makePrivateDirectory(String(path[..<slash]))
                guard unsafe mkdir(path, 0o700) == 0 || errno == EEXIST else {
                    throw HostFileError(errno, "make", path)
                }
            } else if number != EEXIST {
                throw HostFileError(number, "make", path)
            }
        }
    }

    /// Refuses a directory in which others could put or exchange files, or read what is ours.
    static func checkDirectory(_ path: String, deniedPermissions: Int) throws(HostFileError) {
        guard let status = try FileStatus(path: path) else { throw HostFileError("there is no directory \(path)") }
        switch status.kind {
        case .directory: break
        case .symbolicLink: throw HostFileError("\(path) is a symbolic link; name the directory itself")
        default: throw HostFileError("\(path) is not a directory")
        }
        guard status.isTrustedOwner else {
            throw HostFileError("\(path) belongs to uid \(status.ownerID), not to this user (\(geteuid())) or root")
        }
        guard status.permissions & deniedPermissions == 0 else {
            let wanted = "0" + String(status.permissions & 0o777 & ~deniedPermissions, radix: 8)
            throw HostFileError(
                "\(path) has mode \(status.permissionText), so other users could reach into it; run: chmod \(wanted) \(path)"
            )
        }
    }
}
