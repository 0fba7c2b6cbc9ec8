import ArgumentParser

/// A size on the command line: `4KiB`, `256MiB`, `8GiB`, or plain bytes.
struct ByteCount: ExpressibleByArgument, CustomStringConvertible, Hashable {
    var bytes: Int

    private static let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]

    init(_ bytes: Int) { self.bytes = bytes }

    init?(argument: String) {
        let unit = Self.units.first { argument.lowercased().hasSuffix($0.0.lowercased()) }
        guard let number = Int(argument.dropLast(unit?.0.count ?? 0)), number > 0, number < 1 << 33 else { return nil }
        bytes = number * (unit?.1 ?? 1)
    }

    var description: String {
        for (name, size) in Self.units where bytes >= size {
            let exact = bytes % size == 0
            return (exact ? "\(bytes / size)" : decimal(Double(bytes) / Double(size), digits: 2)) + name
        }
        return "\(bytes)"
    }

    var defaultValueDescription: String { description }
}
