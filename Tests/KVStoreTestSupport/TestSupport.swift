import Foundation
import KVStore

/// A directory that goes away with the value.
public final class TemporaryDirectory {
    /// Where it is.
    public let path: String

    /// Makes it.
    public init(_ name: String = "test") {
        let base = ProcessInfo.processInfo.environment["TMPDIR"] ?? "/tmp"
        path = "\(base)/kvstore-\(name)-\(ProcessInfo.processInfo.processIdentifier)-\(UInt32.random(in: 0...(.max)))"
        try! FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// Runs a piece of code while there is another copy of the descriptor that this process has on a file: what a child has
/// that was forked and did not exec yet.
public func withInheritedDescriptor<Result>(of path: String, _ body: () throws -> Result) throws -> Result {
    let names = try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")
    let path = URL(fileURLWithPath: path).resolvingSymlinksInPath().path
    let held = names.compactMap(Int32.init).first {
        (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\($0)")) == path
    }
    let copy = dup(held ?? -1)
    precondition(copy >= 0, "\(path) is not open")
    defer { close(copy) }
    return try body()
}

/// SplitMix64: the same numbers for the same seed, everywhere.
public struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64
    /// Starts a sequence.
    public init(seed: UInt64) { state = seed }
    /// The next number.
    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

/// The bytes that belong to a block: every 8-byte word depends on the key and on where it stands, so that a block served
/// under another key, shifted or stale never passes.
public enum Payload {
    /// Writes a block's bytes.
    public static func fill(_ span: inout MutableRawSpan, key: BlockKey, version: UInt64 = 0) {
        var random = SeededRandom(seed: key.wordForTests ^ (version &* 0x1234_5678_9ABC_DEF1))
        for offset in stride(from: 0, to: span.byteCount / 8 * 8, by: 8) {
            span.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
        }
    }

    /// Whether these are a block's bytes.
    public static func matches(_ span: RawSpan, key: BlockKey, version: UInt64 = 0) -> Bool {
        var random = SeededRandom(seed: key.wordForTests ^ (version &* 0x1234_5678_9ABC_DEF1))
        for offset in stride(from: 0, to: span.byteCount / 8 * 8, by: 8)
        where span.unsafeLoadUnaligned(fromByteOffset: offset, as: UInt64.self) != random.next() {
            return false
        }
        return true
    }
}

extension BlockKey {
    /// All 32 bytes folded into a word.
    public var wordForTests: UInt64 {
        bytes.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
    }
}

extension NamespaceIdentity {
    /// A namespace of small opaque blocks.
    public static func test(tenant: String = "tenant", model: String = "model", blockBytes: Int = 4096)
        -> NamespaceIdentity
    {
        var identity = NamespaceIdentity(
            model: model,
            revision: "r1",
            elementType: .bf16,
            opaqueBlockByteCount: blockBytes,
            tokensPerBlock: 16
        )
        identity.tenant = tenant
        return identity
    }
}

extension Namespace {
    /// A prefix of caller-made keys, one per number.
    public func prefix(_ path: [Int]) -> Prefix {
        prefix(callerKeys: path.map { number in (0..<8).map { UInt8(truncatingIfNeeded: number >> ($0 * 8)) } })
    }
}
