internal import Foundation

/// The files of a closed store, to damage them: what a bad disk would do.
struct StoredFiles {
    private let path: String

    init(_ path: String) { self.path = path }

    /// Turns 64 bytes of the largest segment around.
    ///
    /// - Parameter part: Where, 0 at the start of the file and 1 at its end.
    /// - Returns: the file's name.
    @discardableResult
    func damageLargestSegment(at part: Double) throws -> String {
        let folder = path + "/db"
        let sizes = try FileManager.default.contentsOfDirectory(atPath: folder).filter { $0.hasSuffix(".sst") }
            .map { name in
                let attributes = try FileManager.default.attributesOfItem(atPath: "\(folder)/\(name)")
                return (name, (attributes[.size] as? Int) ?? 0)
            }
        guard let (name, size) = sizes.max(by: { $0.1 < $1.1 }), size > 4096 else {
            throw ModelError("\(folder): there is no segment to damage")
        }
        let file = try FileHandle(forUpdating: URL(filePath: "\(folder)/\(name)"))
        let offset = UInt64(Double(size - 64) * part)
        try file.seek(toOffset: offset)
        let bytes = try file.read(upToCount: 64) ?? Data()
        try file.seek(toOffset: offset)
        try file.write(contentsOf: Data(bytes.map { ~$0 }))
        try file.close()
        return name
    }
}
