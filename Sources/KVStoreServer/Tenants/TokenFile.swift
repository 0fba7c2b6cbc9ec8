internal import Glibc

/// The file with a tenant's token: one line, kept from other users.
enum TokenFile {
    /// Shorter ones can be guessed; `openssl rand -hex 32` makes 64 characters.
    static let minimumByteCount = 32
    private static let maximumByteCount = 1024

    static func read(_ path: String) throws(HostFileError) -> Secret {
        let descriptor = try HostFile.open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
        defer { close(descriptor) }
        let status = try FileStatus(descriptor: descriptor, path: path)
        guard status.kind == .regular else { throw HostFileError("token file \(path) is not a file") }
        guard status.isTrustedOwner else {
            throw HostFileError(
                "token file \(path) belongs to uid \(status.ownerID), not to this user (\(geteuid())) or root"
            )
        }
        guard status.permissions & 0o037 == 0 else {
            throw HostFileError(
                "token file \(path) has mode \(status.permissionText), so others can read or change it; run: chmod 0600 \(path)"
            )
        }
        var bytes = try HostFile.readAll(descriptor, path, byteLimit: maximumByteCount)
        while let last = bytes.last, last == UInt8(ascii: "\n") || last == UInt8(ascii: "\r") { bytes.removeLast() }
        guard bytes.count >= minimumByteCount else {
            throw HostFileError(
                "token file \(path) holds \(bytes.count) bytes; write at least \(minimumByteCount), for example: "
                    + "openssl rand -hex 32 > \(path)"
            )
        }
        // Clients read their copy in their own ways, which agree on this.
        let isBlank = { (byte: UInt8) -> Bool in byte <= 0x20 || byte == 0x7F }
        guard !bytes.contains(where: { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") }),
            !isBlank(bytes[0]), !isBlank(bytes[bytes.count - 1])
        else {
            throw HostFileError("token file \(path) must hold one line without blanks at its ends")
        }
        return Secret(bytes)
    }
}
