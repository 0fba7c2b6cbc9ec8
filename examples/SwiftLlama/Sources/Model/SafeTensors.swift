internal import Foundation

/// A tensor of bf16 in a mapped file.
final class Tensor: Sendable {
    /// Its name in the file.
    let name: String
    /// Its axes, outermost first.
    let shape: [Int]
    private let file: MappedFile
    private let range: Range<Int>

    init(name: String, shape: [Int], file: MappedFile, range: Range<Int>) {
        self.name = name
        self.shape = shape
        self.file = file
        self.range = range
    }

    /// Lends the bytes: the product of `shape` bf16 numbers.
    func withBytes<Result>(_ body: (RawSpan) throws -> Result) rethrows -> Result { try file.withBytes(range, body) }
}

/// A safetensors file: 8 bytes with the length of a JSON header, the header, the tensors' bytes
/// (https://github.com/huggingface/safetensors#format). Nothing in the header is believed before it was compared with
/// the size of the file.
struct SafeTensors {
    /// The tensors by name.
    let tensors: [String: Tensor]
    /// The whole file, for its digest.
    let file: MappedFile

    private struct Entry: Decodable {
        let dtype: String
        let shape: [Int]
        let data_offsets: [Int]
    }

    /// `__metadata__` is text, everything else is a tensor.
    private enum HeaderItem: Decodable {
        case tensor(Entry)
        case metadata

        init(from decoder: any Decoder) throws {
            if decoder.codingPath.last?.stringValue == "__metadata__" {
                self = .metadata
            } else {
                self = .tensor(try Entry(from: decoder))
            }
        }
    }

    static let longestHeader = 100_000_000

    /// Maps and checks a file.
    init(_ path: String) throws(ModelError) {
        let file = try MappedFile(path)
        guard file.byteCount >= 8 else { throw ModelError("\(path): too short for a safetensors file") }
        let length = file.withBytes(0..<8) { bytes in
            (0..<8).reduce(UInt64(0)) { $0 | UInt64(bytes.byte(at: $1)) << UInt64(8 * $1) }
        }
        guard length >= 2, length <= UInt64(min(file.byteCount - 8, Self.longestHeader)) else {
            throw ModelError("\(path): its header would be \(length) bytes long")
        }
        let start = 8 + Int(length)
        let text = file.withBytes(8..<start) { bytes in Data((0..<bytes.byteCount).map { bytes.byte(at: $0) }) }
        let header: [String: HeaderItem]
        do {
            header = try JSONDecoder().decode([String: HeaderItem].self, from: text)
        } catch {
            throw ModelError("\(path): its header is not understood: \(error)")
        }
        var tensors: [String: Tensor] = [:]
        for (name, item) in header {
            guard case .tensor(let entry) = item else { continue }
            guard entry.dtype == "BF16" else {
                throw ModelError("\(path): tensor \(name) is \(entry.dtype); this engine reads BF16 only")
            }
            guard let range = Self.range(of: entry, in: file.byteCount - start) else {
                throw ModelError("\(path): tensor \(name) does not fit its shape or the file")
            }
            let place = start + range.lowerBound..<start + range.upperBound
            tensors[name] = Tensor(name: name, shape: entry.shape, file: file, range: place)
        }
        self.tensors = tensors
        self.file = file
    }

    private static func range(of entry: Entry, in byteCount: Int) -> Range<Int>? {
        var size = 2
        for length in entry.shape {
            let (product, overflow) = size.multipliedReportingOverflow(by: length)
            guard length > 0, !overflow else { return nil }
            size = product
        }
        let offsets = entry.data_offsets
        guard offsets.count == 2, offsets[0] >= 0, offsets[0] <= offsets[1], offsets[1] <= byteCount,
            offsets[1] - offsets[0] == size
        else { return nil }
        return offsets[0]..<offsets[1]
    }
}

extension RawSpan {
    /// One byte, checked.
    func byte(at offset: Int) -> UInt8 {
        precondition(offset >= 0 && offset < byteCount, "outside the span")
        // Safe: checked above, and a byte has no alignment.
        return unsafe unsafeLoad(fromByteOffset: offset, as: UInt8.self)
    }
}
