/// Encodes the blocks of one segment, a few records ahead of the thread that writes them: block n + 1 is coded while
/// block n is on its way into the file.
///
/// The staging buffer is cut into places of the longest record, used in turn. A byte is copied once here, from its slot
/// into its place (or coded into it), and hashed while it is in cache. With room for one record only, coding and writing
/// take turns.
///
/// @unchecked Sendable: a place belongs to the encoder until the record is announced and to the writer until `release`,
/// both under the monitor; slots are pinned by the items until the segment is finished or has failed, after `finish`.
final class EncodeAhead: @unchecked Sendable {
    /// One block to encode.
    struct Job {
        let item: SpillItem
        let digest: UInt64
        let sequence: UInt64
    }

    private struct Progress {
        /// Length of each record encoded so far.
        var byteCounts: [Int] = []
        var releasedCount = 0
        var isCancelled = false
        var isFinished = false
    }

    private let jobs: [Job]
    private let codec: CodecChoice
    private let conditions: WriteConditions
    private let staging: RecordBuffer
    private let placeByteCount: Int
    /// Records that may be encoded and not yet written.
    let placeCount: Int
    private let progress = Monitor(Progress())

    /// - Precondition: every record fits the staging buffer; `BlockStore.namespace` refuses blocks that do not.
    init(_ jobs: [Job], codec: CodecChoice, conditions: WriteConditions, staging: RecordBuffer) {
        self.jobs = jobs
        self.codec = codec
        self.conditions = conditions
        self.staging = staging
        let longest = jobs.reduce(1) { longest, job in
            // Blocks are only queued once their namespace's geometry is known (`canQueue`).
            max(
                longest,
                BlockRecord.maximumByteCount(rawByteCount: job.item.rawByteCount, geometry: job.item.geometry!)
            )
        }
        placeByteCount = roundUp(longest, to: 64)
        placeCount = max(1, min(jobs.count, unsafe staging.bytes.count / placeByteCount))
    }

    /// Encodes everything, waiting for places. Ends early after `cancel`.
    func run() {
        for number in jobs.indices {
            let mayGoOn = progress.wait(untilNanoseconds: nil) { progress -> Bool? in
                if progress.isCancelled { return false }
                return number - progress.releasedCount < placeCount ? true : nil
            }
            guard mayGoOn == true else { break }
            let byteCount = encode(jobs[number], into: number)
            progress.update { $0.byteCounts.append(byteCount) }
        }
        progress.update { $0.isFinished = true }
    }

    /// Lends the record of job `number`, waiting until it is there, and gives its place back afterwards. In order.
    func withRecord<Result>(
        _ number: Int,
        _ body: (UnsafeRawBufferPointer) throws(KVStoreError) -> Result
    ) throws(KVStoreError) -> Result {
        let byteCount = progress.wait(untilNanoseconds: nil) { progress in
            number < progress.byteCounts.count ? progress.byteCounts[number] : nil
        }
        defer { progress.update { $0.releasedCount += 1 } }
        return try unsafe body(UnsafeRawBufferPointer(rebasing: place(number)[..<byteCount!]))
    }

    /// Stops, and waits until no slot is read any more.
    func cancel() {
        progress.update { $0.isCancelled = true }
        _ = progress.wait(untilNanoseconds: nil) { $0.isFinished ? true : nil }
    }

    private func place(_ number: Int) -> UnsafeMutableRawBufferPointer {
        let start = number % placeCount * placeByteCount
        return unsafe UnsafeMutableRawBufferPointer(
            rebasing: staging.bytes[start..<min(staging.bytes.count, start + placeByteCount)]
        )
    }

    private func encode(_ job: Job, into number: Int) -> Int {
        let item = job.item
        let identity = RecordIdentity(
            key: item.key,
            parent: item.parentKey,
            fingerprint: item.fingerprint,
            sequence: job.sequence
        )
        // The item's pin keeps the slot; the place is ours until it is announced.
        return unsafe BlockRecord.encode(
            identity,
            geometry: item.geometry!,
            codec: codec,
            conditions: conditions,
            raw: item.memory!.bytes(item.rawByteCount),
            rawDigest: job.digest,
            into: place(number)
        )
    }
}
