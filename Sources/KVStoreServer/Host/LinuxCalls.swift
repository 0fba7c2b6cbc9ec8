// The only file of this module that imports CLinux: what the kernel tells about clients and about this process.
internal import CLinux
internal import Glibc

/// The process at the other end of a connection, as the kernel noted it when it connected.
package struct PeerCredentials: Sendable, Hashable {
    /// 0 when it is in another pid namespace.
    package var processID: Int32
    package var userID: UInt32
    package var groupID: UInt32
    /// Supplementary groups.
    package var groupIDs: [UInt32]

    package init(processID: Int32, userID: UInt32, groupID: UInt32, groupIDs: [UInt32]) {
        self.processID = processID
        self.userID = userID
        self.groupID = groupID
        self.groupIDs = groupIDs
    }

    /// Asks the kernel. Nil when it does not say: then nobody is let in.
    init?(socket: Int32) {
        var (processID, userID, groupID): (Int32, UInt32, UInt32) = (0, 0, 0)
        // The call fills three numbers.
        guard unsafe CLinux_peer_credentials(socket, &processID, &userID, &groupID) == 0 else { return nil }
        var groups = [UInt32](repeating: 0, count: 64)
        var count = 0
        // Filled up to the count that is passed; with ERANGE the count says how many there are (65536 at most).
        var status = unsafe CLinux_peer_groups(socket, &groups, groups.count, &count)
        if status == ERANGE {
            groups = [UInt32](repeating: 0, count: count)
            status = unsafe CLinux_peer_groups(socket, &groups, groups.count, &count)
        }
        // A kernel without SO_PEERGROUPS tells no supplementary groups; nobody gains a right by that.
        self.init(
            processID: processID,
            userID: userID,
            groupID: groupID,
            groupIDs: status == 0 ? Array(groups.prefix(count)) : []
        )
    }
}

/// Descriptors whose end of life is awaited with epoll.
enum LinuxCalls {
    /// A descriptor that becomes readable when the process behind a socket ends.
    static func processDescriptor(ofPeer socket: Int32, processID: Int32) -> Int32? {
        var descriptor: Int32 = -1
        return unsafe CLinux_peer_pidfd(socket, processID, &descriptor) == 0 ? descriptor : nil
    }

    static func makeEpoll() -> Int32? {
        var descriptor: Int32 = -1
        return unsafe CLinux_epoll_create(&descriptor) == 0 ? descriptor : nil
    }

    static func makeEvent() -> Int32? {
        var descriptor: Int32 = -1
        return unsafe CLinux_eventfd_create(&descriptor) == 0 ? descriptor : nil
    }

    static func signalEvent(_ descriptor: Int32) { _ = CLinux_eventfd_signal(descriptor) }

    /// Tells about `descriptor` once.
    static func watch(_ epoll: Int32, _ descriptor: Int32, token: UInt64) -> Bool {
        CLinux_epoll_add(epoll, descriptor, token) == 0
    }

    static func unwatch(_ epoll: Int32, _ descriptor: Int32) { _ = CLinux_epoll_remove(epoll, descriptor) }

    /// The token of something that is readable; waits for it. Nil when waiting is impossible.
    static func nextToken(_ epoll: Int32) -> UInt64? {
        var token: UInt64 = 0
        return unsafe CLinux_epoll_wait(epoll, &token) == 0 ? token : nil
    }

    // MARK: To clients

    /// Sends what the socket takes. Returns the bytes taken, or a negated errno.
    static func send(_ bytes: [UInt8], over socket: Int32) -> Int {
        // The array lives for the call, and the count is its.
        unsafe CLinux_send(socket, bytes, bytes.count)
    }

    /// Sends bytes with descriptors attached to the first of them. Returns the bytes taken, or a negated errno.
    static func send(_ bytes: [UInt8], descriptors: [Int32], over socket: Int32) -> Int {
        // Both arrays live for the call, and the counts are theirs.
        unsafe CLinux_send_descriptors(socket, bytes, bytes.count, descriptors, descriptors.count)
    }

