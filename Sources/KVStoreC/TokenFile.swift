internal import Glibc

/// The token in a file, without blanks and line ends around it. Never waits: only regular files are read.
func readToken(_ path: String) throws(CallError) -> [UInt8] {
    let limit = 1024
    // Safe: Swift lends the string with its NUL.
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
    guard descriptor >= 0 else { throw tokenFileError(path, errno) }
    defer { close(descriptor) }
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0 else { throw tokenFileError(path, errno) }
    guard status.st_mode & S_IFMT == S_IFREG else { throw .invalidArgument("token_file \(path) is no regular file") }
    var bytes = [UInt8](repeating: 0, count: limit * 2)
    // Safe: reads at most as many bytes as the array has.
    let count = unsafe bytes.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress, $0.count) }
    guard count >= 0 else { throw tokenFileError(path, errno) }
    let isBlank = { (byte: UInt8) -> Bool in byte == 32 || (9...13).contains(byte) }
    let token = bytes[..<count].drop(while: isBlank).reversed().drop(while: isBlank)
    guard !token.isEmpty, token.count <= limit else {
        throw .invalidArgument("token_file \(path) must hold 1 to \(limit) bytes")
    }
    return Array(token.reversed())
}

private func tokenFileError(_ path: String, _ error: Int32) -> CallError {
    switch error {
    case ENOENT, ENOTDIR: .invalidArgument("token_file \(path) does not exist")
    case EACCES, EPERM: CallError(KVSTORE_PERMISSION_DENIED, "token_file \(path) may not be read by this user")
    default: CallError(KVSTORE_IO, "token_file \(path) cannot be read (errno \(error))")
    }
}
