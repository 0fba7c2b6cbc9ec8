import ArgumentParser
import Foundation

/// Several runs in one picture.
struct ChartOfRuns: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "chart",
        abstract: "Draw what several runs measured against their goals, in one picture.",
        discussion: "The files are what subcommands printed with --json. Measures nothing itself."
    )
    @Option(help: ArgumentHelp("The picture.", valueName: "FILE.svg"))
    var plot: String
    @Argument(help: "What subcommands printed with --json. Of a comparison that occurs twice the last one counts.")
    var files: [String]

    private struct Run: Decodable {
        var ratios: [String: Double]
    }

    func run() throws {
        var ratios: [String: Double] = [:]
        for file in files {
            guard let text = FileManager.default.contents(atPath: file) else {
                throw ValidationError("'\(file)' cannot be read")
            }
            guard let run = try? JSONDecoder().decode(Run.self, from: text) else {
                throw ValidationError("'\(file)' is not what a subcommand prints with --json")
            }
            ratios.merge(run.ratios) { $1 }
        }
        let comparisons = Comparison.known.compactMap { known in
            ratios[known.name].map { Comparison(known.name, [$0]) }
        }
        guard !comparisons.isEmpty else { throw ValidationError("no comparison in these files has a goal") }
        try Chart(comparisons).svg.write(toFile: plot, atomically: true, encoding: .utf8)
    }
}
