internal import KVStore
internal import Synchronization

/// The processes behind the connections: noticed when they end, and answerable for the regions they may have mapped.
///
/// A connection that closes does not unmap anything. What its process received stays counted against the memory cap until
/// the process says that it let go (on a later connection), or ends.
final class ClientProcesses: Sendable {
    private struct Process: Sendable {
        var watchToken: UInt64?
        /// Closes each of its connections.
        var connections: [UInt64: @Sendable () -> Void] = [:]
        /// How many closed connections brought it each region.
        var leftRegions: [UInt32: Int] = [:]
    }

    private struct State: Sendable {
        var lastConnectionID: UInt64 = 0
        var processes: [Int32: Process] = [:]
    }

    private let state = Mutex(State())
    private let watch: ClientWatch
    private let store: BlockStore

    init(watch: ClientWatch, store: BlockStore) {
        self.watch = watch
        self.store = store
    }

    /// Processes with a connection or with regions of one.
    var count: Int { state.withLock { $0.processes.count } }

    /// A connection began. `close` is called if its process ends before it does.
    func connected(
        _ peer: PeerCredentials,
        socketOf session: SessionHandler,
        close: @escaping @Sendable () -> Void
    ) -> UInt64 {
        let (id, isNew) = state.withLock { state -> (UInt64, Bool) in
            state.lastConnectionID += 1
            let isNew = state.processes[peer.processID] == nil
            state.processes[peer.processID, default: Process()].connections[state.lastConnectionID] = close
            return (state.lastConnectionID, isNew)
        }
        // One descriptor for a process, however often it connects. Without one (a process of another pid namespace has
        // the number 0 here) the end of the connection has to do.
        guard isNew, peer.processID > 0 else { return id }
        let processID = peer.processID
        let token = session.socket.flatMap { socket in
            watch.watch(peerOf: socket, processID: processID) { [weak self] in self?.died(processID) }
        }
        if let token {
            state.withLock { $0.processes[processID]?.watchToken = token }
        }
        return id
    }

    /// A connection closed; its process may still map what it received there.
    func disconnected(_ peer: PeerCredentials, _ connectionID: UInt64, regions: Set<UInt32>) {
        let (released, token) = state.withLock { state -> (Set<UInt32>, UInt64?) in
            guard var process = state.processes[peer.processID] else { return (regions, nil) }
            process.connections[connectionID] = nil
            let isWatched = process.watchToken != nil
            if isWatched { for id in regions { process.leftRegions[id, default: 0] += 1 } }
            let isDone = process.connections.isEmpty && process.leftRegions.isEmpty
            state.processes[peer.processID] = isDone ? nil : process
            return (isWatched ? [] : regions, isDone ? process.watchToken : nil)
        }
        if let token { watch.forget(token) }
        store.unshare(regionIDs: released)
    }

    /// A process has unmapped regions that came over a connection which is closed now.
    func unmapped(_ peer: PeerCredentials, _ regionIDs: [UInt32]) {
        guard !regionIDs.isEmpty else { return }
        let released = state.withLock { state -> [UInt32] in
            guard var process = state.processes[peer.processID] else { return [] }
            var released: [UInt32] = []
            for id in regionIDs {
                guard let count = process.leftRegions.removeValue(forKey: id) else { continue }
                released += Array(repeating: id, count: count)
            }
            state.processes[peer.processID] = process
            return released
        }
        store.unshare(regionIDs: released)
    }

    private func died(_ processID: Int32) {
        guard let process = state.withLock({ $0.processes.removeValue(forKey: processID) }) else { return }
        for close in process.connections.values { close() }
        for (id, count) in process.leftRegions { store.unshare(regionIDs: Array(repeating: id, count: count)) }
    }
}
