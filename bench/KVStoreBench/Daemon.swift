import ArgumentParser
import Foundation
import KVStore
import KVStoreIPC

/// The daemon against what else a node could share a cache through.
struct Daemon: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Put and get over the daemon's socket, against redis-server and memcached.",
        discussion: """
            Starts `kvstore serve`, redis-server and memcached, each on a Unix socket of its own in a new directory, and \
            stops them at the end. Each round measures all of them once, one client at first, then several at once. What \
            is not installed is left out, and the output says so.

            A get of ours is acquire and release: the bytes are then readable in place. Redis and memcached copy them to \
            the client, so a row with a copy of every byte stands beside. A put of ours is reserve, fill and commit; \
            'commit' is the daemon's part alone. The echo is 64 bytes to a thread and back over a Unix socket, \
            and to a server on SwiftNIO, which the daemon is built on, that does nothing else.
            """
    )
    @OptionGroup var output: Output
    @Option(help: "Memory of each server.")
    var memory = ByteCount(512 << 20)
    @Option(help: "Most clients at once.")
    var clients = 8

    private static let sizes = [64 << 10, 512 << 10, 2 << 20, 8 << 20]

    func validate() throws {
        guard (1...64).contains(clients) else { throw ValidationError("--clients must be 1 to 64") }
    }

    func run() throws {
        let rounds = output.pairsGiven ?? 10
        let servers = try ServerSet(memoryBytes: memory.bytes, blockByteCounts: Self.sizes)
        var rows = SampleTable()
        let (echo, loopEcho) = (try Echo.ofThread(), try Echo.ofEventLoop())
        let ours = try Self.sizes.map { try OurClient(servers.ourSockets[$0]!, blockByteCount: $0) }
        // A cache that is at work is full: a put then takes the place of an older block.
        for client in ours { client.fill(byteCount: memory.bytes) }
        let rivals = try servers.rivals.flatMap { rival in
            try Self.sizes.map { size in (rival, size, try rival.connect()) }
        }
        for round in 0..<rounds {
            output.progress("round \(round + 1) of \(rounds)")
            rows.add("echo of 64 bytes", echo.measure())
            rows.add("echo of 64 bytes by SwiftNIO", loopEcho.measure())
            for client in ours {
                let size = ByteCount(client.blockByteCount)
                let puts = try client.measurePuts()
                rows.add("kvstore put, \(size)", puts.whole)
                rows.add("kvstore commit, \(size)", puts.commit)
                rows.add("kvstore hit, \(size)", client.measureHits(readingAll: false))
                rows.add("kvstore hit and copy out, \(size)", client.measureHits(readingAll: true))
                rows.add("memcpy, \(size)", client.measureCopy())
            }
            for (rival, size, connection) in rivals {
                rows.add("\(rival.name) set, \(ByteCount(size))", connection.measure(.set, byteCount: size))
                rows.add("\(rival.name) get, \(ByteCount(size))", connection.measure(.get, byteCount: size))
            }
            for (count, size) in concurrent { try measureManyClients(count, size, servers, &rows) }
        }
        try output.show(report(rows, servers, rounds: rounds))
    }

    /// How many clients at once with blocks of which size: more and more with 2 MiB, all of them with each size.
    private var concurrent: [(count: Int, size: Int)] {
        guard clients > 1 else { return [] }
        return [2, 4].filter { $0 < clients }.map { ($0, 2 << 20) } + Self.sizes.map { (clients, $0) }
    }

    /// So many clients at once, each on a connection of its own; nanoseconds of one operation as each client sees it.
    private func measureManyClients(
        _ count: Int,
        _ size: Int,
        _ servers: ServerSet,
        _ rows: inout SampleTable
    ) throws {
        let what = "\(ByteCount(size)), \(count) clients"
        let mine = try (0..<count).map { _ in try OurClient(servers.ourSockets[size]!, blockByteCount: size) }
        rows.add("kvstore hit, \(what)", try inParallel(count) { mine[$0].measureHits(readingAll: false) })
        // Eight places of 8 MiB are more than the daemon lends for preparing out of 512 MiB.
        let operations: [Rival.Operation] = size > 2 << 20 ? [.get] : [.get, .set]
        if operations.contains(.set) {
            rows.add("kvstore put, \(what)", try inParallel(count) { try mine[$0].measurePuts().whole })
        }
        for rival in servers.rivals {
            let connections = try (0..<count).map { _ in try rival.connect() }
            for operation in operations {
                rows.add(
                    "\(rival.name) \(operation), \(what)",
                    try inParallel(count) { connections[$0].measure(operation, byteCount: size) }
                )
            }
        }
    }

    /// The median over the clients.
    private func inParallel(_ count: Int, _ body: @escaping @Sendable (Int) throws -> Double) throws -> Double {
        let results = LockedArray(count)
        let group = DispatchGroup()
        for index in 0..<count {
            group.enter()
            Thread {
                results.set(index, Result { try body(index) })
                group.leave()
            }.start()
        }
        group.wait()
        return Sample(nanoseconds: try results.values.map { try $0.get() }).median
    }

    private func report(_ rows: SampleTable, _ servers: ServerSet, rounds: Int) -> Report {
        var report = Report()
        report.conditions = [
            "Unix sockets, \(rounds) rounds; each value is the median of one round's operations",
            "kvstore serve without a disk tier, \(memory) and full; one daemon for each size of blocks",
        ]
        report.conditions += servers.rivals.map { "\($0.name): \($0.version)" }
        report.rows = rows.all
        func compare(_ name: String, _ ours: String, over reference: String) {
            guard let ours = rows[ours], let reference = rows[reference] else { return }
            report.comparisons.append(Comparison(name, ours, over: reference))
        }
        for size in Self.sizes.map({ ByteCount($0) }) {
            compare("hitVsEcho\(size)", "kvstore hit, \(size)", over: "echo of 64 bytes")
            compare("hitVsEventLoopEcho\(size)", "kvstore hit, \(size)", over: "echo of 64 bytes by SwiftNIO")
            compare("commitSpeedVsMemcpy\(size)", "memcpy, \(size)", over: "kvstore commit, \(size)")
            for rival in servers.rivals.map(\.name) {
                let title = rival.capitalized
                compare("getVs\(title)\(size)", "\(rival) get, \(size)", over: "kvstore hit, \(size)")
                compare(
                    "getAndCopyVs\(title)\(size)", "\(rival) get, \(size)", over: "kvstore hit and copy out, \(size)")
                compare("commitVs\(title)\(size)", "\(rival) set, \(size)", over: "kvstore commit, \(size)")
                compare("putVs\(title)\(size)", "\(rival) set, \(size)", over: "kvstore put, \(size)")
            }
        }
        for (count, size) in concurrent {
            let what = "\(ByteCount(size)), \(count) clients"
            for rival in servers.rivals.map(\.name) {
                let title = "\(rival.capitalized)\(ByteCount(size))\(count)Clients"
                compare("getVs\(title)", "\(rival) get, \(what)", over: "kvstore hit, \(what)")
                compare("putVs\(title)", "\(rival) set, \(what)", over: "kvstore put, \(what)")
            }
        }
        report.notes = servers.missing.map { "\($0) is not installed: its rows are missing (apt-get install \($0))" }
        report.notes.append("getVs…, commitVs… and putVs… are how many times faster kvstore is")
        return report
    }
}

