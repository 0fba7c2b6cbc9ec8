// The only file that imports CKVStore; what it declares is seen by the others through here.
@_exported public import CKVStore
internal import KVStore
internal import KVStoreIPC

/// Why a call failed: a status and a sentence.
struct CallError: Error {
    let status: kvstore_status
    let message: String

    init(_ status: Int, _ message: String) {
        self.status = kvstore_status(status)
        self.message = message
    }

    static func invalidArgument(_ message: String) -> CallError { CallError(KVSTORE_INVALID_ARGUMENT, message) }

    /// The store's own errors; codes that are added to it later are `KVSTORE_INTERNAL` until they get a status here.
    init(_ error: KVStoreError) {
        let status =
            switch error.code {
            case .invalidArgument: KVSTORE_INVALID_ARGUMENT
            case .closed: KVSTORE_CLOSED
            case .outOfMemory: KVSTORE_OUT_OF_MEMORY
            case .permissionDenied: KVSTORE_PERMISSION_DENIED
            case .locked: KVSTORE_LOCKED
            case .foreignDirectory: KVSTORE_FOREIGN_DIRECTORY
            case .futureFormat: KVSTORE_FUTURE_FORMAT
            case .diskFull: KVSTORE_DISK_FULL
            case .corrupt: KVSTORE_CORRUPT
            case .unavailable: KVSTORE_UNAVAILABLE
            case .io: KVSTORE_IO
            default: KVSTORE_INTERNAL
            }
        self.init(status, error.message)
    }
}

/// Runs the body of an exported function: what it throws becomes the status and the thread's last error.
func guarded(_ body: () throws(CallError) -> Int) -> kvstore_status {
    do throws(CallError) {
        return kvstore_status(try body())
    } catch {
        keepLastError(error.message)
        return error.status
    }
}

/// Keeps a sentence for `kvstore_last_error` of this thread.
func keepLastError(_ message: String) {
    var message = message
    // Safe: C copies as many bytes as it is told are there.
    message.withUTF8 { text in
        unsafe text.withMemoryRebound(to: CChar.self) { bytes in
            guard let first = bytes.baseAddress else { return unsafe CKVStore_set_last_error("", 0) }
            unsafe CKVStore_set_last_error(first, bytes.count)
        }
    }
}
