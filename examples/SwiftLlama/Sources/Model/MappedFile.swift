internal import Glibc

/// A file's bytes, mapped: they are read when they are used. The file must not be shortened meanwhile.
///
/// @unchecked Sendable: the mapping is read-only and lives as long as the object.
@safe final class MappedFile: @unchecked Sendable {
    /// Bytes of the file.
    let byteCount: Int
    // Mapped from init to deinit.
    private let memory: UnsafeRawBufferPointer

    /// Maps `path`.
    init(_ path: String) throws(ModelError) {
        // Safe: the path is a string of ours, ended by a zero.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw ModelError("\(path): \(Self.reason)") }
        defer { close(descriptor) }
        var status = stat()
        // Safe: fstat fills the struct it is given.
        guard unsafe fstat(descriptor, &status) == 0, status.st_size > 0 else {
            throw ModelError("\(path): empty, or not a file")
        }
        byteCount = Int(status.st_size)
        // Safe: the result is checked, and unmapped in deinit.
        let address = unsafe mmap(nil, byteCount, PROT_READ, MAP_PRIVATE, descriptor, 0)
        guard let address = unsafe address, unsafe address != MAP_FAILED else {
            throw ModelError("\(path): \(Self.reason)")
        }
        unsafe memory = UnsafeRawBufferPointer(start: address, count: byteCount)
    }

    deinit { unsafe munmap(UnsafeMutableRawPointer(mutating: memory.baseAddress), memory.count) }

    /// Lends `range` of the bytes.
    func withBytes<Result>(_ range: Range<Int>, _ body: (RawSpan) throws -> Result) rethrows -> Result {
        precondition(range.lowerBound >= 0 && range.upperBound <= byteCount, "outside the file")
        // Safe: the range was checked, and the span cannot leave the closure.
        return try body(unsafe UnsafeRawBufferPointer(rebasing: memory[range]).bytes)
    }

    // Safe: strerror gives a string that lives until the next call of this thread.
    private static var reason: String { unsafe String(cString: strerror(errno)) }
}

/// How many processors this process may use.
enum ProcessorCount {
    static var active: Int { max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }
}