/// Values by row, in the order in which the rows came first.
struct SampleTable {
    private var order: [String] = []
    private var values: [String: [Double]] = [:]

    mutating func add(_ name: String, _ nanoseconds: Double) {
        if values[name] == nil { order.append(name) }
        values[name, default: []].append(nanoseconds)
    }

    subscript(name: String) -> Sample? { values[name].map { Sample(nanoseconds: $0) } }
    var all: [(name: String, sample: Sample)] { order.map { ($0, self[$0]!) } }
}

/// One result for each thread.
///
/// @unchecked Sendable: guarded by its lock.
private final class LockedArray: @unchecked Sendable {
    private let lock = NSLock()
    private var storage: [Result<Double, any Error>]
    init(_ count: Int) { storage = Array(repeating: .success(0), count: count) }
    func set(_ index: Int, _ value: Result<Double, any Error>) { lock.withLock { storage[index] = value } }
    var values: [Result<Double, any Error>] { lock.withLock { storage } }
}

/// A client of the daemon with a prompt of its own.
///
/// @unchecked Sendable: each is used by one thread at a time.
final class OurClient: @unchecked Sendable {
    let blockByteCount: Int
    private let store: RemoteBlockStore
    private let space: Namespace
    private let hot: Prefix
    private var nextToken: UInt32
    private var copy: [UInt8]
    private var source: [UInt8]
    /// Larger than the caches.
    private var cold: [UInt8] = []

