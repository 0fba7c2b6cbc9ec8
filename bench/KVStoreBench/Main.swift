import ArgumentParser
import Crypto
import Foundation
import KVStore

/// Measures the store beside what it is compared with, in one run, and prints both and their ratio.
@main
struct KVStoreBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kvstore-bench",
        abstract: "Measure kvstore and a reference in the same run.",
        subcommands: [Memory.self, Lookup.self, Codec.self]
    )
}

/// Several measurements of one thing, in nanoseconds.
struct Sample {
    let nanoseconds: [Double]
    var median: Double { nanoseconds.sorted()[nanoseconds.count / 2] }
    var spread: String {
        let sorted = nanoseconds.sorted()
        return String(format: "%.2f–%.2f µs", sorted[0] / 1000, sorted[sorted.count - 1] / 1000)
    }

    /// `body` is timed as a whole and divided by `count`.
    static func measure(count: Int, _ body: () -> Void) -> Double {
        let elapsed = ContinuousClock().measure(body)
        return (Double(elapsed.components.attoseconds) / 1e9 + Double(elapsed.components.seconds) * 1e9) / Double(count)
    }
}

struct Output: ParsableArguments {
    @Flag(help: "Print one JSON object instead of text.")
    var json = false
    @Option(help: "Interleaved pairs of measurements.")
    var pairs = 15

    func show(_ rows: [(name: String, sample: Sample)], ratios: [String: Double]) throws {
        if json {
            let object: [String: Any] = [
                "medianNanoseconds": Dictionary(uniqueKeysWithValues: rows.map { ($0.name, $0.sample.median) }),
                "ratios": ratios,
            ]
            let data = try JSONSerialization.data(withJSONObject: object, options: [.prettyPrinted, .sortedKeys])
            print(String(decoding: data, as: UTF8.self))
            return
        }
        for row in rows {
            let name = row.name.padding(toLength: 44, withPad: " ", startingAt: 0)
            print("\(name) median \(String(format: "%9.2f", row.sample.median / 1000)) µs   (\(row.sample.spread))")
        }
        for (name, ratio) in ratios.sorted(by: { $0.key < $1.key }) {
            print("\(name): \(String(format: "%.3f", ratio))")
        }
    }
}

/// A memory hit of 64 blocks: match, lease, release, with the keys given.
struct Memory: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Match, lease and release 64 blocks that are in memory.")
    @OptionGroup var output: Output

    func run() throws {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 256 << 20))
        let space = try store.namespace(
            NamespaceIdentity(model: "bench", elementType: .bf16, opaqueBlockByteCount: 65536, tokensPerBlock: 16)
        )
        let prefix = space.prefix(tokens: (0..<1024).map { UInt32($0) })
        store.store(prefix) { _, _ in }
        let bytes = [UInt8](repeating: 1, count: 64 * 65536)
        var copy = bytes
        var hits: [Double] = []
        var copies: [Double] = []
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
        let (hit, copied) = (Sample(nanoseconds: hits), Sample(nanoseconds: copies))
        try output.show(
            [("match + lease + release, 64 blocks", hit), ("memcpy of the same 64 × 64 KiB", copied)],
            ratios: ["memoryHitVsMemcpy": hit.median / copied.median]
        )
    }
}

/// Hashing and looking up a prompt of 128k tokens, against the same hashes without a lookup.
struct Lookup: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Hash and look up 8192 blocks of 16 tokens, against 8192 chained SHA-256 calls."
    )
    @OptionGroup var output: Output

    func run() throws {
        let store = try BlockStore(Configuration(memoryCapacityBytes: 256 << 20))
        let space = try store.namespace(
            NamespaceIdentity(model: "bench", elementType: .bf16, opaqueBlockByteCount: 4096, tokensPerBlock: 16)
        )
        let tokens = (0..<131_072).map { UInt32($0 &* 2_654_435_761 & 0xFFFF) }
        let stored = space.prefix(tokens: tokens)
        store.store(stored) { _, _ in }
        precondition(store.match(stored).count == 8192)
        var lookups: [Double] = []
        var hashes: [Double] = []
        for _ in 0..<output.pairs {
            lookups.append(
                Sample.measure(count: 1) { precondition(store.match(space.prefix(tokens: tokens)).count == 8192) }
            )
            hashes.append(Sample.measure(count: 1) { Self.bareHashes(count: 8192) })
        }
        let (lookup, bare) = (Sample(nanoseconds: lookups), Sample(nanoseconds: hashes))
        try output.show(
            [("keys + match, 8192 blocks of 16 tokens", lookup), ("8192 chained SHA-256 of as many bytes", bare)],
            ratios: ["lookupVsBareHash": lookup.median / bare.median]
        )
    }

    /// The same number of SHA-256 calls over as many bytes, each fed with the digest before it.
    private static func bareHashes(count: Int) {
        var block = [UInt8](repeating: 7, count: 1 + 32 + 4 + 64 + 4)
        for _ in 0..<count {
            var hasher = SHA256()
            block.withUnsafeBytes { hasher.update(bufferPointer: $0) }
            let digest = hasher.finalize()
            digest.withUnsafeBytes { bytes in
                block.withUnsafeMutableBytes { target in
                    UnsafeMutableRawBufferPointer(rebasing: target[1..<33]).copyMemory(from: bytes)
                }
            }
        }
    }
}
