// The only file of this module that imports CLinux: memory that the kernel gives and takes, with an error instead of an abort.
internal import CLinux
internal import Glibc
internal import Synchronization

/// One sealed memfd: the unit in which the memory tier takes memory from the system and gives it back.
///
/// ```
/// offset 0          slotByteCount       2 × slotByteCount            slots end          byteCount
/// | slot 0          | slot 1            | …                          | generations (u64 per slot), page-rounded |
/// ```
/// A region belongs to one tenant and one slot size, so that no descriptor ever shows another tenant's pages. The owner
/// keeps the writable mapping; everybody else can map it read-only. A slot's generation is raised before the slot is
/// overwritten, so that a reader in another process can tell that what it read has gone.
@safe
final class Region {
    let slotByteCount: Int
    let slotCount: Int
    let byteCount: Int
    let fileDescriptor: Int32
    private let base: UnsafeMutableRawPointer

    /// Allocates and maps a region. Slow, so never called under the store's lock.
    init(slotByteCount: Int, slotCount: Int) throws(KVStoreError) {
        let generationBytes = roundUp(slotCount * MemoryLayout<UInt64>.size, to: pageByteCount)
        let byteCount = slotByteCount * slotCount + generationBytes
        let hugePage = 2 << 20
        let alignment = byteCount >= hugePage ? hugePage : pageByteCount
        var descriptor: Int32 = -1
        var address: UnsafeMutableRawPointer?
        // The C call fills both on success and neither otherwise.
        let status = unsafe CLinux_region_create("kvstore-region", byteCount, alignment, &descriptor, &address)
        guard status == 0, let address = unsafe address else {
            throw KVStoreError(
                .outOfMemory,
                "the kernel refused a shared memory region of \(byteCount) bytes (errno \(status)); lower the memory "
                    + "capacity, or raise the limit of shared memory or of open files"
            )
        }
        self.slotByteCount = slotByteCount
        self.slotCount = slotCount
        self.byteCount = byteCount
        self.fileDescriptor = descriptor
        unsafe self.base = address
    }

    deinit {
        unsafe CLinux_region_destroy(fileDescriptor, base, byteCount)
    }

    /// The bytes a region of `slotCount` slots takes from the cap.
    static func byteCount(slotByteCount: Int, slotCount: Int) -> Int {
        slotByteCount * slotCount + roundUp(slotCount * MemoryLayout<UInt64>.size, to: pageByteCount)
    }

    /// Has the kernel clear pages now, rather than each at its first use. Until it returns, nobody can map memory into this
    /// process, so `range` should be short. False when the kernel does not do it.
    func clearPages(_ range: Range<Int>) -> Bool {
        precondition(range.lowerBound >= 0 && range.upperBound <= byteCount, "pages \(range) of \(byteCount)")
        return unsafe CLinux_populate(base + range.lowerBound, range.count) == 0
    }

    /// The address of a slot; valid until the region is closed, which waits for every pin.
    @unsafe func address(ofSlot index: Int) -> UnsafeMutableRawPointer {
        precondition(index >= 0 && index < slotCount, "slot \(index) of \(slotCount)")
        return unsafe base + index * slotByteCount
    }

    /// Says that whoever still looks at this slot looks at the past. Called under the store's lock.
    func raiseGeneration(ofSlot index: Int) {
        precondition(index >= 0 && index < slotCount)
        // In bounds by the line above; the page behind the slots was sized for it.
        let word = unsafe (base + slotByteCount * slotCount).assumingMemoryBound(to: UInt64.self) + index
        unsafe word.pointee &+= 1
        // Before any byte of the slot changes, for a reader in another process that looks at both in the other order.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
    }

    /// How often the slot was given out.
    func generation(ofSlot index: Int) -> UInt64 {
        precondition(index >= 0 && index < slotCount)
        let word = unsafe (base + slotByteCount * slotCount).assumingMemoryBound(to: UInt64.self) + index
        return unsafe word.pointee
    }
}

/// Memory whose end is followed by its beginning: any `byteCount` bytes of it are in one piece, wherever they begin.
///
/// @unchecked Sendable: the address does not change; who may touch which bytes is its owner's affair.
@safe
final class RingBuffer: @unchecked Sendable {
    let byteCount: Int
    private let base: UnsafeMutableRawPointer

