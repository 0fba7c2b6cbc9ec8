internal import Glibc
internal import KVStore
internal import Synchronization

/// Notices that a client's process has ended.
///
/// The end of the connection is not enough: a child that the client forked may have inherited the socket and keep it
/// open for ever, with the leases of a process that is gone. One thread waits in epoll for process descriptors.
package final class ClientWatch: Sendable {
    private struct Client {
        var descriptor: Int32
        var onDeath: @Sendable () -> Void
    }

    private struct State {
        var clients: [UInt64: Client] = [:]
        var lastToken: UInt64 = 0
        var isStopped = false
    }

    private let epoll: Int32
    private let stopEvent: Int32
    private let state = Mutex(State())
    private let thread: DiskThread
    /// The token of the event that ends the thread; clients count from 1.
    private static let stopToken: UInt64 = 0

    /// Starts the thread. Fails when the process is out of descriptors or threads.
    package init() throws(HostFileError) {
        guard let epoll = LinuxCalls.makeEpoll() else { throw HostFileError(errno, "watch", "client processes") }
        guard let event = LinuxCalls.makeEvent(), LinuxCalls.watch(epoll, event, token: Self.stopToken) else {
            close(epoll)
            throw HostFileError(errno, "watch", "client processes")
        }
        self.epoll = epoll
        stopEvent = event
        let inbox = Inbox()
        thread = DiskThread(name: "kvstore-watch") {
            while let token = LinuxCalls.nextToken(epoll), token != Self.stopToken { inbox.deliver(token) }
        }
        inbox.watch.withLock { $0 = WeakWatch(self) }
    }

    /// The thread must not keep the watch alive, or nothing could end either.
    private final class Inbox: Sendable {
        let watch = Mutex(WeakWatch(nil))
        func deliver(_ token: UInt64) { watch.withLock { $0.watch }?.clientDied(token) }
    }

    private struct WeakWatch: Sendable {
        weak let watch: ClientWatch?
        init(_ watch: ClientWatch?) { self.watch = watch }
    }

    /// Clients that are watched.
    package var count: Int { state.withLock { $0.clients.count } }

    /// Watches the process behind a connected socket. `onDeath` is called at most once, on the watching thread.
    ///
    /// - Returns: what `forget` takes; nil when the kernel gives no descriptor for the process (it has ended already, it
    ///   is in another pid namespace, or descriptors ran out): then the end of the connection has to do.
    package func watch(
        peerOf socket: Int32,
        processID: Int32,
        onDeath: @escaping @Sendable () -> Void
    ) -> UInt64? {
        guard let descriptor = LinuxCalls.processDescriptor(ofPeer: socket, processID: processID) else { return nil }
        return watch(processDescriptor: descriptor, onDeath: onDeath)
    }

    /// Watches a process by its descriptor, which is closed here in every case.
    package func watch(processDescriptor descriptor: Int32, onDeath: @escaping @Sendable () -> Void) -> UInt64? {
        let token = state.withLock { state -> UInt64? in
            guard !state.isStopped else { return nil }
            state.lastToken += 1
            state.clients[state.lastToken] = Client(descriptor: descriptor, onDeath: onDeath)
            return state.lastToken
        }
        guard let token else {
            close(descriptor)
            return nil
        }
        if LinuxCalls.watch(epoll, descriptor, token: token) { return token }
        forget(token)
        return nil
    }

    /// Stops watching a client. Its callback may still be running when this returns.
    package func forget(_ token: UInt64) {
        guard let client = state.withLock({ $0.clients.removeValue(forKey: token) }) else { return }
        LinuxCalls.unwatch(epoll, client.descriptor)
        close(client.descriptor)
    }

    private func clientDied(_ token: UInt64) {
        // Forgotten in the meantime: then nobody is to be told.
        guard let client = state.withLock({ $0.clients.removeValue(forKey: token) }) else { return }
        LinuxCalls.unwatch(epoll, client.descriptor)
        close(client.descriptor)
        client.onDeath()
    }

    /// Ends the thread. Idempotent.
    package func stop() {
        let clients = state.withLock { state -> [UInt64: Client]? in
            guard !state.isStopped else { return nil }
            state.isStopped = true
            defer { state.clients.removeAll() }
            return state.clients
        }
        guard let clients else { return }
        LinuxCalls.signalEvent(stopEvent)
        thread.join()
        for client in clients.values { close(client.descriptor) }
        close(epoll)
        close(stopEvent)
    }

    deinit { stop() }
}
