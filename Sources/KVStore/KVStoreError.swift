/// What went wrong, and what to do about it.
///
/// A miss is never an error. A programming mistake (a slot index out of range) is a precondition. This type is for the
/// world: wrong configuration, wrong path, no permission, no space.
public struct KVStoreError: Error, Sendable, Hashable {
    /// The kind of failure; compare with the constants below. New ones may be added.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        /// The code's name as shown to people.
        public let description: String
        package init(_ description: String) { self.description = description }

        /// A value in a configuration or an argument is outside what is allowed.
        public static let invalidArgument = Code("invalidArgument")
        /// The store was closed.
        public static let closed = Code("closed")
        /// The kernel gave no memory, or no descriptor, for a region.
        public static let outOfMemory = Code("outOfMemory")
        /// A directory or file cannot be read or written with this process's rights.
        public static let permissionDenied = Code("permissionDenied")
        /// Another process, or another store of this one, holds the directory.
        public static let locked = Code("locked")
        /// The directory holds something that kvstore did not write.
        public static let foreignDirectory = Code("foreignDirectory")
        /// The directory was written by a later version.
        public static let futureFormat = Code("futureFormat")
        /// The file system has no room left.
        public static let diskFull = Code("diskFull")
        /// Stored bytes are not what was written.
        public static let corrupt = Code("corrupt")
        /// The daemon cannot be reached, or refuses.
        public static let unavailable = Code("unavailable")
        /// Any other input/output failure.
        public static let io = Code("io")
    }

    /// The kind of failure.
    public let code: Code
    /// One sentence: what failed, on what, and what to do. Never holds token ids, whole keys or payload.
    public let message: String

    package init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }
}

extension KVStoreError: CustomStringConvertible {
    /// `code: message`.
    public var description: String { "\(code): \(message)" }
}
