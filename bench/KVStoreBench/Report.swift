import Foundation

/// What one subcommand measured, and the two forms in which it is printed.
struct Report {
    /// What was measured on: sizes, device, how caches were dropped. One line each.
    var conditions: [String] = []
    var rows: [(name: String, sample: Sample)] = []
    var comparisons: [Comparison] = []
    /// What a reader must know to judge the numbers.
    var notes: [String] = []

    var missesGoal: Bool { comparisons.contains { $0.isMissed } }

    var text: String {
        var result = conditions.map { $0 + "\n" }.joined()
        if !conditions.isEmpty { result += "\n" }
        var measured = TextTable(header: ["measured", "median", "spread"])
        for (name, sample) in rows { measured.add([name, sample.text(sample.median), sample.spread]) }
        var compared = TextTable(header: ["compared", "median", "spread", "goal", ""])
        for comparison in comparisons {
            let sample = comparison.sample
            let verdict = comparison.goal == nil ? "" : comparison.isMissed ? "missed" : "met"
            compared.add([
                comparison.name, decimal(sample.median, digits: 3),
                "\(decimal(sample.minimum, digits: 3)) – \(decimal(sample.maximum, digits: 3))",
                comparison.goal?.text ?? "", verdict,
            ])
        }
        result += measured.text
        if !comparisons.isEmpty { result += "\n" + compared.text }
        if !notes.isEmpty { result += "\n" + notes.map { "· \($0)\n" }.joined() }
        return result
    }

    /// One object: `medians` and `spreads` by row, in the unit that `units` names; `ratios`, `ratioSpreads` and `goals`
    /// by comparison.
    var json: String {
        get throws {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
            return String(decoding: try encoder.encode(Encoded(self)), as: UTF8.self) + "\n"
        }
    }

    private struct Encoded: Encodable {
        struct Spread: Encodable {
            var minimum: Double
            var maximum: Double
            init(_ sample: Sample) { (minimum, maximum) = (sample.minimum, sample.maximum) }
        }
        struct Target: Encodable {
            var atMost: Double?
            var atLeast: Double?
            var isMet: Bool
            init?(_ comparison: Comparison) {
                switch comparison.goal {
                case .atMost(let limit): atMost = limit
                case .atLeast(let limit): atLeast = limit
                case nil: return nil
                }
                isMet = !comparison.isMissed
            }
        }
        var conditions: [String]
        var medians: [String: Double]
        var spreads: [String: Spread]
        var units: [String: String]
        var ratios: [String: Double]
        var ratioSpreads: [String: Spread]
        var goals: [String: Target]
        var notes: [String]

        init(_ report: Report) {
            func byName<Value>(_ value: (Sample) -> Value) -> [String: Value] {
                Dictionary(uniqueKeysWithValues: report.rows.map { ($0.name, value($0.sample)) })
            }
            func byComparison<Value>(_ value: (Comparison) -> Value?) -> [String: Value] {
                Dictionary(
                    uniqueKeysWithValues: report.comparisons.compactMap { comparison in
                        value(comparison).map { (comparison.name, $0) }
                    }
                )
            }
            conditions = report.conditions
            notes = report.notes
            medians = byName(\.median)
            spreads = byName { Spread($0) }
            units = byName(\.unit.rawValue)
            ratios = byComparison { $0.sample.median }
            ratioSpreads = byComparison { Spread($0.sample) }
            goals = byComparison { Target($0) }
        }
    }
}

/// Columns of text, two spaces between them; the first flush left, the others flush right.
struct TextTable {
    private var rows: [[String]]

    init(header: [String]) { rows = [header] }

    /// As many cells as the header has.
    mutating func add(_ cells: [String]) {
        precondition(cells.count == rows[0].count)
        rows.append(cells)
    }

    var text: String {
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max()! }
        return rows.map { row in
            var line = ""
            for (column, cell) in row.enumerated() {
                let padding = String(repeating: " ", count: widths[column] - cell.count)
                line += column == 0 ? cell + padding : "  " + padding + cell
            }
            while line.last == " " { line.removeLast() }
            return line + "\n"
        }.joined()
    }
}
