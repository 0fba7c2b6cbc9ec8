/// A block of the engine's own: where K and V go that are being computed.
///
/// @unchecked Sendable: one forward pass at a time writes it, at places nobody reads meanwhile.
@safe final class Page: @unchecked Sendable {
    // Owned from init to deinit.
    private let memory: UnsafeMutableRawBufferPointer

    init(byteCount: Int) {
        unsafe memory = .allocate(byteCount: byteCount, alignment: 64)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit { unsafe memory.deallocate() }

    /// Lends the bytes.
    func withBytes<Result>(_ body: (RawSpan) throws -> Result) rethrows -> Result {
        // Safe: the span cannot leave the closure, and the memory lives as long as the page.
        try body(unsafe UnsafeRawBufferPointer(memory).bytes)
    }

    /// Lends the bytes for writing.
    func withMutableBytes<Result>(_ body: (inout MutableRawSpan) throws -> Result) rethrows -> Result {
        var span = unsafe memory.mutableBytes
        return try body(&span)
    }
}

/// Pages that are used again. Not thread-safe.
final class PagePool {
    /// Bytes of a page.
    let byteCount: Int
    private var free: [Page] = []
    /// Pages in use.
    private(set) var usedCount = 0

    init(byteCount: Int) { self.byteCount = byteCount }

    /// A page with any content.
    func take() -> Page {
        usedCount += 1
        return free.popLast() ?? Page(byteCount: byteCount)
    }

    /// Takes a page back that nobody reads any more.
    func give(_ page: Page) {
        usedCount -= 1
        free.append(page)
    }
}