    /// Whether `send` may succeed later: the socket is full, or too many descriptors are on their way.
    static func isTemporary(_ result: Int) -> Bool {
        [EAGAIN, EINTR, ETOOMANYREFS, ENOBUFS].contains(Int32(clamping: -result))
    }

    // MARK: Unix sockets: each returns 0 or an errno

    static func makeUnixSocket(isDatagram: Bool = false) throws(HostFileError) -> Int32 {
        var descriptor: Int32 = -1
        let status = unsafe CLinux_unix_socket(isDatagram ? 1 : 0, &descriptor)
        guard status == 0 else { throw HostFileError("cannot make a socket: \(errorText(status))") }
        return descriptor
    }

    static func bind(_ socket: Int32, to path: String) -> Int32 {
        unsafe CLinux_unix_bind(socket, path, path.utf8.count)
    }

    static func connect(_ socket: Int32, to path: String) -> Int32 {
        unsafe CLinux_unix_connect(socket, path, path.utf8.count)
    }

    static func send(_ text: String, over socket: Int32, to path: String) -> Int32 {
        unsafe CLinux_unix_send_datagram(socket, path, path.utf8.count, text, text.utf8.count)
    }
}

/// What the daemon changes about its own process, once, at the start.
package enum ProcessSetup {
    /// A client that went away and a file that reached its limit are errors of a call, never signals that kill.
    package static func ignoreSignals() {
        CLinux_ignore_signal(SIGPIPE)
        CLinux_ignore_signal(SIGXFSZ)
    }

    /// Other processes of the same user cannot read this one's memory, which holds what users wrote to their models.
    package static func hideMemory() { _ = CLinux_hide_memory() }

    /// Keeps free memory from piling up in a heap for each thread.
    package static func boundAllocator() {
        CLinux_bound_allocator(Int32(clamping: max(2, sysconf(Int32(_SC_NPROCESSORS_ONLN)) / 2)))
    }

    /// Gives back what malloc keeps inside its heaps. Without it the daemon's own memory grew under a soak from 67 MiB
    /// after two minutes to 73 MiB after ten.
    static func giveBackFreeMemory() { CLinux_trim_allocator() }

    /// Raises the limit of open files as far as allowed; returns what holds then.
    package static func raiseDescriptorLimit() -> Int {
        var limit: UInt64 = 1024
        _ = unsafe CLinux_raise_descriptor_limit(&limit)
        return Int(clamping: limit)
    }
}

/// The memory in which one connection prepares blocks: both sides write it, so nothing is believed that is read from it.
///
/// @unchecked Sendable: an address whose memory lives as long as this object; the server only copies out of it.
@safe
final class Staging: @unchecked Sendable {
    let byteCount: Int
    let fileDescriptor: Int32
    private let base: UnsafeMutableRawPointer
    private let budget: SharedBudget
    private let owner: String

    /// Nil when the budget or the kernel has no memory. Slow: the kernel clears every page.
    init?(byteCount: Int, budget: SharedBudget, owner: String) {
        guard budget.take(byteCount, for: owner) else { return nil }
        var descriptor: Int32 = -1
        var address: UnsafeMutableRawPointer?
        // The call fills both on success and neither otherwise.
        let status = unsafe CLinux_staging_create("kvstore-staging", byteCount, &descriptor, &address)
        guard status == 0, let address = unsafe address else {
            budget.give(byteCount, for: owner)
            return nil
        }
        self.byteCount = byteCount
        self.budget = budget
        self.owner = owner
        fileDescriptor = descriptor
        unsafe base = address
    }

    /// The pages go back at once, even if the client still maps them, so that the budget tells the truth.
    deinit {
        _ = CLinux_discard_pages(fileDescriptor, byteCount)
        unsafe CLinux_region_destroy(fileDescriptor, base, byteCount)
        budget.give(byteCount, for: owner)
    }

    /// What the client may be writing at this moment.
    func withBytes<Result>(at offset: Int, count: Int, _ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        precondition(offset >= 0 && count >= 0 && offset <= byteCount - count, "outside of the staging region")
        // In bounds by the line above, and the mapping lives as long as this object.
        return unsafe body(UnsafeRawBufferPointer(start: base + offset, count: count))
    }
}
