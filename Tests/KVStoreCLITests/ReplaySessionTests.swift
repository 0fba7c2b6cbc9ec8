import Foundation
import Testing

@testable import KVStoreCLI

/// The built `kvstore`, found beside the test binary.
private enum Executable {
    static let path: String? = {
        let folder = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
        // Run under swift test, the binary is the test bundle itself; under other runners its path is an argument.
        let candidates = [folder] + CommandLine.arguments.map { URL(filePath: $0).deletingLastPathComponent() }
        return candidates.map { $0.appending(path: "kvstore").path() }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }()

    static func run(_ arguments: [String]) throws -> (status: Int32, output: String, errors: String) {
        let process = Process()
        process.executableURL = URL(filePath: try #require(path))
        process.arguments = arguments
        let (output, errors) = (Pipe(), Pipe())
        process.standardOutput = output
        process.standardError = errors
        try process.run()
        // The errors are short; only the output can fill a pipe.
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        let errorText = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return (process.terminationStatus, text, errorText)
    }
}

@Suite("A replay of the real store", .timeLimit(.minutes(5)))
struct ReplaySessionTests {
    /// 64 blocks' worth of memory for some hundreds of different ones, so that the disk matters.
    private let small = ["replay", "--limit", "200", "--memory-blocks", "64", "--quiet"]

    private func report(_ arguments: [String]) throws -> ReplayReport {
        let result = try Executable.run(arguments + ["--json"])
        #expect(result.status == 0, "\(result.errors)")
        return try JSONDecoder().decode(ReplayReport.self, from: Data(result.output.utf8))
    }

    @Test func findsBlocksInBothTiersAndNoWrongByte() throws {
        let report = try report(small)
        #expect(report.requests == 200)
        #expect(report.blocks == report.traceSummary.blocks)
        #expect(report.tokens == report.traceSummary.inputTokens)
        #expect(report.wrongBytes == 0)
        #expect(report.memory.hitBlocks > 0)
        #expect(try #require(report.disk).hitBlocks > 0)
        #expect(try #require(report.disk).spilledBlocks > 0)
        #expect(report.hitRatioBlocks <= report.traceSummary.endlessHitRatioBlocks)
        #expect(report.verifiedBytes == (report.memory.hitBlocks + report.disk!.hitBlocks) * 65_536)
    }

    @Test func withoutLimitsHitsWhatAnEndlessCacheWould() throws {
        let report = try report(["replay", "--limit", "200", "--memory", "256MiB", "--disk", "0", "--quiet"])
        #expect(report.hitRatioBlocks == report.traceSummary.endlessHitRatioBlocks)
        #expect(report.disk == nil)
    }

    @Test func isSurvivedByAKill() throws {
        let report = try report(small + ["--verify-restart", "--write-back", "0.05"])
        let restart = try #require(report.restart)
        #expect(restart.killedAfterRequests >= 100)
        #expect(restart.indexedBlocks > 0)
        #expect(restart.reachedBlocks > 0)
        #expect(restart.wrongBytes == 0)
        #expect(report.requests == 200 - restart.killedAfterRequests)
    }

    @Test func keepsADirectoryThatWasNamedAndVerifiesIt() throws {
        let scratch = try ScratchDirectory()
        let path = scratch.path + "/store"
        _ = try report(small + ["--disk-path", path])
        let clean = try Executable.run(["verify", path, "--quiet"])
        #expect(clean.status == 0, "\(clean.output)\(clean.errors)")
        #expect(clean.output.hasSuffix("all good\n"))
        // Another seed means other bytes: what the first replay left must not be found by the second.
        #expect(try report(small + ["--disk-path", path, "--seed", "2"]).wrongBytes == 0)
        // The same replay again finds its own blocks.
        #expect(try #require(report(small + ["--disk-path", path]).disk).hitBlocks > 0)
    }

    @Test func endsWithExitCodesThatScriptsCanUse() throws {
        #expect(try Executable.run(["replay", "--memory", "4X"]).status == 64)
        let missing = try Executable.run(["replay", "/does/not/exist.gz"])
        #expect(missing.status == 2)
        #expect(missing.errors.contains("'/does/not/exist.gz'"))
        #expect(try Executable.run(["verify", "/does/not/exist"]).status == 2)
        #expect(try Executable.run(["plan", "--list"]).status == 0)
    }
}
