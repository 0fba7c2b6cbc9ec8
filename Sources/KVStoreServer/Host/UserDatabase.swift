internal import Glibc

/// Names of users and groups. Looked up when a configuration is read, never for a connection: a slow directory service
/// must not stop the event loop.
enum UserDatabase {
    static func userID(named name: String) -> UInt32? {
        // The entry points into getpwnam's own memory, which holds until the next call; the number is copied at once.
        // Configuration is read by one thread at a time.
        unsafe getpwnam(name)?.pointee.pw_uid
    }

    static func groupID(named name: String) -> UInt32? {
        // As above.
        UInt32(name) ?? (unsafe getgrnam(name)?.pointee.gr_gid)
    }
}
