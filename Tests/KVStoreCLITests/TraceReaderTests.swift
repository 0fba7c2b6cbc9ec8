import Foundation
import Testing

@testable import KVStoreCLI

@Suite("Trace files")
struct TraceReaderTests {
    private let scratch: ScratchDirectory
    init() throws { scratch = try ScratchDirectory() }

    private static let plain = """
        {"t":0,"in":1024,"out":7,"h":[0,1]}
        {"t":3000,"in":1600,"out":9,"h":[0,1,2,3]}
        {"t":3000,"in":600,"out":1,"h":[0,4]}

        """
    /// The text above, compressed by Python: gzip.compress(text, 9, mtime=0).
    private static let compressed = Data(
        base64Encoded:
            "H4sIAAAAAAACA6tWKlGyMtBRysxTsjI0MDLRUcovBYqY6yhlKFlFG+gYxtZyVYPUGBsYwJSZgVhgZZZwZTpGOsaYShEqDWEqTYCq"
            + "AOYDhtF1AAAA"
    )!

    private static let requests = [
        TraceRequest(arrivalMilliseconds: 0, inputTokens: 1024, outputTokens: 7, blocks: [0, 1]),
        TraceRequest(arrivalMilliseconds: 3000, inputTokens: 1600, outputTokens: 9, blocks: [0, 1, 2, 3]),
        TraceRequest(arrivalMilliseconds: 3000, inputTokens: 600, outputTokens: 1, blocks: [0, 4]),
    ]

    private func read(_ bytes: [UInt8]) throws -> [TraceRequest] {
        try TraceReader.read(path: scratch.write(bytes, to: "trace"))
    }

    @Test func areReadPlain() throws {
        #expect(try read(Array(Self.plain.utf8)) == Self.requests)
    }

    @Test func areReadGzipped() throws {
        #expect(try read(Array(Self.compressed)) == Self.requests)
    }

    @Test func mayHaveSeveralGzipMembersAndZerosAtTheEnd() throws {
        let twice = Array(Self.compressed) + Array(Self.compressed) + [0, 0, 0]
        #expect(try read(twice) == Self.requests + Self.requests)
    }

    @Test func mayHaveNoLastNewlineAndWindowsLineEnds() throws {
        let text = Self.plain.dropLast().replacingOccurrences(of: "\n", with: "\r\n")
        #expect(try read(Array(text.utf8)) == Self.requests)
    }

    @Test func areReadTheSameInChunksOfAnySize() throws {
        let bytes = Array(Self.plain.utf8)
        for size in 1...bytes.count {
            var lines = TraceLines(name: "t")
            for start in stride(from: 0, to: bytes.count, by: size) {
                try lines.append(Array(bytes[start..<min(start + size, bytes.count)]))
            }
            #expect(try lines.finish() == Self.requests)
        }
    }

    @Test("that are cut off anywhere are refused, never read short", arguments: [3, 12, 40, 60])
    func truncated(count: Int) throws {
        let error = #expect(throws: StartError.self) { try read(Array(Self.compressed.prefix(count))) }
        #expect(error?.description.contains("cut off") == true)
        #expect(error?.description.contains("copy or download it again") == true)
    }

    @Test func withAFlippedBitAreRefused() throws {
        for position in 10..<Self.compressed.count {
            var bytes = Array(Self.compressed)
            bytes[position] ^= 0x10
            // The checksum of gzip finds what the parser does not.
            #expect(throws: StartError.self, "byte \(position)") { try read(bytes) }
        }
    }

    @Test("that do not exist, or are no files, are named in the error", arguments: ["missing.jsonl.gz", ""])
    func missing(name: String) {
        let path = "\(scratch.path)/\(name)"
        let error = #expect(throws: StartError.self) { try TraceReader.read(path: path) }
        #expect(error?.description.contains(path) == true)
    }

    @Test func withoutRequestsAreRefused() throws {
        let error = #expect(throws: StartError.self) { try read(Array("\n \n".utf8)) }
        #expect(error?.description.contains("holds no requests") == true)
    }

