import Foundation
import KVStoreTestSupport
import Testing

@testable import SwiftLlama

@Suite("The command line")
struct CommandTests {
    /// Where a program of this package is: beside the test bundle.
    static func path(of program: String) throws -> URL {
        let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let folders = [own, Bundle.main.bundlePath, Bundle.main.executablePath ?? own]
            .map { URL(filePath: $0).deletingLastPathComponent().path }
        let path = folders.map { "\($0)/\(program)" }.first { FileManager.default.isExecutableFile(atPath: $0) }
        return URL(filePath: try #require(path))
    }

    private static func run(_ arguments: [String]) throws -> (status: Int32, output: Data) {
        let process = Process()
        process.executableURL = try path(of: "swift-llama")
        process.arguments = arguments
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let data = try output.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return (process.terminationStatus, data)
    }

    @Test(.timeLimit(.minutes(5)))
    func `the demo finds everything identical over a kill and damage and both forgeries`() throws {
        let (status, output) = try Self.run([
            "demo", "--preset", "tiny", "--prefix-tokens", "256", "--rounds", "2", "--json",
        ])
        let summary = try #require(try JSONSerialization.jsonObject(with: output) as? [String: Any])
        let rows = try #require(summary["rows"] as? [[String: Any]])
        var loaded: [String: Int] = [:]
        for row in rows {
            let step = try #require(row["step"] as? String)
            loaded[step] = row["loadedTokens"] as? Int
            #expect(row["isIdentical"] as? Bool == true, "\(step)")
            if step == "disk" { #expect(row["diskBlocks"] as? Int == 16) }
        }
        #expect(loaded["no cache"] == 0 && loaded["empty cache"] == 0)
        #expect(loaded["memory"] == 256 && loaded["disk"] == 256)
        #expect(loaded["batch of 3"] == 304 && loaded["stored again"] == 304)
        #expect(try #require(loaded["damaged record"]) < 304)
        let controls = try #require(summary["controls"] as? [[String: Any]])
        #expect(controls.count == 2)
        #expect(controls.allSatisfy { ($0["differingBlocks"] as? [Int])?.isEmpty == false })
        #expect(controls[0]["logitsDiffer"] as? Bool == true && controls[0]["tokensDiffer"] as? Bool == true)
        #expect(status == 0)
    }

    @Test(.timeLimit(.minutes(5)))
    func `a second process answers the same with what the first one stored`() throws {
        let directory = TemporaryDirectory("llama-command")
        let arguments = [
            "generate", "--preset", "tiny", "--prompt", String(repeating: "all of it again ", count: 9), "--json",
            "--store", directory.path + "/store", "--memory", "32MiB",
        ]
        var answers: [[String: Any]] = []
        for _ in 0..<2 {
            let (status, output) = try Self.run(arguments)
            #expect(status == 0)
            answers.append(try #require(try JSONSerialization.jsonObject(with: output) as? [String: Any]))
        }
        #expect(answers.map { $0["cachedTokens"] as? Int } == [0, 128])
        #expect(answers[0]["logitsDigest"] as? String == answers[1]["logitsDigest"] as? String)
        #expect(answers[0]["tokens"] as? [Int] == answers[1]["tokens"] as? [Int])
    }

    @Test(arguments: [
        ["generate"], ["generate", "--prompt", "a", "--model", "/nonexistent"],
        ["generate", "--prompt", "a", "--tokens", "0"], ["generate", "--prompt", "a", "--memory", "lots"],
        ["generate", "--prompt", "a", "--socket", "/s", "--store", "/d"],
        ["demo", "--preset", "huge"], ["make-model", "/tmp/x", "--preset", "huge"],
    ])
    func `a wrong command line is refused`(_ arguments: [String]) throws {
        #expect(try Self.run(arguments).status != 0)
    }
}
