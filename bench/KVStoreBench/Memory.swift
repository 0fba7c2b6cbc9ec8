import ArgumentParser
import KVStore

/// A memory hit of 64 blocks, and what memory the store takes beside the payload.
struct Memory: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Match, lease and release 64 blocks in memory; memory beside the payload.",
        discussion: """
            The hit: match, acquire and release of a prefix of 64 blocks of 64 KiB, keys given, against a memcpy of the \
            same 4 MiB, which is what a cache without leases would do on top.

            The overhead: a store is filled until it evicts. What it takes (by its own account, and by what the process \
            grew, the larger of both) beyond the bytes of the blocks it then holds, as a share of its cap. With a disk tier \
            the buffer for writing is part of it.
            """
    )
    @OptionGroup var output: Output
    @OptionGroup var place: DiskPlace

    func run() throws {
        // First, while the process has no memory of other measurements to use again.
        let alone = try MemoryOverhead(disk: nil)
        let scratch = try ScratchDirectory(in: place, neededBytes: 2 << 30)
        let withDisk = try MemoryOverhead(disk: DiskConfiguration(path: scratch.path, capacityBytes: 1 << 30))
        let (hit, copied) = try measureHits()
        var report = Report(conditions: ["64 blocks of 64 KiB, keys given; \(output.pairs) rounds"])
        report.rows = [
            ("match + lease + release, 64 blocks", hit), ("memcpy of the same 4 MiB", copied),
            ("payload of a full store, cap 256 MiB", alone.payload), ("accounted by the store", alone.accounted),
            ("growth of the process", alone.growth), ("with a disk tier: payload", withDisk.payload),
            ("with a disk tier: accounted", withDisk.accounted), ("with a disk tier: growth", withDisk.growth),
        ]
        report.comparisons = [
            Comparison("memoryHitMicroseconds", hit.nanoseconds.map { $0 / 1000 }),
            Comparison("memoryHitVsMemcpy", hit, over: copied),
            Comparison("memoryOverhead", [alone.shareOfCap]),
            Comparison("memoryOverheadWithDisk", [withDisk.shareOfCap]),
        ]
        try output.show(report)
    }

    private func measureHits() throws -> (hit: Sample, copied: Sample) {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 256 << 20))
        let space = try store.namespace(
            NamespaceIdentity(model: "bench", elementType: .bf16, opaqueBlockByteCount: 65536, tokensPerBlock: 16)
        )
        let prefix = space.prefix(tokens: (0..<1024).map { UInt32($0) })
        store.store(prefix) { _, _ in }
        let bytes = [UInt8](repeating: 1, count: 64 * 65536)
        var copy = bytes
        var (hits, copies): ([Double], [Double]) = ([], [])
        for _ in 0..<output.pairs {
            hits.append(
                Sample.measure(count: 2000) {
                    for _ in 0..<2000 {
                        precondition(store.match(prefix).count == 64)
                        let lease = store.acquire(prefix)
                        let count = lease?.count ?? 0
                        precondition(count == 64)
                    }
                }
            )
            copies.append(
                Sample.measure(count: 20) {
                    for _ in 0..<20 {
                        bytes.withUnsafeBytes { source in copy.withUnsafeMutableBytes { $0.copyMemory(from: source) } }
                    }
                }
            )
        }
        return (Sample(nanoseconds: hits), Sample(nanoseconds: copies))
    }
}

/// What a full store takes beside the bytes of its blocks.
struct MemoryOverhead {
    let payload: Sample
    let accounted: Sample
    let growth: Sample
    let shareOfCap: Double

    init(disk: DiskConfiguration?) throws {
        let (capacity, blockBytes) = (256 << 20, 64 << 10)
        let before = Usage.residentBytes
        let store = try BlockStore(Configuration(memoryCapacityBytes: capacity, disk: disk))
        defer { store.close() }
        let space = try store.namespace(
            NamespaceIdentity(model: "bench", elementType: .bf16, opaqueBlockByteCount: blockBytes, tokensPerBlock: 16)
        )
        try store.requireDisk()
        // Twice what fits, every page written: whatever is mapped is then resident.
        for chain in 0..<2 * capacity / blockBytes / 64 {
            let prefix = space.prefix(tokens: (0..<1024).map { UInt32(chain << 10 | $0) })
            store.store(prefix) { _, bytes in
                bytes.withUnsafeMutableBytes { _ = $0.initializeMemory(as: UInt8.self, repeating: UInt8(chain & 255)) }
            }
        }
        let statistics = store.statistics
        let payloadBytes = statistics.memory.blocks * blockBytes
        let grown = Usage.residentBytes - before
        payload = Sample([Double(payloadBytes)], .bytes)
        accounted = Sample([Double(statistics.memory.bytes)], .bytes)
        growth = Sample([Double(grown)], .bytes)
        shareOfCap = Double(max(statistics.memory.bytes, grown) - payloadBytes) / Double(capacity)
    }
}
