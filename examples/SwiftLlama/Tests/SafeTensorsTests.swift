import Foundation
import KVStoreTestSupport
import Testing

@testable import SwiftLlama

@Suite("Model files")
struct SafeTensorsTests {
    /// A file with this header and `dataBytes` bytes of 1, 2, 3 ….
    static func file(_ header: String, length: UInt64? = nil, dataBytes: Int = 16) -> [UInt8] {
        let length = length ?? UInt64(header.utf8.count)
        let bytes = (0..<8).map { UInt8(truncatingIfNeeded: length >> UInt64(8 * $0)) }
        return bytes + Array(header.utf8) + (0..<dataBytes).map { UInt8($0 + 1) }
    }

    static func read(_ bytes: [UInt8]) throws -> SafeTensors {
        let directory = TemporaryDirectory("safetensors")
        let path = directory.path + "/model.safetensors"
        try Data(bytes).write(to: URL(filePath: path))
        return try SafeTensors(path)
    }

    @Test func `a whole file is read`() throws {
        let header = #"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]}}"#
        let file = try Self.read(Self.file(header))
        let tensor = try #require(file.tensors["a"])
        #expect(file.tensors.count == 1)
        #expect(tensor.shape == [2, 2])
        #expect(tensor.withBytes { bytes in (0..<bytes.byteCount).map { bytes.byte(at: $0) } } == Array(9...16))
    }

    static func tensor(_ fields: String) -> String { #"{"a":{"# + fields + "}}" }

    @Test(arguments: [
        file("{", length: 0), file("{}", length: 3, dataBytes: 0), file("{}", length: .max),
        file("{}", length: 1 << 63), file("{}x"), file("[]"), [1, 2, 3], [],
        file(tensor(#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#)),
        file(tensor(#""dtype":"BF16","shape":[2],"data_offsets":[0,8]"#)),
        file(tensor(#""dtype":"BF16","shape":[8],"data_offsets":[8,24]"#)),
        file(tensor(#""dtype":"BF16","shape":[4],"data_offsets":[-8,0]"#)),
        file(tensor(#""dtype":"BF16","shape":[-4],"data_offsets":[8,0]"#)),
        file(tensor(#""dtype":"BF16","shape":[0],"data_offsets":[0,0]"#)),
        file(tensor(#""dtype":"BF16","shape":[4294967296,4294967296],"data_offsets":[0,0]"#)),
        file(tensor(#""dtype":"BF16","shape":[4],"data_offsets":[0]"#)),
        file(tensor(#""dtype":"BF16","shape":[4]"#)),
    ])
    func `a damaged header is refused`(_ bytes: [UInt8]) {
        #expect(throws: ModelError.self) { try Self.read(bytes) }
    }

    @Test func `no cut of a file is read past its end`() throws {
        let whole = Self.file(Self.tensor(#""dtype":"BF16","shape":[8],"data_offsets":[0,16]"#))
        for count in 0..<whole.count {
            #expect(throws: ModelError.self) { try Self.read(Array(whole[..<count])) }
        }
    }

    @Test(arguments: [
        #""hidden_size": 48, "head_dim": 12"#, #""num_key_value_heads": 3"#, #""hidden_act": "gelu""#,
        #""attention_bias": true"#, #""model_type": "qwen2""#, #""rope_scaling": {"rope_type": "yarn"}"#,
        #""num_hidden_layers": 0"#, #""vocab_size": -1"#,
    ])
    func `a shape that would be computed wrongly is refused`(_ field: String) {
        var fields = [
            "hidden_size": "64", "intermediate_size": "160", "num_hidden_layers": "2", "num_attention_heads": "4",
            "num_key_value_heads": "2", "vocab_size": "257",
        ]
        #expect(throws: Never.self) { try Self.configuration(fields.map { "\"\($0)\": \($1)" }) }
        for name in fields.keys where field.contains("\"\(name)\"") { fields[name] = nil }
        #expect(throws: ModelError.self) { try Self.configuration(fields.map { "\"\($0)\": \($1)" } + [field]) }
    }

    private static func configuration(_ fields: [String]) throws -> ModelConfiguration {
        let text = "{" + fields.joined(separator: ", ") + "}"
        return try ModelConfiguration(json: Data(text.utf8), path: "config.json")
    }

    @Test func `a missing tensor and one of another shape are named`() throws {
        let directory = try TestModel.directory(TestModel.tiny)
        let checkpoint = try Checkpoint(directory.path)
        #expect(throws: ModelError.self) { try checkpoint.tensor("model.none.weight", 1) }
        #expect(throws: ModelError.self) { try checkpoint.tensor("model.norm.weight", 63) }
    }
}
