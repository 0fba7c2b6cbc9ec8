/// Comparisons against their goals as horizontal bars: a bar that reaches the line meets its goal, whatever the
/// direction of the goal. Brings its own background, so it can be read on a light page and on a dark one.
struct Chart {
    struct Bar {
        let label: String
        let value: String
        /// 1 is the goal.
        let score: Double
        let kind: Kind
    }

    enum Kind: String {
        case met
        case missed
        /// How somebody else does at the same task.
        case other
    }

    let bars: [Bar]

    private static let rowHeight = 30
    private static let barStart = 270
    private static let goalWidth = 250
    /// Bars longer than this are cut, with a mark.
    private static let longestScore = 1.4
    private static let width = 800
    private static let top = 46

    init(_ comparisons: [Comparison]) {
        bars = comparisons.compactMap { comparison in
            let beside = comparison.meaning.standsBeside.flatMap { Comparison.meanings[$0]?.goal }
            guard let goal = comparison.goal ?? beside else { return nil }
            let value = comparison.sample.median
            let isMeasured = comparison.goal != nil
            let digits = value >= 10 ? 1 : value < 0.1 ? 3 : 2
            return Bar(
                label: comparison.meaning.label,
                value: decimal(value, digits: digits) + (isMeasured ? "  (goal \(goal.text))" : ""),
                score: goal.score(of: value),
                kind: !isMeasured ? .other : goal.isMet(by: value) ? .met : .missed
            )
        }
    }

    var svg: String {
        let height = Self.top + bars.count * Self.rowHeight + 16
        let goalX = Self.barStart + Self.goalWidth
        let note = bars.contains { $0.kind == .other } ? "; grey: others" : ""
        var lines = [
            """
            <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(Self.width) \(height)" \
            width="\(Self.width)" height="\(height)" role="img" aria-label="Measured values against their goals">
            """,
            "<style>", Self.style, "</style>",
            #"<rect class="page" width="\#(Self.width)" height="\#(height)" rx="6"/>"#,
            #"<text class="note" x="\#(goalX)" y="24" text-anchor="middle">goal</text>"#,
            #"<text class="note" x="16" y="24">a bar that reaches the line meets its goal\#(note)</text>"#,
        ]
        for (index, bar) in bars.enumerated() { lines += Self.lines(of: bar, at: Self.top + index * Self.rowHeight) }
        lines.append(#"<line class="goal" x1="\#(goalX)" x2="\#(goalX)" y1="32" y2="\#(height - 12)"/>"#)
        lines.append("</svg>")
        return lines.joined(separator: "\n") + "\n"
    }

    private static let style = """
        .page { fill: #ffffff; stroke: #d0d7de }
        text { font: 13px system-ui, sans-serif; fill: #1f2328 }
        .note { font-size: 12px; fill: #59636e }
        .met { fill: #2f7d4f } .missed { fill: #c4632d } .other { fill: #9aa4ae }
        .goal { stroke: #1f2328; stroke-dasharray: 4 3 }
        @media (prefers-color-scheme: dark) {
        .page { fill: #0d1117; stroke: #3d444d }
        text { fill: #f0f6fc } .note { fill: #9198a1 }
        .met { fill: #3fb068 } .missed { fill: #e08a52 } .other { fill: #6e7681 }
        .goal { stroke: #f0f6fc }
        }
        """

    private static func lines(of bar: Bar, at y: Int) -> [String] {
        let shown = min(bar.score, longestScore)
        let length = max(2, Int((shown * Double(goalWidth)).rounded()))
        let end = barStart + length
        var lines = [
            #"<text x="\#(barStart - 10)" y="\#(y + 15)" text-anchor="end">\#(escaped(bar.label))</text>"#,
            #"<rect class="\#(bar.kind.rawValue)" x="\#(barStart)" y="\#(y)" width="\#(length)" height="20" rx="2"/>"#,
        ]
        if bar.score > longestScore {
            let points = "\(end - 4),\(y) \(end),\(y) \(end + 10),\(y + 10) \(end),\(y + 20) \(end - 4),\(y + 20)"
            lines.append(#"<polygon class="\#(bar.kind.rawValue)" points="\#(points)"/>"#)
        }
        // Never across the goal's line.
        let textX = max(end + (bar.score > longestScore ? 16 : 8), barStart + goalWidth + 8)
        lines.append(#"<text x="\#(textX)" y="\#(y + 15)">\#(escaped(bar.value))</text>"#)
        return lines
    }

    private static func escaped(_ text: String) -> String {
        var result = ""
        for character in text {
            switch character {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            default: result.append(character)
            }
        }
        return result
    }
}
