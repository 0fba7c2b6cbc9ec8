// The only file of this module that imports CLinux: a blocking Unix socket with deadlines, and memory that came over it.
internal import CLinux
internal import Glibc
internal import KVStore

/// What went wrong between this process and the daemon. The data calls of `RemoteBlockStore` turn it into a miss.
public struct ClientError: Error, Sendable, Hashable, CustomStringConvertible {
    /// The kind of failure; compare with the constants below.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        /// The code's name as shown to people.
        public let description: String
        /// Nobody listens at the socket.
        public static let noDaemon = Code(description: "noDaemon")
        /// The socket may not be opened with this process's rights, or the daemon knows no tenant for it.
        public static let permissionDenied = Code(description: "permissionDenied")
        /// The daemon did not answer before the deadline.
        public static let timeout = Code(description: "timeout")
        /// The connection ended in the middle of a call.
        public static let connectionLost = Code(description: "connectionLost")
        /// What came back is not this protocol.
        public static let protocolError = Code(description: "protocolError")
        /// The daemon answered, and refused.
        public static let refused = Code(description: "refused")
    }

    /// The kind of failure.
    public let code: Code
    /// One sentence: what failed and what to do.
    public let message: String
    /// The daemon's status, when it answered.
    package let status: WireStatus?

    package init(_ code: Code, _ message: String, status: WireStatus? = nil) {
        self.code = code
        self.message = message
        self.status = status
    }

    /// `code: message`.
    public var description: String { "\(code): \(message)" }
}

/// A connected socket. Not thread-safe; closes itself.
struct UnixSocket: ~Copyable {
    private let descriptor: Int32
    /// Descriptors that came and were not asked for yet, oldest first. Ours to close.
    private var received: [Int32] = []
    /// What came and was not asked for yet: an answer's header and body are taken from the kernel in one call.
    private var buffer = [UInt8](repeating: 0, count: 16 << 10)
    private var bufferStart = 0
    private var bufferEnd = 0
    /// How long a call of the kernel waits; set anew only when a deadline asks for another time.
    private var blockMilliseconds: Int32 = 0

    init(path: String, timeoutNanoseconds: UInt64) throws(ClientError) {
        descriptor = try Self.connectTrusted(path, timeoutNanoseconds)
    }

    deinit {
        for extra in received { CLinux_close(extra) }
        CLinux_close(descriptor)
    }

    private static func connectTrusted(_ path: String, _ timeoutNanoseconds: UInt64) throws(ClientError) -> Int32 {
        let result = unsafe CLinux_connect(path, Int32(clamping: timeoutNanoseconds / 1_000_000))
        guard result >= 0 else { throw connectError(-result, path) }
        do throws(ClientError) {
            try requireTrusted(result, path)
            return result
        } catch {
            CLinux_close(result)
            throw error
        }
    }

    /// The directory that a socket lies in.
    struct Place {
        var owner: UInt32
        /// Nobody but the owner may make files in it.
        var isClosed: Bool
        /// Nor in any directory above it, so that nobody else can have made it.
        var isBelowClosed: Bool
    }

    /// Whether a process of that user may be believed to be the daemon: it hands out bytes that engines compute with.
    ///
    /// Root and the client's own user are. Where only one of them can have put the socket there, whoever listens is: so
    /// systemd's sockets lie in a directory of root's, and the daemon has a user of its own. Else the owner of the
    /// directory, unless somebody can have made that to be believed, as below /tmp.
    static func isTrusted(listener: UInt32, own: UInt32, place: Place?) -> Bool {
        if listener == 0 || listener == own { return true }
        guard let place, place.isClosed else { return false }
        if place.owner == 0 || place.owner == own { return true }
        return place.owner == listener && place.isBelowClosed
    }

    private static func requireTrusted(_ descriptor: Int32, _ path: String) throws(ClientError) {
        var (processID, listener, group): (Int32, UInt32, UInt32) = (0, 0, 0)
        // All three live for the call.
        let error = unsafe CLinux_peer_credentials(descriptor, &processID, &listener, &group)
        guard error == 0 else { throw connectError(error, path) }
        let own = geteuid()
        if isTrusted(listener: listener, own: own, place: nil)
            || isTrusted(listener: listener, own: own, place: place(path))
        {
            return
        }
        throw ClientError(
            .permissionDenied,
            "the process at \(path) belongs to user \(listener), who is neither you nor root, and others may have put the "
                + "socket there; let the daemon listen in a directory of root's or of its own user in which nobody else may "
                + "make files, and not below /tmp"
        )
    }

