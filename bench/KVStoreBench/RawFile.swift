import Foundation
import Synchronization

#if arch(arm64)
    /// Not in Swift's Glibc module.
    private let O_DIRECT: Int32 = 0o200000
#else
    /// Not in Swift's Glibc module.
    private let O_DIRECT: Int32 = 0o40000
#endif

/// What the disk itself does: a file with O_DIRECT, so that neither the page cache nor a library is in the way.
///
/// @unchecked Sendable: a descriptor, used with pread and pwrite only.
final class RawFile: @unchecked Sendable {
    private let descriptor: Int32
    private let requestBytes: Int

    /// Makes the file anew.
    init(_ path: String, requestBytes: Int) throws {
        self.requestBytes = requestBytes
        descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw BenchError.system("open '\(path)' with O_DIRECT") }
    }

    deinit { close(descriptor) }

    /// Writes `count` requests one after the other from one thread, then fdatasync. Returns nanoseconds.
    func write(_ payload: Payload, count: Int) throws -> Double {
        try Sample.nanoseconds {
            for number in 0..<count {
                let bytes = payload.bytes(number)
                guard pwrite(descriptor, bytes.baseAddress, requestBytes, off_t(number * requestBytes)) == requestBytes
                else { throw BenchError.system("write a raw file") }
            }
            guard fdatasync(descriptor) == 0 else { throw BenchError.system("sync a raw file") }
        }
    }

    /// Reads runs of `runLength` requests with several threads. Returns nanoseconds.
    ///
    /// - Parameter waits: the threads read one run together and only then go on to the next, as somebody does who
    ///   needs a run before he can ask for another. Otherwise nobody ever waits.
    func read(
        runs: [Int],
        runLength: Int,
        threads: Int,
        waits: Bool,
        into buffer: UnsafeMutableRawBufferPointer
    ) -> Double {
        precondition(buffer.count >= runLength * requestBytes)
        let work = ReadWork(runs: runs, runLength: runLength, threads: threads, waits: waits)
        nonisolated(unsafe) let buffer = buffer
        return Sample.nanoseconds {
            runThreads(threads) { _ in
                while let (run, piece) = work.next() {
                    let offset = off_t((run * runLength + piece) * self.requestBytes)
                    let target = buffer.baseAddress! + piece * self.requestBytes
                    let count = pread(self.descriptor, target, self.requestBytes, offset)
                    precondition(count == self.requestBytes, "a raw read failed")
                }
            }
        }
    }
}

/// Hands out the pieces of runs to threads.
///
/// @unchecked Sendable: the barrier is made for being shared, the rest is atomic or constant.
private final class ReadWork: @unchecked Sendable {
    private let runs: [Int]
    private let runLength: Int
    private let waits: Bool
    /// Pieces handed out of each run.
    private let taken: [Counter]
    private let barrier = UnsafeMutablePointer<pthread_barrier_t>.allocate(capacity: 1)
    private static let key = "kvstore-bench.run"

    private final class Counter: Sendable {
        let value = Atomic<Int>(0)
    }

    init(runs: [Int], runLength: Int, threads: Int, waits: Bool) {
        (self.runs, self.runLength, self.waits) = (runs, runLength, waits)
        taken = runs.map { _ in Counter() }
        pthread_barrier_init(barrier, nil, UInt32(threads))
    }

    deinit {
        pthread_barrier_destroy(barrier)
        barrier.deallocate()
    }

    /// The next piece for the calling thread: the run's number in the file and the piece's in the run.
    func next() -> (run: Int, piece: Int)? {
        let local = Thread.current.threadDictionary
        var position = local[Self.key] as? Int ?? 0
        defer { local[Self.key] = position }
        while position < runs.count {
            let piece = taken[position].value.add(1, ordering: .relaxed).oldValue
            if piece < runLength { return (runs[position], piece) }
            if waits { pthread_barrier_wait(barrier) }
            position += 1
        }
        return nil
    }
}
