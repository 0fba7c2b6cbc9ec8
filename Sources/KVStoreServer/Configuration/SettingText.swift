/// Why a text is not a value of a setting: one sentence that says what to write instead. Where the text stood is added
/// by whoever read it.
package struct SettingProblem: Error, Hashable, CustomStringConvertible {
    /// The sentence.
    package var description: String
    package init(_ description: String) { self.description = description }
}

/// Numbers of bytes as people write them: `64KiB`, `1.5GiB`, `4GB`, or plain bytes.
package enum ByteText {
    /// Units of 1024 and of 1000 are both exact here; a bare `K`, `M` or `G` could mean either and is refused.
    private static let units: [(name: String, byteCount: Int)] = [
        ("B", 1),
        ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40),
        ("KB", 1000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000),
    ]

    /// Reads a size; the error says which part is wrong and what would be right.
    package static func parse(_ text: String) throws(SettingProblem) -> Int {
        let trimmed = text.filter { $0 != " " }
        let number = trimmed.prefix { $0.isASCII && ($0.isNumber || $0 == "." || $0 == "_") }
        let unitByteCount = try byteCount(ofUnit: String(trimmed.dropFirst(number.count)), in: text)
        let digits = number.filter { $0 != "_" }
        guard !digits.isEmpty, let value = Double(digits), value.isFinite else {
            throw SettingProblem("'\(text)' is not a size; write for example 64KiB, 512MiB, 4GiB or a number of bytes")
        }
        // Whole numbers stay exact; a Double would lose the low bits of a large one.
        if let whole = Int(digits) {
            let (product, overflow) = whole.multipliedReportingOverflow(by: unitByteCount)
            guard !overflow else { throw SettingProblem("'\(text)' is larger than this machine can count") }
            return product
        }
        let product = value * Double(unitByteCount)
        guard product < 9e18 else { throw SettingProblem("'\(text)' is larger than this machine can count") }
        guard product.rounded() == product else { throw SettingProblem("'\(text)' is not a whole number of bytes") }
        return Int(product)
    }

    /// The shortest text that `parse` reads back as the same number: `4GiB`, `1537KiB`, `100`.
    package static func exact(_ byteCount: Int) -> String {
        for (name, unit) in units[1...4].reversed() where byteCount >= unit && byteCount % unit == 0 {
            return "\(byteCount / unit)\(name)"
        }
        return "\(byteCount)"
    }

    private static func byteCount(ofUnit name: String, in text: String) throws(SettingProblem) -> Int {
        if name.isEmpty { return 1 }
        // No number at all: the sentence about sizes says more than one about units.
        if name == text.filter({ $0 != " " }) { return 1 }
        if let unit = units.first(where: { $0.name.lowercased() == name.lowercased() }) { return unit.byteCount }
        if "kmgt".contains(name.lowercased()) {
            let letter = name.uppercased()
            throw SettingProblem(
                "the unit '\(name)' of '\(text)' is ambiguous; write \(letter)iB (powers of 1024) or \(letter)B (powers of 1000)"
            )
        }
        throw SettingProblem(
            "unknown unit '\(name)' in '\(text)'; use B, KiB, MiB, GiB, TiB (powers of 1024) or KB, MB, GB, TB (powers of 1000)"
        )
    }
}

/// Spans of time: `500ms`, `5s`, `2m`, `1h`, or plain seconds.
package enum DurationText {
    private static let units: [(name: String, milliseconds: Double)] = [
        ("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000),
    ]

    /// Reads a span of time, as whole milliseconds.
    package static func parseMilliseconds(_ text: String) throws(SettingProblem) -> Int {
        let trimmed = text.filter { $0 != " " }
        let number = trimmed.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
        let name = trimmed.dropFirst(number.count)
        let unit = name.isEmpty ? 1000 : units.first { $0.name == name }?.milliseconds
        guard let unit, let value = Double(number), value * unit <= 1e12, (value * unit).rounded() == value * unit
        else {
            throw SettingProblem(
                "'\(text)' is not a span of time; write for example 500ms, 5s, 2m or a number of seconds")
        }
        return Int(value * unit)
    }

    /// The shortest text that reads back as the same span.
    package static func exact(_ milliseconds: Int) -> String {
        for (name, unit) in units.reversed() where milliseconds > 0 && milliseconds % Int(unit) == 0 {
            return "\(milliseconds / Int(unit))\(name)"
        }
        return "\(milliseconds)ms"
    }
}
