import ArgumentParser
import Foundation

/// How results are printed; the same for every subcommand.
struct Output: ParsableArguments {
    @Flag(help: "Print one JSON object: medians, spreads, units; every comparison under 'ratios'.")
    var json = false
    @Option(help: ArgumentHelp("Also draw the comparisons against their goals.", valueName: "FILE.svg"))
    var plot: String?
    @Flag(help: "Exit with 1 when a goal is missed.")
    var gate = false
    @Option(
        name: .customLong("pairs"),
        help: "Interleaved rounds of measurements; each round measures us and every reference once."
    )
    var pairsGiven: Int?

    /// Rounds for a subcommand whose rounds are quick.
    var pairs: Int { pairsGiven ?? 15 }

    func validate() throws {
        if let pairsGiven, pairsGiven < 1 { throw ValidationError("--pairs must be at least 1") }
    }

    /// Prints a report in the form that was asked for. Throws exit code 1 after a missed goal, if so asked.
    func show(_ report: Report) throws {
        print(json ? try report.json : report.text, terminator: "")
        if let plot { try Chart(report.comparisons).svg.write(toFile: plot, atomically: true, encoding: .utf8) }
        if gate, report.missesGoal { throw ExitCode(1) }
    }

    /// For subcommands whose comparisons are single numbers.
    func show(
        _ rows: [(name: String, sample: Sample)],
        ratios: [String: Double],
        notes: [String] = []
    ) throws {
        let comparisons = ratios.sorted { $0.key < $1.key }.map { Comparison($0.key, [$0.value]) }
        try show(Report(rows: rows, comparisons: comparisons, notes: notes))
    }

    /// Says what is going on, on standard error, unless the output is for a program.
    func progress(_ text: String) {
        guard !json, isatty(STDERR_FILENO) == 1 else { return }
        FileHandle.standardError.write(Data("\(text) …\n".utf8))
    }
}
