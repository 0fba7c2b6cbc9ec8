internal import Foundation

extension Tokenizer {
    /// Reads `tokenizer.json` of a model directory; one token a byte when there is none.
    static func load(directory: String) throws(ModelError) -> Tokenizer {
        let path = "\(directory)/tokenizer.json"
        guard let data = FileManager.default.contents(atPath: path) else { return .bytes }
        return try Tokenizer(json: data, path: path)
    }

    /// Reads byte-level BPE; anything else is refused, since it would be encoded wrongly.
    init(json: Data, path: String) throws(ModelError) {
        let file: File
        do {
            file = try JSONDecoder().decode(File.self, from: json)
        } catch {
            throw ModelError("\(path): \(error)")
        }
        guard file.model.type ?? "BPE" == "BPE", file.model.byte_fallback != true else {
            throw ModelError("\(path): only byte-level BPE is supported")
        }
        guard file.normalizer == nil else { throw ModelError("\(path): normalizers are not supported") }
        var added: [String: UInt32] = [:]
        for token in file.added_tokens ?? [] { added[token.content] = token.id }
        self.init(
            ids: file.model.vocab.filter { added[$0.key] == nil },
            merges: file.model.merges.map(\.pair),
            added: added,
            preTokenizer: try Self.preTokenizer(file.pre_tokenizer, path),
            ignoresMerges: file.model.ignore_merges ?? false,
            leadingTokens: (file.post_processor?.leadingTexts ?? []).compactMap { added[$0] })
    }

    private static func preTokenizer(_ step: PreTokenizerStep?, _ path: String) throws(ModelError) -> PreTokenizer {
        let steps = step?.pretokenizers ?? (step.map { [$0] } ?? [])
        guard let last = steps.last, last.type == "ByteLevel", last.add_prefix_space != true else {
            throw ModelError("\(path): the pre-tokenizer must be ByteLevel without a prefix space")
        }
        if steps.count == 1, last.use_regex != false { return .gpt2 }
        guard steps.count == 2, steps[0].type == "Split", last.use_regex == false,
            steps[0].pattern?.Regex == PreTokenizer.llama3Pattern
        else { throw ModelError("\(path): this pre-tokenizer is not supported") }
        return .llama3
    }

    /// The tokenizer as `tokenizer.json`.
    var fileText: Data {
        get throws {
            let vocabulary = self.vocabulary.merging(addedTokens) { first, _ in first }
            let added: [[String: Any]] = addedTokens.sorted { $0.value < $1.value }.map { text, id in
                [
                    "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true,
                ]
            }
            let byteLevel: [String: Any] = [
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
            ]
            let file: [String: Any] = [
                "version": "1.0", "added_tokens": added, "pre_tokenizer": byteLevel, "decoder": byteLevel,
                "model": ["type": "BPE", "vocab": vocabulary, "merges": [String]()] as [String: Any],
            ]
            return try JSONSerialization.data(withJSONObject: file, options: [.sortedKeys])
        }
    }
}

private struct File: Decodable {
    struct Added: Decodable {
        let id: UInt32
        let content: String
    }
    struct Model: Decodable {
        let type: String?
        let vocab: [String: UInt32]
        let merges: [Merge]
        let ignore_merges: Bool?
        let byte_fallback: Bool?
    }
    struct Normalizer: Decodable {}
    let added_tokens: [Added]?
    let normalizer: Normalizer?
    let pre_tokenizer: PreTokenizerStep?
    let post_processor: PostProcessor?
    let model: Model
}

/// `"a b"` in older files, `["a", "b"]` in newer ones.
private struct Merge: Decodable {
    let pair: Tokenizer.Pair

    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let parts: [String]
        if let text = try? container.decode(String.self) {
            parts = text.split(separator: " ").map(String.init)
        } else {
            parts = try container.decode([String].self)
        }
        guard parts.count == 2 else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "a merge must have two parts")
        }
        pair = Tokenizer.Pair(left: parts[0], right: parts[1])
    }
}

private struct PreTokenizerStep: Decodable {
    struct Pattern: Decodable { let Regex: String? }
    let type: String
    let add_prefix_space: Bool?
    let use_regex: Bool?
    let pattern: Pattern?
    let pretokenizers: [PreTokenizerStep]?
}

private struct PostProcessor: Decodable {
    struct Piece: Decodable {
        struct Special: Decodable { let id: String }
        let SpecialToken: Special?
    }
    let type: String
    let single: [Piece]?
    let processors: [PostProcessor]?

    /// The texts of the special tokens that a template puts before a text.
    var leadingTexts: [String] {
        if type == "Sequence" { return (processors ?? []).flatMap(\.leadingTexts) }
        guard type == "TemplateProcessing" else { return [] }
        return (single ?? []).prefix { $0.SpecialToken != nil }.compactMap { $0.SpecialToken?.id }
    }
}
