import ArgumentParser
import KVStoreServer

/// A number of bytes as people write it: `64KiB`, `1.5GiB`, `4GB`, or plain bytes.
struct ByteSize: Hashable, Sendable {
    var byteCount: Int

    init(_ byteCount: Int) { self.byteCount = byteCount }

    /// Reads a size; the error says which part is wrong and what would be right.
    init(parsing text: String) throws(ValidationError) {
        do throws(SettingProblem) {
            byteCount = try ByteText.parse(text)
        } catch {
            throw ValidationError(error.description)
        }
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
