internal import Glibc

/// The tenants' salts: 32 random bytes each, made once, in `salts/NAME` of the state directory.
///
/// Whoever knows a tenant's salt can make its keys and so find out what is cached; whoever exchanges it makes everything
/// stored under it unreachable. So the directory is 0700, files are 0600, and a file that is not as it was written is an
/// error and never silently made anew.
package struct SaltStore: Sendable {
    /// Bytes of a salt.
    package static let byteCount = 32
    private let directory: String

    /// Takes the directory, making it if there is none.
    package init(stateDirectory: String) throws(HostFileError) {
        directory = stateDirectory + "/salts"
        try HostFile.makePrivateDirectory(stateDirectory)
        try HostFile.checkDirectory(stateDirectory, deniedPermissions: 0o022)
        try HostFile.makePrivateDirectory(directory)
        try HostFile.checkDirectory(directory, deniedPermissions: 0o077)
    }

    /// The salt of a tenant, made and written durably if it has none yet.
    package func salt(ofTenant name: String) throws(HostFileError) -> Secret {
        let path = "\(directory)/\(name)"
        if let salt = try read(path) { return salt }
        try make(path)
        guard let salt = try read(path) else { throw HostFileError("\(path) is gone right after it was made") }
        return salt
    }

    private func read(_ path: String) throws(HostFileError) -> Secret? {
        guard try FileStatus(path: path) != nil else { return nil }
        let descriptor = try HostFile.open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
        defer { close(descriptor) }
        let status = try FileStatus(descriptor: descriptor, path: path)
        guard status.kind == .regular, status.isTrustedOwner else {
            throw HostFileError("\(path) is not a file of this user (\(geteuid())); who put it there?")
        }
        guard status.permissions & 0o077 == 0 else {
            throw HostFileError(
                "\(path) has mode \(status.permissionText): others may have read this tenant's salt; run chmod 0600, or delete "
                    + "the file for a new salt (what the tenant has stored is lost then)"
            )
        }
        let bytes = try HostFile.readAll(descriptor, path, byteLimit: 4096)
        guard bytes.count == Self.byteCount else {
            throw HostFileError(
                "\(path) holds \(bytes.count) bytes instead of \(Self.byteCount); restore it, or delete it for a new salt "
                    + "(what the tenant has stored is lost then)"
            )
        }
        return Secret(bytes)
    }

    /// Whole or not at all: written beside, made durable, then linked to its name, which fails if somebody was faster.
    private func make(_ path: String) throws(HostFileError) {
        var random = SystemRandomNumberGenerator()
        let bytes = (0..<Self.byteCount).map { _ in UInt8.random(in: 0...255, using: &random) }
        let draft = "\(directory)/.new-\(getpid())-\(UInt32.random(in: 0...UInt32.max, using: &random))"
        let descriptor = try HostFile.open(draft, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, permissions: 0o600)
        // Paths are C strings that live for the call.
        defer {
            unsafe _ = unlink(draft)
            close(descriptor)
        }
        try HostFile.writeAll(descriptor, draft, bytes)
        guard fsync(descriptor) == 0 else { throw HostFileError(errno, "make durable", draft) }
        guard unsafe link(draft, path) == 0 || errno == EEXIST else { throw HostFileError(errno, "make", path) }
        let parent = try HostFile.open(directory, O_RDONLY)
        defer { close(parent) }
        guard fsync(parent) == 0 else { throw HostFileError(errno, "make durable", directory) }
    }
}
