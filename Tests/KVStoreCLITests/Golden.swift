import Foundation
import Testing

/// Compares text with a file of the folder Golden. To accept new text, run the tests with KVSTORE_REWRITE_GOLDEN=1 and
/// read the diff.
func expectGolden(_ name: String, _ text: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
    let file = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Golden/\(name).txt")
    if ProcessInfo.processInfo.environment["KVSTORE_REWRITE_GOLDEN"] == "1" {
        try text.write(to: file, atomically: true, encoding: .utf8)
    }
    let golden = try String(contentsOf: file, encoding: .utf8)
    #expect(text == golden, sourceLocation: sourceLocation)
}

/// A directory that is gone when the test ends.
final class ScratchDirectory {
    let path: String

    init() throws {
        let directory = FileManager.default.temporaryDirectory.appending(path: "kvstore-cli-test-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        path = directory.path()
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// Writes a file and returns its path.
    func write(_ bytes: [UInt8], to name: String) throws -> String {
        try Data(bytes).write(to: URL(filePath: "\(path)/\(name)"))
        return "\(path)/\(name)"
    }

    func write(_ text: String, to name: String) throws -> String { try write(Array(text.utf8), to: name) }
}
