import Foundation
import Testing

@testable import KVStoreBench

/// Compares text with a file of the folder Golden. To accept new text, run the tests with KVSTORE_REWRITE_GOLDEN=1 and
/// read the diff.
private func expectGolden(_ name: String, _ text: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
    let file = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Golden/\(name)")
    if ProcessInfo.processInfo.environment["KVSTORE_REWRITE_GOLDEN"] == "1" {
        try text.write(to: file, atomically: true, encoding: .utf8)
    }
    let golden = try String(contentsOf: file, encoding: .utf8)
    #expect(text == golden, sourceLocation: sourceLocation)
}

@Suite("What the benchmark prints")
struct ReportTests {
    private static let raw = Sample(bytesPerSecond: [1.3e9, 1.2e9, 1.25e9])
    private static let spill = Sample(bytesPerSecond: [1.17e9, 1.02e9, 1.25e9])

    private static let report = Report(
        conditions: ["blocks of 1MiB, 3 rounds"],
        rows: [
            ("raw O_DIRECT write", raw), ("spill", spill),
            ("processor time per MiB", Sample(nanoseconds: [1.5e6, 9e5])),
            ("reopen", Sample([0.25, 1.75, 1], .seconds)), ("blocks found", Sample([100], .count)),
        ],
        comparisons: [
            Comparison("spillWriteVsRawWrite", spill, over: raw),
            Comparison("rocksdbPutVsRawWrite", [0.31]),
            Comparison("writeAmplification", [1.21, 1.25]),
            Comparison("memoryHitMicroseconds", [8.5]),
            Comparison("reopenSecondsPerMillionBlocks", [0.4]),
            Comparison("unknownRatio", [12]),
        ],
        notes: ["a note"]
    )

    @Test func `The text is a table of what was measured and one of comparisons with goals`() throws {
        try expectGolden("report.txt", Self.report.text)
    }

    @Test func `The JSON has medians and spreads by row and all comparisons under ratios`() throws {
        try expectGolden("report.json", try Self.report.json)
    }

    @Test func `The chart has a bar for every comparison that has a goal or stands beside one`() throws {
        let chart = Chart(Self.report.comparisons)
        #expect(chart.bars.map(\.kind) == [.met, .other, .met, .missed, .met])
        try expectGolden("chart.svg", chart.svg)
    }

    @Test func `The chart is well-formed XML whatever a comparison is called`() throws {
        let comparison = Comparison("a<b & \"c\"", [1])
        #expect(Chart([comparison]).bars.isEmpty)
        let parser = XMLCheck(Chart(Self.report.comparisons).svg)
        #expect(parser.openElements == 0)
        #expect(parser.hasOnlyKnownEntities)
    }

    @Test func `A report misses its goals when the median of one comparison does`() {
        var report = Self.report
        #expect(report.missesGoal)
        report.comparisons.removeAll { $0.name == "memoryHitMicroseconds" }
        #expect(!report.missesGoal)
    }
}

/// As much of XML as the chart uses: elements open and close, and & only begins an entity.
private struct XMLCheck {
    var openElements = 0
    var hasOnlyKnownEntities = true

    init(_ text: String) {
        for piece in text.split(separator: "<").dropFirst(text.hasPrefix("<") ? 0 : 1) {
            let tag = piece.prefix { $0 != ">" }
            if tag.hasPrefix("/") { openElements -= 1 } else if !tag.hasSuffix("/") { openElements += 1 }
        }
        for piece in text.split(separator: "&").dropFirst() {
            let isKnown = ["amp;", "lt;", "gt;", "quot;"].contains { piece.hasPrefix($0) }
            hasOnlyKnownEntities = hasOnlyKnownEntities && isKnown
        }
    }
}

@Suite("Statistics of the benchmark")
struct SampleTests {
    @Test func `The median of an odd number of values is the middle one and of an even number lies between two`() {
        #expect(Sample(nanoseconds: [3, 1, 2]).median == 2)
        #expect(Sample(nanoseconds: [4, 1, 2, 3]).median == 2.5)
        #expect(Sample(nanoseconds: [7]).median == 7)
    }

