internal import Foundation

/// A child process of the demo: this program again, with one phase to run.
struct DemoProcess {
    private let process = Process()
    private let output = Pipe()

    /// Starts one.
    init(_ phase: DemoPhaseCommand.Name, model: String, store: String, _ settings: DemoSettings) throws {
        process.executableURL = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath()
        process.arguments = ["demo-phase", phase.rawValue, "--model", model, "--store", store] + settings.arguments
        process.standardOutput = output
        try process.run()
    }

    /// Waits for its report.
    func report() throws -> DemoReport {
        var line = Data()
        while line.last != 0x0A {
            let more = output.fileHandleForReading.availableData
            if more.isEmpty { break }
            line.append(more)
        }
        guard line.last == 0x0A else {
            process.waitUntilExit()
            throw ModelError("a process of the demo ended without a report, with status \(process.terminationStatus)")
        }
        return try JSONDecoder().decode(DemoReport.self, from: line)
    }

    /// Kills it with SIGKILL: it gets no chance to do anything.
    func kill() {
        SignalSending.kill(process.processIdentifier)
        process.waitUntilExit()
    }

    /// Waits until it has ended by itself.
    func wait() { process.waitUntilExit() }
}
