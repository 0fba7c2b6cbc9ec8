import Foundation
import KVStoreTestSupport

@testable import KVStore

/// A directory of a disk tier, what is in it, and where: the start of every damage case.
///
/// Conversations 0 ..< 9, stored two turns at a time with a flush after each, so that every chain runs over several
/// segments. Conversation 3 lost its turns from 6 on and conversation 8 from 9 on to a removal; the namespace of
/// conversations 1, 4 and 7 was purged.
struct DamageBase {
    static let ids = 0..<9
    private static let removals = [3: 6, 8: 9]

    let directory: TemporaryDirectory
    let files: [File]
    /// Segment of each leading block of a conversation that can be found.
    let segments: [Int: [UInt32]]

    var path: String { directory.path + "/store" }

    struct File: Hashable {
        enum Kind: Hashable, CaseIterable {
            case segment, index, writeAheadLog, manifest, current, options, identity, removals, other
        }
        var name: String
        var kind: Kind
        var segment: UInt32?
        var byteCount: Int
    }

    private static func configuration(_ path: String) -> Configuration {
        var disk = DiskConfiguration(path: path, capacityBytes: 64 << 20)
        disk.writeBackDelaySeconds = nil
        // Enough that a batch fits a segment (7/16 of the spill buffer at most): each flush then makes just one.
        return Configuration(memoryCapacityBytes: 32 << 20, disk: disk)
    }

    /// The directory as a kill leaves it, and as an orderly close leaves it.
    static func make() throws -> (killed: DamageBase, closed: DamageBase) {
        let (open, killed) = (TemporaryDirectory("damage"), TemporaryDirectory("damage"))
        let path = open.path + "/store"
        do {
            let store = try BlockStore(configuration(path))
            guard store.waitUntilWarm() else { throw WorkerError("the disk tier does not open") }
            for batch in 0..<5 {
                try write(batch, ids, store)
                if batch == 3 { try remove(3, store, namesAll: false) }
            }
            store.close()
        }
        let log = try SegmentLog(directory: path)
        let purged = NamespaceIdentity.test(tenant: "tenant1", model: "model1", blockBytes: Conversation.blockSizes[1])
        try log.purge(namespace: purged.fingerprint, tenant: purged.tenantHash)
        log.close()
        let store = try BlockStore(configuration(path))
        guard store.waitUntilWarm() else { throw WorkerError("the disk tier does not open") }
        try write(5, ids.filter { $0 % 3 != 1 && $0 != 3 }, store)
        try remove(8, store, namesAll: true)
        guard store.flush().refusedBlocks == 0 else { throw WorkerError("flush refused blocks") }
        try FileManager.default.copyItem(atPath: path, toPath: killed.path + "/store")
        store.close()
        return (try DamageBase(killed), try DamageBase(open))
    }

    private static func write(_ batch: Int, _ ids: some Sequence<Int>, _ store: BlockStore) throws {
        let spaces = try Conversation.namespaces(of: store)
        for id in ids where !(id == 3 && batch > 3) {
            let prefix = Conversation(id: id).prefix(spaces, turns: 2 * batch + 2)
            store.store(prefix) { number, span in Payload.fill(&span, key: prefix.keys[number]) }
        }
        guard store.flush().refusedBlocks == 0 else { throw WorkerError("flush refused blocks") }
    }

    private static func remove(_ id: Int, _ store: BlockStore, namesAll: Bool) throws {
        let turn = removals[id]!
        let turns = namesAll ? Conversation.turnLimit : turn + 1
        let prefix = Conversation(id: id).prefix(try Conversation.namespaces(of: store), turns: turns)
        store.remove(prefix, from: Conversation.headCount + turn)
    }

