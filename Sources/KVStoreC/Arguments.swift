// Everything a caller's pointer goes through before it is used: null, alignment, count. What is behind a pointer that
// passes is the caller's word; the header says so. All other files of this target use these types only.

/// Whether a pointer is null or not aligned for its type.
private func check<Value>(_ pointer: UnsafePointer<Value>?, _ name: String) throws(CallError) -> UnsafePointer<Value> {
    guard let pointer = unsafe pointer else { throw .invalidArgument("\(name) is null") }
    guard UInt(bitPattern: pointer) % UInt(MemoryLayout<Value>.alignment) == 0 else {
        throw .invalidArgument("\(name) is not aligned to \(MemoryLayout<Value>.alignment) bytes")
    }
    return unsafe pointer
}

/// A place for a result, checked before anything is done that a caller would have to undo.
@safe
struct Out<Value: BitwiseCopyable> {
    // Checked in init; the caller promises that it is good for one value during the call.
    private let pointer: UnsafeMutablePointer<Value>

    init(_ pointer: UnsafeMutablePointer<Value>?, _ name: String) throws(CallError) {
        unsafe self.pointer = UnsafeMutablePointer(mutating: try check(UnsafePointer(pointer), name))
    }

    /// Nil for null.
    static func optional(_ pointer: UnsafeMutablePointer<Value>?, _ name: String) throws(CallError) -> Out? {
        unsafe pointer == nil ? nil : try Out(pointer, name)
    }

    func set(_ value: Value) { unsafe pointer.pointee = value }
}

/// Places for several results.
@safe
struct OutArray<Value> {
    // Checked in init; the caller promises that it is good for `capacity` values during the call.
    private let pointer: UnsafeMutablePointer<Value>?
    let capacity: Int
    var isNull: Bool { unsafe pointer == nil }

    init(_ pointer: UnsafeMutablePointer<Value>?, capacity: Int, _ name: String) throws(CallError) {
        // A size_t above Int.max arrives as a number below 0.
        guard capacity >= 0 else { throw .invalidArgument("the capacity is out of range") }
        if unsafe pointer != nil {
            _ = unsafe try check(UnsafePointer(pointer), name)
        }
        unsafe self.pointer = pointer
        self.capacity = capacity
    }

    /// Does nothing for null.
    func set(_ index: Int, _ value: Value) {
        precondition(index >= 0 && index < capacity, "an out array is written within its capacity")
        unsafe pointer?.advanced(by: index).pointee = value
    }
}

/// Bytes of the caller to read.
@safe
struct InBytes {
    // Checked in init; the caller promises that it is good for `count` bytes during the call.
    private let buffer: UnsafeRawBufferPointer
    var count: Int { unsafe buffer.count }

    init(_ pointer: UnsafeRawPointer?, count: Int, limit: Int, _ name: String) throws(CallError) {
        guard count >= 0, count <= limit else { throw .invalidArgument("\(name) has more than \(limit) bytes") }
        guard unsafe pointer != nil || count == 0 else { throw .invalidArgument("\(name) is null") }
        unsafe buffer = UnsafeRawBufferPointer(start: pointer, count: count)
    }

    var array: [UInt8] { unsafe Array(buffer) }

    /// A copy of a range that lies inside.
    func array(_ range: Range<Int>) -> [UInt8] { unsafe Array(buffer[range]) }

    /// Copies a range that lies inside into memory of the same length.
    func copy(_ range: Range<Int>, into target: inout MutableRawSpan) {
        precondition(range.lowerBound >= 0 && range.upperBound <= count && range.count == target.byteCount)
        // Safe: both lengths were compared just above.
        unsafe target.withUnsafeMutableBytes { target in
            unsafe target.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[range]))
        }
    }
}

/// Bytes of the caller to write.
@safe
struct OutBytes {
    // Checked in init; the caller promises that it is good for `count` bytes during the call.
    private let buffer: UnsafeMutableRawBufferPointer
    var count: Int { unsafe buffer.count }

    init(_ pointer: UnsafeMutableRawPointer?, count: Int, _ name: String) throws(CallError) {
        guard count >= 0 else { throw .invalidArgument("the size of \(name) is out of range") }
        guard unsafe pointer != nil || count == 0 else { throw .invalidArgument("\(name) is null") }
        unsafe buffer = UnsafeMutableRawBufferPointer(start: pointer, count: count)
    }

