internal import Glibc

/// A new file that is written from front to back around the page cache, by a thread of its own: while one chunk is on
/// its way to the disk, the next is filled.
///
/// What is appended is written where the kernel takes it from: by the caller, into the room that it asks for, or by a
/// copy. What is left at the end, less than a page, goes through the page cache, and so does everything where the file
/// system has no direct writes. An error of the thread shows at a later call, or in `finish`. One caller at a time.
final class SequentialFile {
    /// One request to the disk.
    static let chunkByteCount = 1 << 20

    private let path: String
    private let chunks: ChunkWriter
    private var thread: DiskThread?
    /// Bytes appended so far.
    private(set) var byteCount = 0
    /// Time that was spent waiting for the disk.
    private(set) var waitNanoseconds: UInt64 = 0

    /// Makes the file, readable by this user only.
    ///
    /// - Parameter buffer: what it is made in; nobody else's until the file is finished or gone.
    init(path: String, buffer: WriteBuffer) throws(KVStoreError) {
        self.path = path
        chunks = try ChunkWriter(path: path, buffer: buffer)
    }

    deinit { endThread() }

    private var fullChunkCount: Int { byteCount / Self.chunkByteCount }

    /// The place of the next `count` bytes, in one piece; valid until the next call. `advance` appends what of it was
    /// filled.
    func room(_ count: Int) throws(KVStoreError) -> UnsafeMutableRawBufferPointer {
        if !chunks.buffer.hasRoom(for: count) {
            try waitUntilWritten(fullChunkCount)
            try chunks.buffer.grow(for: count, keeping: fullChunkCount * Self.chunkByteCount..<byteCount, path)
        }
        let overtaken = byteCount + count - chunks.buffer.byteCount
        try waitUntilWritten((max(0, overtaken) + Self.chunkByteCount - 1) / Self.chunkByteCount)
        return unsafe chunks.buffer.bytes(at: byteCount, count: count)
    }

    /// Appends the first `count` bytes of the room.
    func advance(_ count: Int) throws(KVStoreError) {
        let before = fullChunkCount
        byteCount += count
        guard fullChunkCount > before else { return }
        if thread == nil {
            thread = DiskThread(name: "kvstore-io") { [chunks] in chunks.run() }
        }
        chunks.submit(fullChunkCount)
        // Without a thread there is no hurry, but there must be an end.
        if thread?.isRunning != true {
            let start = monotonicNanoseconds()
            chunks.writeSubmitted()
            waitNanoseconds += monotonicNanoseconds() - start
        }
    }

    func append(_ bytes: UnsafeRawBufferPointer) throws(KVStoreError) {
        for start in stride(from: 0, to: bytes.count, by: Self.chunkByteCount) {
            let end = min(bytes.count, start + Self.chunkByteCount)
            // The room is as long as the piece.
            try unsafe room(end - start).copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[start..<end]))
            try advance(end - start)
        }
    }

    /// Writes what is left and syncs the file. Of no further use afterwards.
    func finish() throws(KVStoreError) {
        try waitUntilWritten(fullChunkCount)
        let start = monotonicNanoseconds()
        defer { waitNanoseconds += monotonicNanoseconds() - start }
        endThread()
        let written = fullChunkCount * Self.chunkByteCount
        // Nobody else writes any more.
        let rest = unsafe UnsafeRawBufferPointer(chunks.buffer.bytes(at: written, count: byteCount - written))
        let direct = rest.count & ~(pageByteCount - 1)
        try unsafe chunks.write(UnsafeRawBufferPointer(rebasing: rest[..<direct]), at: written)
        chunks.useCache()
        try unsafe chunks.write(UnsafeRawBufferPointer(rebasing: rest[direct...]), at: written + direct)
        try chunks.synchronize()
    }

    /// Waits until the chunks below `count` are written.
    private func waitUntilWritten(_ count: Int) throws(KVStoreError) {
        let start = monotonicNanoseconds()
        defer { waitNanoseconds += monotonicNanoseconds() - start }
        try chunks.waitUntilWritten(count)
    }

    private func endThread() {
        chunks.end()
        thread?.join()
        thread = nil
    }
}

/// What files are written in, one after the other: a ring of chunks that grows with the longest piece that was asked for
/// and stays as it is from file to file.
///
/// @unchecked Sendable: belongs to the caller of the file that uses it; its thread looks only at chunks that were
/// submitted, and the ring is not changed while there are any.
final class WriteBuffer: @unchecked Sendable {
    private var ring: RingBuffer?

    var byteCount: Int { ring?.byteCount ?? 0 }

    /// Besides the piece there is a chunk that is not full yet, and one on its way.
    private static func byteCount(for count: Int) -> Int {
        roundUp(count, to: SequentialFile.chunkByteCount) + 2 * SequentialFile.chunkByteCount
    }

    func hasRoom(for count: Int) -> Bool { Self.byteCount(for: count) <= byteCount }

    /// - Parameter kept: the part of the file that is to be in the new ring, too.
    func grow(for count: Int, keeping kept: Range<Int>, _ path: String) throws(KVStoreError) {
        // Less than a chunk; so that the old ring can go first. Without one nothing was appended yet.
        let bytes = ring.map { unsafe Array($0.bytes(at: kept.lowerBound, count: kept.count)) } ?? []
        ring = nil
        guard let larger = RingBuffer(byteCount: Self.byteCount(for: count)) else {
            throw KVStoreError(.io, "no memory for writing \(path)")
        }
        unsafe larger.bytes(at: kept.lowerBound, count: kept.count).copyBytes(from: bytes)
        ring = larger
    }

    /// The place of a part of the file; valid until the ring grows.
    func bytes(at offset: Int, count: Int) -> UnsafeMutableRawBufferPointer {
        guard let ring else { return unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0) }
        return unsafe ring.bytes(at: offset, count: count)
    }
}

/// The file, and how far it is.
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

    let buffer: WriteBuffer
    private let path: String
    private let descriptor: Int32
    private let progress = Monitor(Progress())

    init(path: String, buffer: WriteBuffer) throws(KVStoreError) {
        self.path = path
        self.buffer = buffer
        descriptor = try DiskFiles.createForDirectWrites(path)
    }

    deinit { close(descriptor) }

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
            let offset = number * SequentialFile.chunkByteCount
            // Ours until it counts as written.
            let bytes = unsafe buffer.bytes(at: offset, count: SequentialFile.chunkByteCount)
            try unsafe write(UnsafeRawBufferPointer(bytes), at: offset)
            progress.update { $0.writtenCount += 1 }
            return true
        } catch {
            progress.update { $0.failure = error }
            return false
        }
    }
}
