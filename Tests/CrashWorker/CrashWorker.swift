import Glibc
import KVStore
import KVStoreTestSupport

/// The process that the crash tests kill, damage and starve. Speaks lines on standard output.
///
/// ```
/// CrashWorker load DIRECTORY STATE SEED KIND FIRST-ID CAPACITY DELAY    stores until it is killed; see LoadSession
/// CrashWorker check                                                    opens directories named on stdin; see CheckLoop
/// CrashWorker client SOCKET SEED [TOKEN-FILE]                            uses a daemon until it is killed; see ClientSession
/// CrashWorker heir SOCKET                                              a client whose child keeps its socket; see HeirSession
/// CrashWorker hits SOCKET COUNT                                        so many hits; see HitSession
/// CrashWorker hold DIRECTORY                                           keeps the directory open until stdin ends
/// ```
@main
struct CrashWorker {
    static func main() throws {
        let arguments = CommandLine.arguments
        switch arguments.dropFirst().first {
        case "load": try LoadSession(arguments: Array(arguments.dropFirst(2))).run()
        case "check": CheckLoop().run()
        case "client": try ClientSession(arguments: Array(arguments.dropFirst(2))).run()
        case "heir": try HeirSession.run(socketPath: arguments[2])
        case "hits": try HitSession.run(socketPath: arguments[2], count: Int(arguments[3]) ?? 0)
        case "hold":
            let store = try BlockStore(
                Configuration(
                    memoryCapacityBytes: 16 << 20,
                    disk: DiskConfiguration(path: arguments[2], capacityBytes: 64 << 20)
                )
            )
            say("warm \(store.waitUntilWarm() ? 1 : 0)")
            while readLine() != nil {}
        default:
            say("usage: CrashWorker load|check|client|heir|hits|hold …")
            exit(64)
        }
    }
}

/// Writes one line with one write(2): whatever was said before a kill is in the pipe, and whole.
func say(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    _ = write(STDOUT_FILENO, bytes, bytes.count)
}

/// The clock that the parent reads too.
func nanosecondsNow() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}