    @Test func `Percentiles lie between the values beside them`() {
        let sample = Sample(nanoseconds: (0...100).reversed().map(Double.init))
        #expect(sample.percentile(99) == 99)
        #expect(sample.percentile(0) == 0)
        #expect(sample.percentile(100) == 100)
        #expect(Sample(nanoseconds: [0, 10]).percentile(25) == 2.5)
    }

    @Test func `A comparison is made pair by pair and not of medians`() {
        let ours = Sample(nanoseconds: [1, 10, 100])
        let reference = Sample(nanoseconds: [2, 10, 50])
        #expect(Comparison("x", ours, over: reference).sample.values == [0.5, 1, 2])
    }

    @Test func `Goals are met at their limit and scored against it`() {
        #expect(Goal.atMost(2).isMet(by: 2))
        #expect(!Goal.atMost(2).isMet(by: 2.01))
        #expect(Goal.atLeast(0.85).isMet(by: 0.85))
        #expect(!Goal.atLeast(0.85).isMet(by: 0.84))
        #expect(Goal.atMost(2).score(of: 4) == 0.5)
        #expect(Goal.atLeast(0.5).score(of: 1) == 2)
    }

    @Test func `Every comparison that stands beside another names one with a goal`() {
        for meaning in Comparison.meanings.values {
            guard let other = meaning.standsBeside else { continue }
            #expect(Comparison.meanings[other]?.goal != nil)
        }
    }

    @Test func `Runs that were saved as JSON become one chart in the order of the goals`() throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "kvstore-chart-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let (first, second) = (folder.appending(path: "1.json").path, folder.appending(path: "2.json").path)
        try Data(#"{"ratios":{"writeAmplification":1.2,"unknown":5}}"#.utf8).write(to: URL(filePath: first))
        try Data(#"{"ratios":{"spillWriteVsRawWrite":0.5}}"#.utf8).write(to: URL(filePath: second))
        let picture = folder.appending(path: "chart.svg").path
        try ChartOfRuns.parse(["--plot", picture, first, second]).run()
        let expected = Chart([Comparison("spillWriteVsRawWrite", [0.5]), Comparison("writeAmplification", [1.2])])
        #expect(expected.bars.map(\.kind) == [.missed, .met])
        #expect(try String(contentsOfFile: picture, encoding: .utf8) == expected.svg)
    }

    @Test(arguments: [("1MiB", 1 << 20), ("4kib", 4096), ("2GiB", 2 << 30), ("65536", 65536)])
    func `Sizes are read with their unit`(text: String, bytes: Int) {
        #expect(ByteCount(argument: text)?.bytes == bytes)
    }

    @Test(arguments: ["", "MiB", "1MB", "-1KiB", "0", "1.5GiB", "99999999999GiB"])
    func `What is not a size is refused`(text: String) { #expect(ByteCount(argument: text) == nil) }

    @Test func `A block of bf16 payload has the exponents of real KV and says which block it is`() throws {
        let payload = try Payload(.bf16, blockByteCount: 65536)
        let exponents = (0..<32768).map { element in
            payload.bytes(0).loadUnaligned(fromByteOffset: 2 * element, as: UInt16.self) >> 7 & 255
        }
        var counts: [UInt16: Double] = [:]
        for exponent in exponents { counts[exponent, default: 0] += 1 / 32768 }
        let entropy = counts.values.reduce(0) { $0 - $1 * log2($1) }
        #expect((2.5...2.7).contains(entropy))
        var block = [UInt8](repeating: 0, count: 65536)
        fill(payload, &block)
        let (isFive, isSix) = (payload.isBlock(5, block.span.bytes), payload.isBlock(6, block.span.bytes))
        #expect(isFive)
        #expect(!isSix)
    }

    private func fill(_ payload: Payload, _ block: inout [UInt8]) {
        var elements = block.mutableSpan
        var bytes = elements.mutableBytes
        payload.fill(5, into: &bytes)
    }
}