    /// Writes bytes from `offset` on; they must fit.
    func copy(_ bytes: RawSpan, at offset: Int) {
        precondition(offset >= 0 && offset + bytes.byteCount <= count, "a copy stays within its buffer")
        // Safe: checked just above.
        unsafe bytes.withUnsafeBytes { bytes in
            unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[offset..<offset + bytes.count]).copyMemory(
                from: bytes)
        }
    }
}

/// NUL-terminated text of the caller; nil for null.
func text(_ pointer: UnsafePointer<CChar>?, limit: Int, _ name: String) throws(CallError) -> String? {
    guard let pointer = unsafe pointer else { return nil }
    var count = 0
    while unsafe pointer[count] != 0 {
        count += 1
        guard count <= limit else { throw .invalidArgument("\(name) is longer than \(limit) bytes") }
    }
    // Safe: that many bytes were looked at just above.
    let bytes = unsafe UnsafeRawBufferPointer(start: pointer, count: count)
    guard let text = unsafe String(validating: bytes, as: UTF8.self) else {
        throw .invalidArgument("\(name) is not UTF-8")
    }
    return text
}

/// Values of the caller, copied.
func array<Value: BitwiseCopyable>(
    _ pointer: UnsafePointer<Value>?,
    count: Int,
    limit: Int,
    _ name: String
) throws(CallError) -> [Value] {
    guard count >= 0, count <= limit else { throw .invalidArgument("\(name) has more than \(limit) entries") }
    if count == 0 { return [] }
    // The caller's word for the count, see above.
    return unsafe Array(UnsafeBufferPointer(start: try check(pointer, name), count: count))
}

/// A struct that begins with its size: as much of it as the caller has, and zeros.
///
/// - Parameter leastByteCount: size in the first version that had the struct.
func record<Value: BitwiseCopyable>(
    _ pointer: UnsafePointer<Value>?,
    into value: inout Value,
    leastByteCount: Int,
    _ name: String
) throws(CallError) {
    let source = unsafe UnsafeRawPointer(try check(pointer, name))
    let byteCount = unsafe try structSize(source, leastByteCount: leastByteCount, name)
    // Safe: the caller says that so many bytes are there, and the bounds were checked.
    unsafe withUnsafeMutableBytes(of: &value) { target in
        let known = min(byteCount, target.count)
        unsafe target.copyMemory(from: UnsafeRawBufferPointer(start: source, count: known))
    }
    let rest = unsafe UnsafeRawBufferPointer(start: source, count: byteCount).dropFirst(MemoryLayout<Value>.size)
    guard unsafe rest.allSatisfy({ $0 == 0 }) else {
        throw .invalidArgument("\(name) has fields that this version of the library does not know")
    }
}

/// Place for a struct that begins with its size.
@safe
struct OutRecord<Value: BitwiseCopyable> {
    // Checked in init; the caller promises that it is good for `byteCount` bytes during the call.
    private let pointer: UnsafeMutableRawPointer
    private let byteCount: Int

    init(_ pointer: UnsafeMutablePointer<Value>?, leastByteCount: Int, _ name: String) throws(CallError) {
        let checked = unsafe try check(UnsafePointer(pointer), name)
        unsafe self.pointer = UnsafeMutableRawPointer(mutating: checked)
        byteCount = unsafe try structSize(UnsafeRawPointer(checked), leastByteCount: leastByteCount, name)
    }

    /// Nil for null.
    static func optional(
        _ pointer: UnsafeMutablePointer<Value>?,
        leastByteCount: Int,
        _ name: String
    ) throws(CallError) -> OutRecord? {
        unsafe pointer == nil ? nil : try OutRecord(pointer, leastByteCount: leastByteCount, name)
    }

    /// Writes as much as the caller's struct holds; its size stays what it was.
    func set(_ value: Value) {
        unsafe withUnsafeBytes(of: value) { source in
            let end = min(source.count, byteCount)
            // Safe: the size was checked in init. The first field is the size itself.
            unsafe UnsafeMutableRawBufferPointer(start: pointer + 4, count: end - 4)
                .copyMemory(from: UnsafeRawBufferPointer(rebasing: source[4..<end]))
        }
    }
}

private func structSize(_ pointer: UnsafeRawPointer, leastByteCount: Int, _ name: String) throws(CallError) -> Int {
    let byteCount = Int(unsafe pointer.load(as: UInt32.self))
    guard byteCount >= leastByteCount, byteCount <= 4096 else {
        throw .invalidArgument("\(name).struct_size is \(byteCount); set it to the struct's sizeof")
    }
    return byteCount
}
