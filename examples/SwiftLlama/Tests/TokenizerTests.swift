import Foundation
import KVStoreTestSupport
import Testing

@testable import SwiftLlama

@Suite("Tokenizer")
struct TokenizerTests {
    static let texts = [
        "", " ", "Hello, world!", "  two  spaces\n\n\ttab ", "it's we'll I'VE don't", "naïve café 東京 🙂👩‍👩‍👧",
        "e\u{301}\u{0}\u{7F}",
        "3.14159 ½ ⅫIV 1234567", "a\r\nb\r\n\r\n  c   ", "<s>marked<s> twice <s",
    ]

    @Test(arguments: texts) func `every text comes back as it was`(_ text: String) {
        #expect(Array(Tokenizer.bytes.decode(Tokenizer.bytes.encode(text)).utf8) == Array(text.utf8))
    }

    @Test(arguments: texts) func `pieces are the text`(_ text: String) {
        for cutter in [PreTokenizer.gpt2, .llama3] {
            let pieces = cutter.pieces(text).map { String($0) }
            #expect(Array(pieces.joined().utf8) == Array(text.utf8))
            #expect(!pieces.contains(""))
        }
    }

    @Test func `cuts as the expression of GPT-2 does`() {
        let pieces = PreTokenizer.gpt2.pieces("I'll see  12345 cafés!? \n\n Bye'S ").map { String($0) }
        #expect(pieces == ["I", "'ll", " see", " ", " 12345", " cafés", "!?", " \n\n", " Bye", "'", "S", " "])
    }

    @Test func `cuts as the expression of Llama 3 does`() {
        let pieces = PreTokenizer.llama3.pieces("I'LL see  12345 (cafés)!?\n\n Bye\n  x").map { String($0) }
        #expect(
            pieces == ["I", "'LL", " see", " ", " ", "123", "45", " (", "cafés", ")!?\n\n", " Bye", "\n", " ", " x"])
    }

    @Test func `merges by rank and then from the left`() {
        let ids: [String: UInt32] = ["a": 0, "b": 1, "c": 2, "bc": 3, "ab": 4, "aa": 5, "aaa": 6]
        let tokenizer = Tokenizer(
            ids: ids,
            merges: [
                Tokenizer.Pair(left: "b", right: "c"), Tokenizer.Pair(left: "a", right: "b"),
                Tokenizer.Pair(left: "a", right: "a"), Tokenizer.Pair(left: "aa", right: "a"),
            ])
        #expect(tokenizer.encode("abc") == [0, 3])
        #expect(tokenizer.encode("abab") == [4, 4])
        #expect(tokenizer.encode("aaaaa") == [5, 6])
        #expect(tokenizer.decode([6, 3, 4]) == "aaabcab")
    }

    @Test func `finds added tokens before everything else and the longest of them`() {
        let tokenizer = Tokenizer(ids: ["<": 0, "s": 1, ">": 2], merges: [], added: ["<s>": 9, "<s>>": 10])
        #expect(tokenizer.encode("s<s>s<s>><") == [1, 9, 1, 10, 0])
    }

    @Test func `a written file reads back as the same tokenizer`() throws {
        let read = try Tokenizer(json: Tokenizer.bytes.fileText, path: "tokenizer.json")
        #expect(read.vocabulary == Tokenizer.bytes.vocabulary)
        #expect(read.addedTokens == Tokenizer.bytes.addedTokens)
        #expect(read.vocabularySize == 257)
    }

    @Test func `reads both forms of merges and what comes before a text`() throws {
        let json = """
            {"added_tokens": [{"id": 7, "content": "<|begin|>"}], "normalizer": null,
             "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": \(try Self.quoted(PreTokenizer.llama3Pattern))}},
                {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
             "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"},
                {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin|>"}}, {"Sequence": {"id": "A"}}]}]},
             "model": {"type": "BPE", "ignore_merges": true, "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġab": 4, "abb": 5},
                "merges": ["a b", ["Ġ", "ab"]]}}
            """
        let tokenizer = try Tokenizer(json: Data(json.utf8), path: "t")
        #expect(tokenizer.encode("ab ab") == [7, 2, 4])
        // In the vocabulary, though no merge makes it.
        #expect(tokenizer.encode("abb") == [7, 5])
    }

    @Test(arguments: [
        #"{"model": {"type": "WordPiece", "vocab": {}, "merges": []}}"#,
        #"{"model": {"type": "BPE", "byte_fallback": true, "vocab": {}, "merges": []}}"#,
        #"{"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "ByteLevel"}, "model": {"vocab": {}, "merges": []}}"#,
        #"{"pre_tokenizer": {"type": "Metaspace"}, "model": {"vocab": {}, "merges": []}}"#,
        #"{"pre_tokenizer": {"type": "ByteLevel"}, "model": {"vocab": {}, "merges": ["one"]}}"#,
        "not json",
    ])
    func `what would be encoded wrongly is refused`(_ json: String) {
        #expect(throws: ModelError.self) { try Tokenizer(json: Data(json.utf8), path: "t") }
    }

    private static func quoted(_ text: String) throws -> String {
        String(decoding: try JSONEncoder().encode(text), as: UTF8.self)
    }
}