    /// Nil when there is no memory.
    ///
    /// - Precondition: `byteCount` is whole pages.
    init?(byteCount: Int) {
        var address: UnsafeMutableRawPointer?
        // The C call fills it on success.
        guard unsafe CLinux_ring_create(byteCount, &address) == 0, let address = unsafe address else { return nil }
        self.byteCount = byteCount
        unsafe base = address
    }

    deinit { unsafe CLinux_ring_destroy(base, byteCount) }

    /// The bytes that position `start` of an endless sequence and those after it fall on; valid as long as the buffer.
    func bytes(at start: Int, count: Int) -> UnsafeMutableRawBufferPointer {
        precondition(start >= 0 && count <= byteCount, "\(count) bytes of a ring of \(byteCount)")
        // In range: begins in the first half, and the second is as long as the longest piece.
        return unsafe UnsafeMutableRawBufferPointer(start: base + start % byteCount, count: count)
    }
}

/// Page-aligned scratch memory of a fixed size, from the kernel and not from Swift's allocator, which aborts when memory
/// runs out. Untouched pages cost nothing.
@safe
final class PageBuffer {
    let bytes: UnsafeMutableRawBufferPointer

    /// Nil when there is no memory.
    init?(byteCount: Int) {
        let address = unsafe mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard unsafe address != MAP_FAILED else { return nil }
        unsafe bytes = UnsafeMutableRawBufferPointer(start: address, count: byteCount)
    }

    deinit { unsafe _ = munmap(bytes.baseAddress, bytes.count) }
}

/// Gives a thread the name that `top -H` and debuggers show; at most 15 bytes.
func nameThread(_ thread: pthread_t, _ name: String) {
    _ = unsafe CLinux_name_thread(UInt(thread), name)
}

package let pageByteCount = 4096

package func roundUp(_ value: Int, to multiple: Int) -> Int {
    (value + multiple - 1) / multiple * multiple
}

/// A growable array of trivial elements whose storage never moves and whose growth can fail instead of aborting.
///
/// Address space for `capacity` elements is reserved at once, memory is committed page by page. Elements start zeroed.
/// Not thread-safe; it lives inside the store's lock.
@safe
struct MappedArray<Element: BitwiseCopyable>: ~Copyable {
    private let base: UnsafeMutablePointer<Element>
    private let reservedBytes: Int
    let capacity: Int
    /// Elements that may be touched.
    private(set) var count = 0
    /// What the array takes from the cap.
    private(set) var committedBytes = 0

    /// Growth step: small enough for a 16 MiB cap, large enough that growing is rare.
    private static var stepBytes: Int { 64 << 10 }

    init(capacity: Int) throws(KVStoreError) {
        let bytes = roundUp(max(capacity, 1) * MemoryLayout<Element>.stride, to: Self.stepBytes)
        guard let address = unsafe CLinux_reserve(bytes) else {
            throw KVStoreError(
                .outOfMemory,
                "no address space for \(bytes) bytes of metadata; lower the memory capacity"
            )
        }
        unsafe base = address.bindMemory(to: Element.self, capacity: bytes / MemoryLayout<Element>.stride)
        reservedBytes = bytes
        self.capacity = capacity
    }

    deinit {
        unsafe CLinux_unreserve(UnsafeMutableRawPointer(base), reservedBytes)
    }

    /// Bytes that growing to `newCount` elements would add to `committedBytes`.
    func growthBytes(toCount newCount: Int) -> Int {
        max(0, roundUp(newCount * MemoryLayout<Element>.stride, to: Self.stepBytes) - committedBytes)
    }

    /// Makes elements up to `newCount` usable. False when the capacity or the kernel says no; nothing changed then.
    mutating func grow(toCount newCount: Int) -> Bool {
        guard newCount <= capacity else { return false }
        let needed = roundUp(newCount * MemoryLayout<Element>.stride, to: Self.stepBytes)
        if needed > committedBytes {
            guard unsafe CLinux_commit(UnsafeMutableRawPointer(base), needed) == 0 else { return false }
            committedBytes = needed
        }
        count = max(count, newCount)
        return true
    }

    /// Elements are trivial and zero-initialised, so any index below `count` is a valid value.
    subscript(index: Int) -> Element {
        @inline(__always) get {
            precondition(index >= 0 && index < count)
            return unsafe base[index]
        }
        @inline(__always) _modify {
            precondition(index >= 0 && index < count)
            yield unsafe &base[index]
        }
    }
}

/// The calling process, also in a child of `fork`. A load where `getpid` is a call of the kernel, of which a hit through
/// the C ABI made five.
package func currentProcessID() -> Int32 { CLinux_process_id() }
