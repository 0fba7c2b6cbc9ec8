import Foundation
import KVStore

/// A directory of real K/V tensors, as raw files that its `manifest.json` lists.
struct SampleFiles {
    /// One tensor file.
    struct File {
        let path: String
        let geometry: FrameGeometry

        func bytes() throws -> [UInt8] {
            let bytes = try [UInt8](Data(contentsOf: URL(filePath: path)))
            guard bytes.count == geometry.rawByteCount else {
                throw BenchError("'\(path)' is not as long as the manifest says; copy the directory again")
            }
            return bytes
        }
    }

    private struct Manifest: Decodable {
        struct Block: Decodable {
            var file: String
            var kind: String
            var dtype: String
            var tokens: UInt16
            // Only K/V files have these.
            var layers: UInt16?
            var kv_heads: UInt16?
            var head_dim: UInt16?
        }
        var blocks: [Block]
    }

    private let directory: String
    private let manifest: Manifest

    init(in directory: String) throws {
        self.directory = directory
        let text = try Data(contentsOf: URL(filePath: directory).appending(path: "manifest.json"))
        manifest = try JSONDecoder().decode(Manifest.self, from: text)
    }

    /// The K/V files of an element type. Queries are listed too, but no cache ever holds them.
    func tensors(of type: ElementType, leastTokens: Int = 1) throws -> [File] {
        let files = manifest.blocks.compactMap { block -> File? in
            guard block.kind == "kv", block.dtype == (type == .fp16 ? "fp16" : "bf16"), block.tokens >= leastTokens,
                let layers = block.layers, let heads = block.kv_heads, let dimension = block.head_dim
            else { return nil }
            let geometry = FrameGeometry(
                elementType: type,
                tokens: block.tokens,
                layers: layers,
                keyHeads: heads,
                headDimension: dimension
            )
            return File(path: "\(directory)/\(block.file)", geometry: geometry)
        }
        guard !files.isEmpty else { throw BenchError("'\(directory)/manifest.json' lists no \(type) K/V file") }
        return files
    }

    /// All of them, one after the other.
    func bytes(of type: ElementType) throws -> [UInt8] { try tensors(of: type).flatMap { try $0.bytes() } }
}
