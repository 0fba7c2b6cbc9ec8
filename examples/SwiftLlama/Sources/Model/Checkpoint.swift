internal import Crypto
internal import Foundation

/// A Hugging Face model directory: `config.json` and one or more safetensors files.
struct Checkpoint {
    /// The shape.
    let configuration: ModelConfiguration
    private let files: [SafeTensors]
    private let tensors: [String: Tensor]
    private let path: String

    /// Opens a directory; weights are mapped, not read.
    init(_ path: String) throws(ModelError) {
        self.path = path
        configuration = try ModelConfiguration(json: Self.read("\(path)/config.json"), path: "\(path)/config.json")
        var names = ["model.safetensors"]
        let index = "\(path)/model.safetensors.index.json"
        if FileManager.default.fileExists(atPath: index) {
            struct Index: Decodable { let weight_map: [String: String] }
            guard let decoded = try? JSONDecoder().decode(Index.self, from: Self.read(index)) else {
                throw ModelError("\(index): not understood")
            }
            names = Set(decoded.weight_map.values).sorted()
        }
        var files: [SafeTensors] = []
        var tensors: [String: Tensor] = [:]
        for name in names {
            guard !name.contains("/") else { throw ModelError("\(index): \(name) is not a file's name") }
            let file = try SafeTensors("\(path)/\(name)")
            tensors.merge(file.tensors) { first, _ in first }
            files.append(file)
        }
        self.files = files
        self.tensors = tensors
    }

    /// A tensor of exactly this shape.
    func tensor(_ name: String, _ shape: Int...) throws(ModelError) -> Tensor {
        guard let tensor = tensors[name] else { throw ModelError("\(path): tensor \(name) is missing") }
        guard tensor.shape == shape else {
            throw ModelError("\(path): tensor \(name) has shape \(tensor.shape), not \(shape)")
        }
        return tensor
    }

    /// SHA-256 of all weight files, which names the model to the cache: other weights, other keys.
    var weightsDigest: [UInt8] {
        var hasher = SHA256()
        for file in files {
            file.file.withBytes(0..<file.file.byteCount) { bytes in
                // Safe: the hasher reads during this call only.
                unsafe bytes.withUnsafeBytes { unsafe hasher.update(bufferPointer: $0) }
            }
        }
        return Array(hasher.finalize())
    }

    private static func read(_ path: String) throws(ModelError) -> Data {
        guard let data = FileManager.default.contents(atPath: path) else { throw ModelError("\(path): cannot be read") }
        return data
    }
}