    @Test(
        "with a bad line are refused with file, line and reason",
        arguments: [
            (#"{"t":0,"in":1,"h":[1,x]}"#, #""h" needs a whole number, found 'x' at column 22"#),
            (#"{"t":0,"in":1,"h":[1,2}"#, "not closed with ']'"), (#"{"t":0,"in":1}"#, #"key "h""#),
            (#"{"t":0,"h":[1]}"#, #"key "in""#), (#"{"t":0,"in":-5,"h":[1]}"#, "found '-'"),
            (#"{"t":0,"in":1,"h":[1]"#, "not closed with '}'"), (#"{"t":0,"in":1,"h":[1]} x"#, "after the object"),
            ("[1,2]", "must be a JSON object"), (#"{"t":0,"in"#, "inside a string"),
            (#"{"t":0,"in":99999999999999999999999,"h":[]}"#, "too large"),
            (#"{"t":0,"in":1,"h":[72057594037927936]}"#, "2^56"), (#"{"in":1e3,"h":[]}"#, "not closed with '}'"),
        ]
    )
    func malformed(line: String, reason: String) throws {
        let error = #expect(throws: StartError.self) { try read(Array((Self.plain + line + "\n").utf8)) }
        #expect(error?.description.contains("trace:4: ") == true)
        #expect(error?.description.contains(reason) == true, "\(error?.description ?? "")")
    }

    @Test func mayHaveOtherKeysInAnyOrderAndMooncakesNames() throws {
        let line = #"{"x":{"a":[1,{"b":"}\""}],"c":null}, "hash_ids" : [ 5 , 6 ],"timestamp":12.75,"input_length":700}"#
        #expect(
            try TraceLine.parse(Array(line.utf8))
                == TraceRequest(arrivalMilliseconds: 12, inputTokens: 700, outputTokens: 0, blocks: [5, 6])
        )
    }

    @Test func neverCrashOnDamagedLines() {
        var random = SplitMix64(seed: 5)
        let lines = Self.plain.split(separator: "\n").map { Array($0.utf8) }
        for _ in 0..<5000 {
            var line = lines[random.below(lines.count)]
            for _ in 0...random.below(3) { line[random.below(line.count)] = UInt8(random.below(256)) }
            line.removeLast(random.below(line.count))
            _ = try? TraceLine.parse(line)
        }
    }

    @Test func ofTwoFilesDoNotShareBlocks() throws {
        let path = try scratch.write(Self.plain, to: "a.jsonl")
        let both = try TraceReader.read(paths: [path, path], limit: nil)
        #expect(both.name == "a.jsonl + a.jsonl")
        #expect(both.requests.count == 6)
        #expect(Set(both.requests.flatMap(\.blocks)).count == 10)
    }

    @Test func areTheSameTraceWhateverTheLimit() throws {
        let path = try scratch.write(Self.plain, to: "a.jsonl")
        let limited = try TraceReader.read(paths: [path], limit: 1)
        #expect(limited.requests == [Self.requests[0]])
        #expect(try limited.fingerprint == TraceReader.read(paths: [path], limit: nil).fingerprint)
        let other = try scratch.write(Self.plain.replacing("[0,4]", with: "[0,5]"), to: "b.jsonl")
        #expect(try limited.fingerprint != TraceReader.read(paths: [other], limit: nil).fingerprint)
    }

    @Test func haveTheHitRatioOfAnEndlessCache() {
        let summary = TraceSummary(Self.requests)
        #expect(summary.blocks == 8)
        #expect(summary.uniqueBlocks == 5)
        #expect(summary.endlessHitRatioBlocks == 3.0 / 8)
    }

    @Test(
        "of the recorded workloads give the published endless hit ratios",
        .enabled(
            if: ProcessInfo.processInfo.environment["KVSTORE_TRACES"] != nil,
            "set KVSTORE_TRACES to their folder"
        ),
        arguments: [("mooncake_conversation", 12_031, 0.3664), ("agentic_coding_a", 4316, 0.9530)]
    )
    func recorded(name: String, requests: Int, ratio: Double) throws {
        let folder = try #require(ProcessInfo.processInfo.environment["KVSTORE_TRACES"])
        let summary = TraceSummary(try TraceReader.read(path: "\(folder)/\(name).jsonl.gz"))
        #expect(summary.requests == requests)
        #expect(abs(summary.endlessHitRatioBlocks - ratio) < 0.00005)
    }
}
