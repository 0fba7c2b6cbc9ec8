/// Columns of text, two spaces between them. Numbers stand flush right; the first column and those that hold words
/// stand flush left.
struct TextTable {
    private var rows: [[String]] = []

    private let leftColumns: Set<Int>

    init(header: [String] = [], leftColumns: Set<Int> = []) {
        self.leftColumns = leftColumns.union([0])
        if !header.isEmpty { rows.append(header) }
    }

    /// Rows may be shorter than others; what is missing stays blank.
    mutating func add(_ cells: String...) { rows.append(cells) }

    mutating func add(_ cells: [String]) { rows.append(cells) }

    /// The table, each line ended by a newline and without blanks at its end.
    var text: String {
        let columnCount = rows.map(\.count).max() ?? 0
        let widths = (0..<columnCount).map { column in
            rows.map { $0.count > column ? $0[column].count : 0 }.max() ?? 0
        }
        var result = ""
        for row in rows {
            var line = ""
            for (column, cell) in row.enumerated() {
                let padding = String(repeating: " ", count: widths[column] - cell.count)
                line += column == 0 ? "" : "  "
                line += leftColumns.contains(column) ? cell + padding : padding + cell
            }
            while line.last == " " { line.removeLast() }
            result += line + "\n"
        }
        return result
    }
}
