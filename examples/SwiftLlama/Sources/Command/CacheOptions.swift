internal import ArgumentParser
internal import KVStore
internal import KVStoreIPC

/// Where the cache is: nowhere, in this process, or in the daemon.
struct CacheOptions: ParsableArguments {
    @Option(name: .customLong("store"), help: "Directory of the store's disk tier; made if missing.")
    var directory: String?
    @Option(help: "Memory of the store in this process, such as 256MiB; used without --store as well.")
    var memory: ByteCount?
    @Option(help: "Size of the store's disk tier.") var disk = ByteCount(bytes: 2 << 30)
    @Option(help: "Socket of a kvstore daemon, in place of a store in this process.") var socket: String?

    func validate() throws {
        if socket != nil, directory != nil || memory != nil {
            throw ValidationError("--socket is a daemon's cache; --store and --memory make one in this process")
        }
    }

    /// Opens the cache; nil when none was asked for. A store on disk is warm when this returns.
    func open() throws -> (any BlockCache)? {
        if let socket { return RemoteBlockStore(socketPath: socket) }
        guard directory != nil || memory != nil else { return nil }
        return try Self.store(
            directory: directory, memoryBytes: memory?.bytes ?? 512 << 20, diskBytes: disk.bytes)
    }

    /// Opens a store in this process and waits for its index.
    static func store(directory: String?, memoryBytes: Int, diskBytes: Int) throws -> BlockStore {
        let disk = directory.map { DiskConfiguration(path: $0, capacityBytes: diskBytes) }
        let store = try BlockStore(Configuration(memoryCapacityBytes: memoryBytes, disk: disk))
        store.waitUntilWarm()
        return store
    }
}

/// A number of bytes as people write it: `64KiB`, `256MiB`, `2GiB` or plain bytes.
struct ByteCount: ExpressibleByArgument, Sendable {
    var bytes: Int

    init(bytes: Int) { self.bytes = bytes }

    init?(argument: String) {
        let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]
        let unit = units.first { argument.hasSuffix($0.0) }
        let digits = unit.map { argument.dropLast($0.0.count) } ?? argument[...]
        guard let number = Int(digits), number > 0 else { return nil }
        let (product, overflow) = number.multipliedReportingOverflow(by: unit?.1 ?? 1)
        guard !overflow else { return nil }
        bytes = product
    }

    var defaultValueDescription: String { "\(bytes >> 20)MiB" }
}
