internal import Glibc
internal import Synchronization

/// A bound, listening Unix socket, and the right to its path.
///
/// A path is taken in this order, so that no live daemon ever loses its socket and nobody can put his own in its place:
/// the directory is checked (ours or root's, no link, not writable by others), `PATH.lock` is locked, what is at the
/// path is probed by connecting, a new socket is bound beside it with its final mode and group, listens, and is renamed
/// over the dead one. The lock is held for the life of the listener; the lock file stays, because deleting a lock file
/// lets two processes hold "the" lock.
package final class SocketListener: Sendable {
    /// Where clients connect.
    package let path: String
    /// The listening socket. It belongs to whoever takes it (`takeDescriptor`), else to the listener.
    private let descriptor: Mutex<Int32>
    private let lockDescriptor: Int32
    /// Device and inode of our socket; nil when systemd made it, and then its path is systemd's business.
    private let identity: Identity?

    private struct Identity: Hashable {
        var device: UInt64
        var inode: UInt64
        init(_ status: FileStatus) {
            device = status.device
            inode = status.inode
        }
    }

    private static let backlog: Int32 = 1024

    /// Takes a path.
    ///
    /// - Throws: a sentence that says who holds the path or what is wrong with it, and what to do.
    package convenience init(path: String, mode: Int, group: String? = nil) throws(HostFileError) {
        // sun_path has 108 bytes with its zero; the draft's name below must fit as well.
        guard path.utf8.count <= 100 else {
            throw HostFileError("the socket path \(path) has \(path.utf8.count) bytes; at most 100 fit")
        }
        let slash = path.lastIndex(of: "/") ?? path.startIndex
        let directory = slash == path.startIndex ? "/" : String(path[..<slash])
        try Self.prepare(directory)
        let lock = try Self.lock(path + ".lock", path: path)
        do throws(HostFileError) {
            try Self.checkFree(path)
            let (descriptor, identity) = try Self.bind(path, directory: directory, mode: mode, group: group)
            self.init(path: path, descriptor: descriptor, lock: lock, identity: identity)
        } catch {
            Glibc.close(lock)
            throw error
        }
    }

    private init(path: String, descriptor: Int32, lock: Int32, identity: Identity?) {
        self.path = path
        self.descriptor = Mutex(descriptor)
        lockDescriptor = lock
        self.identity = identity
    }

    deinit { close() }

    /// The socket that systemd passed, if it did (sd_listen_fds(3)).
    package static func activated(environment: [String: String]) throws(HostFileError) -> SocketListener? {
        guard let pid = environment["LISTEN_PID"], Int32(pid) == getpid(),
            let count = environment["LISTEN_FDS"].flatMap({ Int($0) }), count > 0
        else { return nil }
        // What our children inherit must not say that these are theirs. Names are C strings that live for the call.
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { unsafe _ = unsetenv(name) }
        guard count == 1 else {
            throw HostFileError("systemd passed \(count) sockets; kvstore.socket must have exactly one ListenStream=")
        }
        let first: Int32 = 3  // SD_LISTEN_FDS_START
        var (domain, type, accepts): (Int32, Int32, Int32) = (0, 0, 0)
        for (option, isExpected) in [
            (SO_DOMAIN, { domain == AF_UNIX }),
            (SO_TYPE, { type == Int32(SOCK_STREAM.rawValue) }),
            (SO_ACCEPTCONN, { accepts != 0 }),
        ] {
            var value: Int32 = 0
            var length = socklen_t(MemoryLayout<Int32>.size)
            // The kernel fills one integer of the size that is passed.
            let status = unsafe getsockopt(first, SOL_SOCKET, option, &value, &length)
            if option == SO_DOMAIN { domain = value }
            if option == SO_TYPE { type = value }
            if option == SO_ACCEPTCONN { accepts = value }
            guard status == 0, isExpected() else {
                throw HostFileError(
                    "systemd passed something else than a listening Unix stream socket; check kvstore.socket")
            }
        }
        _ = fcntl(first, F_SETFD, FD_CLOEXEC)
        _ = fcntl(first, F_SETFL, fcntl(first, F_GETFL) | O_NONBLOCK)
        return SocketListener(path: "systemd's socket", descriptor: first, lock: -1, identity: nil)
    }

    /// Hands the socket over; from now on the caller closes it.
    package func takeDescriptor() -> Int32 {
        descriptor.withLock { descriptor in
            precondition(descriptor >= 0, "the listening socket was taken twice")
            defer { descriptor = -1 }
            return descriptor
        }
    }

    /// Removes the socket, if it is still ours, and gives the path free. The last reference going away does the same.
    package func close() {
        descriptor.withLock { descriptor in
            if descriptor >= 0 { Glibc.close(descriptor) }
            descriptor = -2
        }
        guard lockDescriptor >= 0, isClosing.exchange(true, ordering: .relaxed) == false else { return }
        if let identity, let status = try? FileStatus(path: path), Identity(status) == identity {
            // A C string that lives for the call.
            unsafe _ = unlink(path)
        }
        // Closing alone gives the path free only once every copy is closed, and a child that is being started has one.
        _ = flock(lockDescriptor, LOCK_UN)
        Glibc.close(lockDescriptor)
    }

    private let isClosing = Atomic<Bool>(false)

    // MARK: Steps

    private static func prepare(_ directory: String) throws(HostFileError) {
        // Paths are C strings that live for the call.
        if unsafe mkdir(directory, 0o750) == 0 {
            // Whatever the umask was: the group must be able to reach the socket.
            unsafe _ = chmod(directory, 0o750)
        } else if errno != EEXIST {
            throw HostFileError(errno, "make the socket's directory", directory)
        }
        try HostFile.checkDirectory(directory, deniedPermissions: 0o022)
    }

    private static func lock(_ lockPath: String, path: String) throws(HostFileError) -> Int32 {
        let descriptor = try HostFile.open(lockPath, O_RDWR | O_CREAT | O_NOFOLLOW, permissions: 0o600)
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            let number = errno
            if number == EINTR { continue }
            Glibc.close(descriptor)
            guard number == EWOULDBLOCK else { throw HostFileError(number, "lock", lockPath) }
            throw HostFileError("a daemon already holds \(path); stop it, or choose another socket path")
        }
        return descriptor
    }

    /// Throws unless there is nothing at the path, or a socket of ours that nobody listens on.
    private static func checkFree(_ path: String) throws(HostFileError) {
        guard let status = try FileStatus(path: path) else { return }
        switch status.kind {
        case .socket: break
        case .symbolicLink: throw HostFileError("\(path) is a symbolic link; remove it, or choose another socket path")
        default: throw HostFileError("\(path) is not a socket; remove it, or choose another socket path")
        }
        guard status.isTrustedOwner else {
            throw HostFileError(
                "\(path) is a socket of uid \(status.ownerID), not of this user (\(geteuid())); find out who made it and remove it"
            )
        }
        let probe = try LinuxCalls.makeUnixSocket()
        defer { Glibc.close(probe) }
        switch LinuxCalls.connect(probe, to: path) {
        case ECONNREFUSED, ENOENT: return
        // A full backlog means that somebody listens.
        case 0, EAGAIN, EINPROGRESS:
            throw HostFileError("a live process listens on \(path); stop it, or choose another socket path")
        case let number:
            throw HostFileError(
                "\(path) cannot be probed: \(errorText(number)); remove it, or choose another socket path")
        }
    }

    private static func bind(
        _ path: String,
        directory: String,
        mode: Int,
        group: String?
    ) throws(HostFileError) -> (Int32, Identity) {
        var groupID: UInt32?
        if let group {
            groupID = UserDatabase.groupID(named: group)
            if groupID == nil { throw HostFileError("socketGroup: there is no group '\(group)'") }
        }
        let draft = "\(directory == "/" ? "" : directory)/.\(getpid()).s"
        let descriptor = try LinuxCalls.makeUnixSocket()
        // Paths are C strings that live for the call.
        unsafe _ = unlink(draft)
        do throws(HostFileError) {
            let status = LinuxCalls.bind(descriptor, to: draft)
            guard status == 0 else { throw HostFileError(status, "bind a socket in", directory) }
            // Nobody knows the draft's name yet, and nobody is accepted before its mode is right.
            guard unsafe chmod(draft, 0o600) == 0 else { throw HostFileError(errno, "set the mode of", draft) }
            if let groupID, unsafe chown(draft, UInt32.max, groupID) != 0 {
                throw HostFileError(errno, "give to the group \(group ?? "")", draft)
            }
            guard unsafe chmod(draft, mode_t(mode)) == 0 else { throw HostFileError(errno, "set the mode of", draft) }
            guard listen(descriptor, backlog) == 0 else { throw HostFileError(errno, "listen on", draft) }
            guard let made = try FileStatus(path: draft) else {
                throw HostFileError("\(draft) is gone right after it was made")
            }
            guard unsafe rename(draft, path) == 0 else { throw HostFileError(errno, "put the socket at", path) }
            return (descriptor, Identity(made))
        } catch {
            unsafe _ = unlink(draft)
            Glibc.close(descriptor)
            throw error
        }
    }
}
