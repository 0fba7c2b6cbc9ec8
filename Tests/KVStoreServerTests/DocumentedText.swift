import Foundation
import Testing

/// A page of the documentation that tests write, or parts of it. With KVSTORE_REWRITE_GOLDEN=1 they write it anew; look
/// at the difference before you commit it.
struct DocumentedText {
    private let url: URL

    /// - Parameter path: from the root of the package on.
    init(_ path: String) {
        url = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: path)
    }

    static var isRewriting: Bool { ProcessInfo.processInfo.environment["KVSTORE_REWRITE_GOLDEN"] == "1" }

    var text: String { get throws { try String(contentsOf: url, encoding: .utf8) } }

    /// The whole page is `expected`.
    func expect(_ expected: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
        if Self.isRewriting { try expected.write(to: url, atomically: true, encoding: .utf8) }
        let found = (try? text) ?? ""
        let (old, new) = (found.split(separator: "\n"), expected.split(separator: "\n"))
        let line = zip(old, new).first { $0 != $1 }.map { "'\($0)' should be '\($1)'" } ?? "one is longer"
        // Not compared inside `#expect`, which would print both pages.
        let isSame = found == expected
        #expect(isSame, "\(url.lastPathComponent) is out of date: \(line)", sourceLocation: sourceLocation)
    }

    /// What stands between `<!-- made by tests: NAME -->` and `<!-- end -->` is `expected`.
    func expect(_ expected: String, at name: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
        let text = try text
        let start = try #require(text.range(of: "<!-- made by tests: \(name) -->\n"), "\(name)")
        let end = try #require(text[start.upperBound...].range(of: "<!-- end -->"), "\(name)")
        try expect(
            text.replacingCharacters(in: start.upperBound..<end.lowerBound, with: expected),
            sourceLocation: sourceLocation
        )
    }

    /// Bytes as they are shown, sixteen in a line.
    static func hexLines(_ bytes: [UInt8]) -> String {
        stride(from: 0, to: bytes.count, by: 16).map { start in
            let line = bytes[start..<min(start + 16, bytes.count)]
            return "  " + line.map { String(format: "%02x", $0) }.joined(separator: " ") + "\n"
        }.joined()
    }
}