    private static func place(_ path: String) -> Place? {
        let end = path.lastIndex(of: "/")
        var directory = end.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        // Without links; the C string is ours to free.
        guard let real = unsafe realpath(directory, nil) else { return nil }
        directory = unsafe String(cString: real)
        unsafe free(real)
        guard let (owner, isClosed) = rights(directory) else { return nil }
        var isBelowClosed = true
        while directory != "/", let slash = directory.lastIndex(of: "/") {
            directory = slash == directory.startIndex ? "/" : String(directory[..<slash])
            isBelowClosed = isBelowClosed && rights(directory)?.isClosed == true
        }
        return Place(owner: owner, isClosed: isClosed, isBelowClosed: isBelowClosed)
    }

    private static func rights(_ directory: String) -> (owner: UInt32, isClosed: Bool)? {
        var status = stat()
        // The path is passed as a C string, the structure filled, during the call.
        guard unsafe stat(directory, &status) == 0 else { return nil }
        return (status.st_uid, status.st_mode & 0o022 == 0)
    }

    private static func connectError(_ error: Int32, _ path: String) -> ClientError {
        switch error {
        case ENOENT, ECONNREFUSED:
            ClientError(
                .noDaemon,
                "no daemon listens at \(path); start one with `kvstore serve`, or name its socket with --socket or "
                    + "KVSTORE_SOCKET"
            )
        case EACCES, EPERM:
            ClientError(
                .permissionDenied,
                "\(path) may not be opened by this user; become a member of the socket's group"
            )
        case ETIMEDOUT: ClientError(.timeout, "the daemon at \(path) takes no connection at the moment")
        case ENAMETOOLONG: ClientError(.noDaemon, "the socket path \(path) is longer than 107 bytes; use a shorter one")
        default: ClientError(.noDaemon, "\(path) cannot be connected to: \(unsafe String(cString: strerror(error)))")
        }
    }

    /// Sends all of `bytes` before `deadline`.
    mutating func send(_ bytes: [UInt8], deadline: UInt64) throws(ClientError) {
        var sent = 0
        while sent < bytes.count {
            try block(until: deadline)
            // In bounds: `sent` is below the count.
            let result = unsafe bytes.withUnsafeBytes { buffer in
                unsafe CLinux_send(descriptor, buffer.baseAddress! + sent, buffer.count - sent)
            }
            if result >= 0 {
                sent += result
            } else if result != -Int(EINTR), result != -Int(EAGAIN) {
                throw ClientError(.connectionLost, "the daemon has closed the connection")
            }
        }
    }

    /// Receives exactly `count` bytes before `deadline`, and keeps the descriptors that come with them.
    mutating func receive(_ count: Int, deadline: UInt64) throws(ClientError) -> [UInt8] {
        if bufferEnd - bufferStart >= count { return takeBuffered(count) }
        var bytes = takeBuffered(bufferEnd - bufferStart)
        // A long body goes where it belongs; everything else through the buffer, with what follows it.
        if count - bytes.count >= buffer.count {
            var filled = bytes.count
            bytes.append(contentsOf: repeatElement(0, count: count - filled))
            while filled < count { filled += try receiveSome(into: &bytes, from: filled, deadline: deadline) }
        }
        while bytes.count < count {
            (bufferStart, bufferEnd) = (0, 0)
            var room = [UInt8]()
            swap(&room, &buffer)
            defer { swap(&room, &buffer) }
            bufferEnd = try receiveSome(into: &room, from: 0, deadline: deadline)
            let taken = min(count - bytes.count, bufferEnd)
            bytes.append(contentsOf: room[..<taken])
            bufferStart = taken
        }
        return bytes
    }

    private mutating func takeBuffered(_ count: Int) -> [UInt8] {
        defer { bufferStart += count }
        return Array(buffer[bufferStart..<bufferStart + count])
    }

    /// At least one byte.
    private mutating func receiveSome(
        into bytes: inout [UInt8],
        from offset: Int,
        deadline: UInt64
    ) throws(ClientError) -> Int {
        while true {
            try block(until: deadline)
            var descriptors = ReceivedDescriptors()
            // In bounds: the caller's array is longer than `offset`.
            let result = unsafe bytes.withUnsafeMutableBytes { buffer in
                unsafe descriptors.receive(descriptor, buffer.baseAddress! + offset, buffer.count - offset)
            }
            descriptors.append(to: &received)
            if result > 0 { return result }
            switch -result {
            case 0: throw ClientError(.connectionLost, "the daemon has closed the connection")
            case Int(EAGAIN), Int(EINTR): continue
            case Int(EMFILE):
                throw ClientError(.connectionLost, "this process has no descriptor left for a region; raise its limit")
            default: throw ClientError(.connectionLost, "the connection to the daemon failed")
            }
        }
    }

    /// Has the next call of the kernel wait until `deadline`, to 10 ms more.
    private mutating func block(until deadline: UInt64) throws(ClientError) {
        let now = monotonicNanoseconds()
        guard now < deadline else { throw ClientError(.timeout, "the daemon did not answer in time") }
        let milliseconds = Int32(clamping: ((deadline - now) / 10_000_000 + 1) * 10)
        guard milliseconds != blockMilliseconds else { return }
        guard CLinux_block(descriptor, milliseconds) == 0 else {
            throw ClientError(.connectionLost, "the connection to the daemon failed")
        }
        blockMilliseconds = milliseconds
    }