    init(_ socketPath: String, blockByteCount: Int) throws {
        self.blockByteCount = blockByteCount
        var options = ClientOptions()
        options.timeoutSeconds = 10
        store = RemoteBlockStore(socketPath: socketPath, options: options)
        space = try store.namespace(
            NamespaceIdentity(
                model: "bench", elementType: .bf16, opaqueBlockByteCount: blockByteCount, tokensPerBlock: 1)
        )
        hot = space.prefix(tokens: [1])
        nextToken = UInt32.random(in: 1000...(1 << 31))
        copy = [UInt8](repeating: 1, count: blockByteCount)
        source = [UInt8](repeating: 2, count: blockByteCount)
        store.store(hot) { _, span in
            for offset in stride(from: 0, to: span.byteCount, by: 4096) {
                span.storeBytes(of: 7, toByteOffset: offset, as: UInt8.self)
            }
        }
        precondition(store.match(hot).count == 1, "the daemon does not store")
    }

    /// Stores other blocks until the memory has been used once over.
    func fill(byteCount: Int) {
        for _ in 0..<byteCount / blockByteCount + 8 {
            nextToken &+= 1
            store.store(space.prefix(tokens: [nextToken])) { _, span in span.storeBytes(of: 1, as: UInt8.self) }
        }
        store.store(hot) { _, span in span.storeBytes(of: 7, as: UInt8.self) }
    }

    private var operationCount: Int { max(20, min(400, (128 << 20) / blockByteCount)) }

    /// Median of one acquire and release.
    func measureHits(readingAll: Bool) -> Double {
        let values = (0..<operationCount).map { _ in
            Sample.nanoseconds {
                guard let lease = store.acquire(hot, memoryOnly: true) else { preconditionFailure("a hit was a miss") }
                if readingAll { copyOut(lease.bytes(at: 0)) }
            }
        }
        return Sample(nanoseconds: values).median
    }

    private func copyOut(_ span: RawSpan) {
        copy.withUnsafeMutableBytes { target in
            span.withUnsafeBytes { target.copyMemory(from: $0) }
        }
    }

    /// Medians of reserve, fill and commit together, and of commit alone.
    func measurePuts() throws -> (whole: Double, commit: Double) {
        var (whole, commits): ([Double], [Double]) = ([], [])
        for _ in 0..<max(10, operationCount / 4) {
            nextToken &+= 1
            let prefix = space.prefix(tokens: [nextToken])
            let start = ContinuousClock.now
            guard var reservation = store.reserve(prefix) else {
                let size = ByteCount(blockByteCount)
                throw BenchError("the daemon lends no place for a block of \(size); give it more with --memory")
            }
            reservation.withMutableBytes(at: 0) { span in
                span.withUnsafeMutableBytes { target in source.withUnsafeBytes { target.copyMemory(from: $0) } }
            }
            let filled = ContinuousClock.now
            let visible = reservation.commit()
            precondition(visible == 1, "a commit was refused")
            let end = ContinuousClock.now
            whole.append((end - start) / .nanoseconds(1))
            commits.append((end - filled) / .nanoseconds(1))
        }
        return (Sample(nanoseconds: whole).median, Sample(nanoseconds: commits).median)
    }

    /// Median of a copy to memory that was not used for long, as a slot's is, from memory that was just written, as
    /// staging is.
    func measureCopy() -> Double {
        if cold.isEmpty { cold = [UInt8](repeating: 3, count: 256 << 20) }
        var offset = 0
        let values = (0..<operationCount).map { _ in
            offset = offset + 2 * blockByteCount > cold.count ? 0 : offset + blockByteCount
            return Sample.nanoseconds {
                cold.withUnsafeMutableBytes { target in
                    let place = UnsafeMutableRawBufferPointer(rebasing: target[offset..<offset + blockByteCount])
                    source.withUnsafeBytes { place.copyMemory(from: $0) }
                }
            }
        }
        return Sample(nanoseconds: values).median
    }
}
