import ArgumentParser

/// A number of bytes as people write it: `64KiB`, `1.5GiB`, `4GB`, or plain bytes.
struct ByteSize: Hashable, Sendable {
    var byteCount: Int

    /// Units of 1024 and of 1000 are both exact here; a bare `K`, `M` or `G` could mean either and is refused.
    private static let units: [(name: String, byteCount: Int)] = [
        ("B", 1),
        ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40),
        ("KB", 1000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000),
    ]

    init(_ byteCount: Int) { self.byteCount = byteCount }

    /// Reads a size; the error says which part is wrong and what would be right.
    init(parsing text: String) throws(ValidationError) {
        let trimmed = text.filter { $0 != " " }
        let number = trimmed.prefix { $0.isASCII && ($0.isNumber || $0 == "." || $0 == "_") }
        let unitName = trimmed.dropFirst(number.count)
        let digits = number.filter { $0 != "_" }
        guard !digits.isEmpty, let value = Double(digits), value.isFinite else {
            throw ValidationError("'\(text)' is not a size; write for example 64KiB, 512MiB, 4GiB or a number of bytes")
        }
        let unitByteCount = try Self.unitByteCount(named: String(unitName), in: text)
        // Whole numbers stay exact; a Double would lose the low bits of a large one.
        if let whole = Int(digits) {
            let (product, overflow) = whole.multipliedReportingOverflow(by: unitByteCount)
            guard !overflow else { throw ValidationError("'\(text)' is larger than this machine can count") }
            byteCount = product
        } else {
            let product = value * Double(unitByteCount)
            guard product < 9e18 else { throw ValidationError("'\(text)' is larger than this machine can count") }
            guard product.rounded() == product else {
                throw ValidationError("'\(text)' is not a whole number of bytes")
            }
            byteCount = Int(product)
        }
    }

    private static func unitByteCount(named name: String, in text: String) throws(ValidationError) -> Int {
        if name.isEmpty { return 1 }
        if let unit = units.first(where: { $0.name.lowercased() == name.lowercased() }) { return unit.byteCount }
        if "kmgt".contains(name.lowercased()) {
            let letter = name.uppercased()
            throw ValidationError(
                "the unit '\(name)' of '\(text)' is ambiguous; write \(letter)iB (powers of 1024) or \(letter)B (powers of 1000)"
            )
        }
        throw ValidationError(
            "unknown unit '\(name)' in '\(text)'; use B, KiB, MiB, GiB, TiB (powers of 1024) or KB, MB, GB, TB (powers of 1000)"
        )
    }
}

extension ByteSize: CustomStringConvertible {
    /// Powers of 1024 with at most two decimals: `64 KiB`, `1.33 GiB`, `500 B`.
    var description: String {
        let magnitude = abs(Double(byteCount))
        for (name, unit) in [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        where magnitude >= Double(unit) {
            return "\(trimmedDecimal(Double(byteCount) / Double(unit), digits: 2)) \(name)"
        }
        return "\(byteCount) B"
    }
}
