import Foundation

// What the kernel says about this process and its files: an opinion the store cannot influence.

/// The inode behind a descriptor.
func inode(of descriptor: Int32) -> UInt64 {
    var status = stat()
    return fstat(descriptor, &status) == 0 ? UInt64(status.st_ino) : 0
}

/// Inodes of the region memfds that this process has open.
func openRegionInodes() -> Set<UInt64> {
    var found: Set<UInt64> = []
    for name in (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")) ?? [] {
        guard let descriptor = Int32(name),
            let target = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\(name)"),
            target.contains("memfd:kvstore-region")
        else { continue }
        found.insert(inode(of: descriptor))
    }
    return found
}

/// Inodes of the region memfds that this process has mapped.
func mappedRegionInodes() -> Set<UInt64> {
    // /proc files say they are empty; so read until the end.
    guard let handle = FileHandle(forReadingAtPath: "/proc/self/maps") else { return [] }
    let text = String(decoding: handle.readDataToEndOfFile(), as: UTF8.self)
    var found: Set<UInt64> = []
    for line in text.split(separator: "\n") where line.contains("memfd:kvstore-region") {
        let fields = line.split(separator: " ", omittingEmptySubsequences: true)
        if fields.count > 4, let inode = UInt64(fields[4]) { found.insert(inode) }
    }
    return found
}

/// Allocated bytes of everything under a directory, hard links once.
func allocatedBytes(under path: String) -> Int {
    var seen: Set<UInt64> = []
    var total = 0
    func visit(_ path: String) {
        var status = stat()
        guard lstat(path, &status) == 0, seen.insert(UInt64(status.st_ino)).inserted else { return }
        total += Int(status.st_blocks) * 512
        guard status.st_mode & S_IFMT == S_IFDIR else { return }
        for name in (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? [] { visit("\(path)/\(name)") }
    }
    visit(path)
    return total
}