    /// Looks into a copy, so that looking changes nothing.
    private init(_ directory: TemporaryDirectory) throws {
        self.directory = directory
        let copy = TemporaryDirectory("damage")
        try FileManager.default.copyItem(atPath: directory.path + "/store", toPath: copy.path + "/store")
        let log = try SegmentLog(directory: copy.path + "/store")
        var segmentOfKey: [BlockKey: UInt32] = [:]
        try log.forEachRow {
            segmentOfKey[$0.key] = $0.segment
            return true
        }
        var segmentOfFile: [String: UInt32] = [:]
        for table in try log.liveTables() {
            if let segment = table.segment { segmentOfFile["db/" + table.name] = segment }
        }
        log.close()
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        let spaces = try Conversation.namespaces(of: store)
        var segments: [Int: [UInt32]] = [:]
        for id in Self.ids {
            let keys = Conversation(id: id).prefix(spaces).keys
            segments[id] = keys.prefix { segmentOfKey[$0] != nil }.map { segmentOfKey[$0]! }
        }
        self.segments = segments
        let root = directory.path + "/store"
        files = try (DirectoryMeasure.files(in: root + "/db").map { "db/" + $0 } + ["removals.log"]).map { name in
            let attributes = try FileManager.default.attributesOfItem(atPath: root + "/" + name)
            return File(
                name: name,
                kind: Self.kind(name, isSegment: segmentOfFile[name] != nil),
                segment: segmentOfFile[name],
                byteCount: attributes[.size] as? Int ?? 0
            )
        }
    }

    private static func kind(_ path: String, isSegment: Bool) -> File.Kind {
        let name = path.split(separator: "/").last!
        if name == "removals.log" { return .removals }
        if name.hasSuffix(".sst") { return isSegment ? .segment : .index }
        if name.hasSuffix(".log") { return .writeAheadLog }
        if name.hasPrefix("MANIFEST") { return .manifest }
        if name.hasPrefix("OPTIONS") { return .options }
        return name == "CURRENT" ? .current : name == "IDENTITY" ? .identity : .other
    }
}

/// One change of one file.
enum Mutation: CustomStringConvertible {
    case flipBits([(offset: Int, bit: Int)])
    case cut(to: Int)
    case zeroPage(at: Int)
    case delete
    case append(Int)
    /// The content of another file under this one's name.
    case replace(by: String)

    static func random(of file: DamageBase.File, in base: DamageBase, _ random: inout SeededRandom) -> Mutation {
        let end = max(1, file.byteCount)
        switch Int.random(in: 0..<12, using: &random) {
        case 0..<3: return .flipBits([(Int.random(in: 0..<end, using: &random), Int.random(in: 0..<8, using: &random))])
        case 3:
            return .flipBits(
                (0..<20).map { _ in (Int.random(in: 0..<end, using: &random), Int.random(in: 0..<8, using: &random)) }
            )
        case 4..<6: return .cut(to: Int.random(in: 0..<end, using: &random))
        case 6: return .cut(to: max(0, end - Int.random(in: 1...64, using: &random)))
        case 7..<9: return .zeroPage(at: Int.random(in: 0..<end, using: &random) / 4096 * 4096)
        case 9: return .delete
        case 10: return .append(Int.random(in: 1...5000, using: &random))
        default: return .replace(by: base.files.randomElement(using: &random)!.name)
        }
    }

    func apply(to path: String, base: String) throws {
        if case .delete = self { return try FileManager.default.removeItem(atPath: path) }
        var bytes = try [UInt8](Data(contentsOf: URL(fileURLWithPath: path)))
        switch self {
        case .flipBits(let places):
            for place in places where place.offset < bytes.count { bytes[place.offset] ^= 1 << UInt8(place.bit) }
        case .cut(let count): bytes.removeSubrange(min(count, bytes.count)...)
        case .zeroPage(let offset):
            for index in min(offset, bytes.count)..<min(offset + 4096, bytes.count) { bytes[index] = 0 }
        case .append(let count): bytes += [UInt8](repeating: 0xA5, count: count)
        case .replace(let other): bytes = try [UInt8](Data(contentsOf: URL(fileURLWithPath: base + "/" + other)))
        case .delete: break
        }
        try Data(bytes).write(to: URL(fileURLWithPath: path))
    }

    var description: String {
        switch self {
        case .flipBits(let places): places.count == 1 ? "flip \(places[0])" : "flip \(places.count) bits"
        case .cut(let count): "cut to \(count)"
        case .zeroPage(let offset): "zero page at \(offset)"
        case .delete: "delete"
        case .append(let count): "append \(count)"
        case .replace(let other): "replace by \(other)"
        }
    }
}
