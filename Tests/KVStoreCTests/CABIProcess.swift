import Foundation
import KVStoreTestSupport
import Testing

/// Runs programs that lie beside the test bundle.
enum BuiltPrograms {
    /// The folder of the build's products.
    static let folder: String = {
        let own =
            (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? CommandLine.arguments[0]
        let folders = [own, Bundle.main.bundlePath, Bundle.main.executablePath ?? own].map {
            URL(fileURLWithPath: $0).deletingLastPathComponent().path
        }
        return folders.first { FileManager.default.isExecutableFile(atPath: $0 + "/CABIProgram") } ?? "(not built)"
    }()

    /// How a program ended, and what it wrote.
    struct Outcome {
        let status: Int32
        let wasKilled: Bool
        let text: String
    }

    static func run(_ path: String, _ arguments: [String]) throws -> Outcome {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        var environment = ProcessInfo.processInfo.environment
        environment["SWIFT_BACKTRACE"] = "enable=no"
        process.environment = environment
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        process.standardInput = FileHandle.nullDevice
        try process.run()
        let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return Outcome(
            status: process.terminationStatus,
            wasKilled: process.terminationReason == .uncaughtSignal,
            text: text
        )
    }

    /// Runs a part of the C program; its last words are the failure.
    static func expectOK(_ arguments: [String], sourceLocation: SourceLocation = #_sourceLocation) throws {
        let outcome = try run(folder + "/CABIProgram", arguments)
        let isGood = outcome.status == 0 && !outcome.wasKilled && outcome.text.hasSuffix("ok\n")
        let how = outcome.wasKilled ? "signal" : "status"
        #expect(isGood, "\(arguments): \(how) \(outcome.status): \(outcome.text)", sourceLocation: sourceLocation)
        if arguments[0] == "fuzz" { print(String(outcome.text.prefix { $0 != "\n" })) }
    }
}

/// A daemon in a process of its own, on a socket in a new directory.
final class ServedDaemon {
    private let directory = TemporaryDirectory("cabi")
    private let process = Process()
    var socketPath: String { directory.path + "/k.sock" }

    init() throws {
        chmod(directory.path, 0o700)
        process.executableURL = URL(fileURLWithPath: BuiltPrograms.folder + "/kvstore")
        process.arguments = [
            "serve", "--socket", socketPath, "--state-directory", directory.path + "/state", "--memory", "64MiB",
            "--disk-capacity", "0",
        ]
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        for _ in 0..<1500 where process.isRunning {
            if FileManager.default.fileExists(atPath: socketPath) { return }
            usleep(20_000)
        }
        Issue.record("the daemon did not start")
    }

    func signal(_ number: Int32) { kill(process.processIdentifier, number) }

    deinit {
        signal(SIGCONT)
        signal(SIGKILL)
        process.waitUntilExit()
    }
}