    /// Maps the oldest descriptor that came, and closes it.
    mutating func mapReceived(_ region: RegionsEvent.Region) throws(ClientError) -> MappedRegion {
        guard !received.isEmpty else { throw ClientError(.protocolError, "a region came without its descriptor") }
        let descriptor = received.removeFirst()
        defer { CLinux_close(descriptor) }
        return try MappedRegion(region, descriptor: descriptor)
    }
}

/// Room for the descriptors of one message, without an allocation where none came.
private struct ReceivedDescriptors {
    private var numbers = InlineArray<64, Int32>(repeating: -1)
    private var count = 0

    /// Twice what the daemon needs for a hit. Whoever waits longer sleeps, and has taken no more than this from others.
    private static let spinNanoseconds: UInt32 = 20_000

    /// As `recvmsg`, with negated errnos.
    mutating func receive(_ descriptor: Int32, _ bytes: UnsafeMutableRawPointer, _ byteCount: Int) -> Int {
        var span = numbers.mutableSpan
        // The span is lent for this call, and the kernel fills at most as many as it has.
        return unsafe span.withUnsafeMutableBufferPointer { room in
            unsafe CLinux_receive(
                descriptor, bytes, byteCount, room.baseAddress, room.count, &count, Self.spinNanoseconds)
        }
    }

    func append(to received: inout [Int32]) {
        for index in 0..<count { received.append(numbers[index]) }
    }
}

/// A daemon's region, mapped here. Unmapped when the last lease on it and the connection have let go of it.
///
/// @unchecked Sendable: the mapping lives as long as the object. A region of slots is only read, and the daemon's writes
/// to it are told by the generations; the staging region is written under reservations, whose parts do not overlap.
@safe
final class MappedRegion: @unchecked Sendable {
    let region: RegionsEvent.Region
    private let base: UnsafeMutableRawPointer
    private let byteCount: Int

    /// Bounds everything that is announced: sizes that overflow, or do not fit the descriptor, are a protocol error and
    /// never a fault.
    init(_ region: RegionsEvent.Region, descriptor: Int32) throws(ClientError) {
        self.region = region
        guard let byteCount = Int(exactly: region.byteCount), byteCount > 0, byteCount <= 1 << 40,
            region.kind == .staging || Self.slotsFit(region, byteCount)
        else { throw ClientError(.protocolError, "a region with impossible sizes was announced") }
        self.byteCount = byteCount
        var address: UnsafeMutableRawPointer?
        let status = unsafe CLinux_map_shared(
            descriptor,
            byteCount,
            region.kind == .staging ? 1 : 0,
            CLinux_seals_shrink_grow(),
            &address
        )
        guard status == 0, let address = unsafe address else {
            throw ClientError(.protocolError, "a region cannot be mapped: \(unsafe String(cString: strerror(status)))")
        }
        unsafe base = address
    }

    deinit { unsafe CLinux_unmap(base, byteCount) }

    private static func slotsFit(_ region: RegionsEvent.Region, _ byteCount: Int) -> Bool {
        guard let slotBytes = Int(exactly: region.slotByteCount), slotBytes > 0, slotBytes % pageByteCount == 0,
            slotBytes <= byteCount, region.slotCount > 0
        else { return false }
        let (bytes, overflow) = slotBytes.multipliedReportingOverflow(by: Int(region.slotCount))
        return !overflow && bytes <= byteCount && byteCount - bytes >= Int(region.slotCount) * 8
    }

    /// Memory of a slot, or of a place in the staging region; nil when it does not lie inside.
    func memory(at offset: Int, byteCount count: Int) -> SlotMemory? {
        guard offset >= 0, count >= 0, offset <= byteCount, count <= byteCount - offset else { return nil }
        return unsafe SlotMemory(address: base + offset)
    }

    func slotMemory(_ index: UInt32, byteCount count: Int) -> SlotMemory? {
        guard region.kind == .slots, index < region.slotCount, count <= Int(region.slotByteCount) else { return nil }
        return memory(at: Int(index) * Int(region.slotByteCount), byteCount: count)
    }

    /// How often the slot has been given out by now. To be asked after its bytes were read.
    func generation(ofSlot index: UInt32) -> UInt64 {
        precondition(region.kind == .slots && index < region.slotCount)
        let offset = Int(region.slotByteCount) * Int(region.slotCount) + Int(index) * 8
        // In bounds: `slotsFit` made sure of the words behind the slots. The daemon may write the word at any time, so
        // it is read once, by a call the compiler cannot move.
        return unsafe CLinux_load_acquire(base + offset)
    }
}
