internal import KVStore

/// What people and tools ask of a daemon: health, statistics, and the operators' verbs. Unlike `RemoteBlockStore`, every
/// call throws what went wrong.
public final class DaemonClient: Sendable {
    private let gate: ConnectionGate

    /// Connects, so that a daemon that is not there is found out at once.
    public init(socketPath: String, options: ClientOptions = ClientOptions()) throws(ClientError) {
        gate = ConnectionGate(path: socketPath, options: options)
        _ = try ping()
    }

    deinit { gate.close() }

    /// A round trip. Returns its seconds.
    public func ping() throws(ClientError) -> Double {
        let start = monotonicNanoseconds()
        _ = try call(.ping, Array("ping".utf8))
        return Double(monotonicNanoseconds() - start) / 1e9
    }

    /// Has everything written to disk that is only in memory.
    public func flush() throws(ClientError) -> (durableBlocks: Int, refusedBlocks: Int, reason: String?) {
        guard let reply = FlushReply(try call(.flush, [], slow: true)) else { throw Self.notUnderstood }
        return (
            Int(clamping: reply.durableBlocks), Int(clamping: reply.refusedBlocks),
            reply.reason.isEmpty ? nil : reply.reason
        )
    }

    /// Removes all blocks of a tenant from every tier; of the caller's own when nil. Returns how many.
    public func purge(tenant: String?) throws(ClientError) -> Int {
        var writer = WireWriter()
        writer.append(text: tenant ?? "", limit: 4096)
        guard let count = NumberList.uint64(try call(.purge, writer.bytes, slow: true)) else {
            throw Self.notUnderstood
        }
        return Int(clamping: count)
    }

    /// Asks the daemon to end: no new blocks, then a flush.
    public func drain() throws(ClientError) { _ = try call(.drain, [], slow: true) }

    /// The JSON of `DaemonStatistics`.
    ///
    /// - Parameter everything: of all tenants; for operators.
    package func statisticsJSON(everything: Bool, hottest: Int) throws(ClientError) -> [UInt8] {
        var writer = WireWriter()
        writer.append(everything ? 1 as UInt8 : 0)
        writer.append(UInt16(clamping: hottest))
        return try call(.statistics, writer.bytes)
    }

    /// The JSON of `[NamespaceStatistics]`.
    package func namespacesJSON(everything: Bool) throws(ClientError) -> [UInt8] {
        try call(.namespaces, [everything ? 1 : 0])
    }

    /// The JSON of `HealthReport`.
    package func healthJSON() throws(ClientError) -> [UInt8] { try call(.health, []) }

    private func call(_ verb: Verb, _ body: [UInt8], slow: Bool = false) throws(ClientError) -> [UInt8] {
        let deadline = gate.deadline(slow: slow)
        return try gate.with(deadline: deadline) { (connection, _) throws(ClientError) in
            try connection.call(verb, body, deadline: deadline)
        }
    }

    package static var notUnderstood: ClientError {
        ClientError(.protocolError, "the daemon's answer is not understood; are both of one version?")
    }
}
