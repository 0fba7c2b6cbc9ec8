import FoundationEssentials

/// Real KV tensors on disk: raw little-endian files and a `manifest.json` that lists them.
enum PayloadDirectory {
    private struct Manifest: Decodable {
        struct Block: Decodable {
            var file: String
            var kind: String?
            var dtype: String
            var bytes: Int?
        }
        var blocks: [Block]
    }

    /// More would only slow the start down; the templates are cut from what is read.
    private static let byteCountLimit = 64 << 20

    /// The bytes of all bf16 K/V files, in the order of the manifest.
    static func read(_ directory: String) throws(StartError) -> [UInt8] {
        let path = directory + "/manifest.json"
        let text = try InputFile(path: path).readAll(limit: 16 << 20)
        let manifest: Manifest
        do {
            manifest = try JSONDecoder().decode(Manifest.self, from: Data(text))
        } catch {
            throw StartError(
                "'\(path)' is not a payload manifest: it needs {\"blocks\": [{\"file\", \"kind\", \"dtype\"}, …]}"
            )
        }
        var bytes: [UInt8] = []
        // Queries ("q") are listed beside K/V for codec tests, but no cache ever holds them.
        for block in manifest.blocks where block.dtype == "bf16" && block.kind ?? "kv" == "kv" {
            let file = try InputFile(path: directory + "/" + block.file).readAll(limit: byteCountLimit)
            guard file.count % 2 == 0, block.bytes == nil || block.bytes == file.count else {
                throw StartError(
                    "'\(directory)/\(block.file)' has \(file.count) bytes where the manifest says "
                        + "\(block.bytes.map(String.init) ?? "whole 16-bit elements"); copy the directory again"
                )
            }
            bytes += file
            if bytes.count >= byteCountLimit { break }
        }
        guard !bytes.isEmpty else { throw StartError("'\(path)' lists no bf16 K/V file") }
        return bytes
    }
}
