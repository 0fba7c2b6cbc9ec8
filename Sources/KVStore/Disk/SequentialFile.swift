internal import Glibc

/// A new file that is written from front to back around the page cache, by a thread of its own: while one chunk is on
/// its way to the disk, the next is filled.
///
/// A byte is copied once, into a chunk, and the kernel takes it from there. What is left at the end, less than a page,
/// goes through the page cache, and so does everything where the file system has no direct writes. An error of the
/// thread shows at a later `append`, or in `finish`. One caller at a time.
final class SequentialFile {
    /// One request to the disk.
    static let chunkByteCount = 1 << 20
    /// One being filled, one being written, one waiting.
    static let chunkCount = 3

    private let path: String
    private let chunks: ChunkWriter
    private var thread: DiskThread?
    /// Chunks that were handed over.
    private var filledCount = 0
    /// Bytes in the chunk that is being filled.
    private var fill = 0

    /// Makes the file, readable by this user only.
    init(path: String) throws(KVStoreError) {
        self.path = path
        chunks = try ChunkWriter(path: path)
    }

    deinit { endThread() }

    /// Bytes appended so far.
    var byteCount: Int { filledCount * Self.chunkByteCount + fill }

    func append(_ bytes: UnsafeRawBufferPointer) throws(KVStoreError) {
        var offset = 0
        while offset < bytes.count {
            if fill == Self.chunkByteCount { try handOver() }
            let count = min(bytes.count - offset, Self.chunkByteCount - fill)
            // The chunk is ours until it is handed over, and `count` bytes are left in it.
            unsafe UnsafeMutableRawBufferPointer(rebasing: chunks.chunk(filledCount)[fill..<fill + count])
                .copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count]))
            offset += count
            fill += count
        }
    }

    /// Writes what is left and syncs the file. Of no further use afterwards.
    func finish() throws(KVStoreError) {
        try chunks.waitUntilWritten(filledCount)
        endThread()
        let direct = fill & ~(ChunkWriter.alignment - 1)
        // Nobody else writes any more.
        let rest = unsafe UnsafeRawBufferPointer(chunks.chunk(filledCount))
        try unsafe chunks.write(UnsafeRawBufferPointer(rebasing: rest[..<direct]), at: byteCount - fill)
        chunks.useCache()
        try unsafe chunks.write(UnsafeRawBufferPointer(rebasing: rest[direct..<fill]), at: byteCount - fill + direct)
        try chunks.synchronize()
    }

    /// Gives the full chunk to the thread and waits for the next to be free.
    private func handOver() throws(KVStoreError) {
        if thread == nil {
            thread = DiskThread(name: "kvstore-io") { [chunks] in chunks.run() }
        }
        filledCount += 1
        fill = 0
        chunks.submit(filledCount)
        // Without a thread there is no hurry, but there must be an end.
        if thread?.isRunning != true { chunks.writeSubmitted() }
        try chunks.waitUntilWritten(filledCount - Self.chunkCount + 1)
    }

    private func endThread() {
        chunks.end()
        thread?.join()
        thread = nil
    }
}

/// The chunks of a file in the making, and the file.
///
/// @unchecked Sendable: a chunk belongs to the thread from `submit` until it counts as written, both under the monitor,
/// and to the file's owner otherwise; the descriptor does not change.
private final class ChunkWriter: @unchecked Sendable {
    private struct Progress {
        var submittedCount = 0
        var writtenCount = 0
        var isEnding = false
        /// After it nothing more is written.
        var failure: KVStoreError?
    }

    /// What direct writes want of offsets, lengths and addresses, on any disk that we know of.
    static let alignment = 4096

    private let path: String
    private let descriptor: Int32
    private let buffer: RecordBuffer
    private let progress = Monitor(Progress())

    init(path: String) throws(KVStoreError) {
        self.path = path
        buffer = RecordBuffer(byteCount: SequentialFile.chunkByteCount * SequentialFile.chunkCount)
        guard unsafe !buffer.bytes.isEmpty else { throw KVStoreError(.io, "no memory for writing \(path)") }
        descriptor = try DiskFiles.createForDirectWrites(path)
    }

    deinit { close(descriptor) }

    func chunk(_ number: Int) -> UnsafeMutableRawBufferPointer {
        let start = number % SequentialFile.chunkCount * SequentialFile.chunkByteCount
        // In range: the buffer has that many chunks.
        return unsafe UnsafeMutableRawBufferPointer(
            rebasing: buffer.bytes[start..<start + SequentialFile.chunkByteCount]
        )
    }

    // MARK: The owner's

    /// Lets the thread write the chunks below `count`.
    func submit(_ count: Int) { progress.update { $0.submittedCount = count } }

    /// Waits until the chunks below `count` are written.
    func waitUntilWritten(_ count: Int) throws(KVStoreError) {
        let failure = progress.wait(untilNanoseconds: nil) { progress -> KVStoreError?? in
            if let failure = progress.failure { return .some(failure) }
            return progress.writtenCount >= count ? .some(nil) : nil
        }
        if let failure, let failure { throw failure }
    }

    /// Ends the thread; chunks that it has not begun stay unwritten.
    func end() { progress.update { $0.isEnding = true } }

    func useCache() { DiskFiles.endDirectWrites(descriptor) }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(KVStoreError) {
        try unsafe DiskFiles.write(bytes, to: descriptor, at: offset, path)
    }

    func synchronize() throws(KVStoreError) { try DiskFiles.synchronize(descriptor, path) }

    // MARK: The thread's

    /// Writes what is submitted until `end`.
    func run() {
        while writeNext(waiting: true) {}
    }

    /// Writes what is submitted already.
    func writeSubmitted() {
        while writeNext(waiting: false) {}
    }

    private func writeNext(waiting: Bool) -> Bool {
        let next = progress.wait(untilNanoseconds: nil) { progress -> Int?? in
            if progress.isEnding || progress.failure != nil { return .some(nil) }
            if progress.writtenCount < progress.submittedCount { return .some(progress.writtenCount) }
            return waiting ? nil : .some(nil)
        }
        guard let next, let number = next else { return false }
        do throws(KVStoreError) {
            // Ours until it counts as written.
            try unsafe write(UnsafeRawBufferPointer(chunk(number)), at: number * SequentialFile.chunkByteCount)
            progress.update { $0.writtenCount += 1 }
            return true
        } catch {
            progress.update { $0.failure = error }
            return false
        }
    }
}
