// The only file that imports RocksDB. Handles are owned by the classes below and pointers never leave this file, except
// as buffers lent to a closure. Every C call here is given pointers that live for the length of the call: that is the
// reason behind each `unsafe` that states no other.
import CRocksDB
import Glibc
import Synchronization

/// What a RocksDB handle is opened with; everything else is fixed below.
struct RocksDatabaseOptions: Sendable {
    var maxOpenFileCount: Int
    var usesDirectReads: Bool
}

/// One change of the index; a list of them is applied whole or not at all.
enum IndexChange {
    case put(key: [UInt8], value: [UInt8])
    case delete(key: [UInt8])
    case deleteRange(lower: [UInt8], upper: [UInt8])
}

/// The column families that hold something. RocksDB insists on a third, `default`, which stays empty.
enum ColumnFamily: String, CaseIterable {
    case segments
    case index
}

/// One table file of an open database.
struct LiveTable {
    var family: ColumnFamily?
    var name: String
    var level: Int
    var byteCount: Int
    var smallestKey: [UInt8]

    /// The segment that it is, if it is one.
    var segment: UInt32? {
        guard family == .segments else { return nil }
        // Valid for the length of the closure.
        return unsafe smallestKey.withUnsafeBytes { unsafe IndexEncoding.recordPosition(key: $0)?.segment }
    }
}

/// The process that opened a database first; 0 before that.
private let firstOpener = Atomic<pid_t>(0)

/// RocksDB has threads for the whole process, which do not live on in a child of `fork`. A database there would be
/// written to, but closing it would wait for them for ever.
func requireRocksThreads() throws(KVStoreError) {
    let own = getpid()
    let (_, first) = firstOpener.compareExchange(expected: 0, desired: own, ordering: .relaxed)
    guard first == 0 || first == own else {
        throw KVStoreError(
            .invalidArgument,
            "process \(first), from which this one was forked, has had a disk tier, and RocksDB's threads do not live on "
                + "in a child: use a daemon, or start the child with exec"
        )
    }
}

/// An open database. Safe to use from any thread, but `close` must come after everything else.
@safe
final class RocksDatabase: @unchecked Sendable {  // RocksDB synchronises itself; the fields change only in close().
    private var handle: OpaquePointer?
    private var defaultFamily: OpaquePointer?
    private var segmentsFamily: OpaquePointer?
    private var indexFamily: OpaquePointer?
    private let readOptions: OpaquePointer
    private let writeOptions: OpaquePointer

    /// - Parameter create: makes a new database; otherwise there must be one.
    init(path: String, options: RocksDatabaseOptions, create: Bool) throws(KVStoreError) {
        let databaseOptions = unsafe makeDatabaseOptions(options, create: create)
        let segmentOptions = unsafe makeSegmentOptions()
        let indexOptions = unsafe makeIndexOptions()
        defer {
            unsafe rocksdb_options_destroy(databaseOptions)
            unsafe rocksdb_options_destroy(segmentOptions)
            unsafe rocksdb_options_destroy(indexOptions)
        }
        var families: [OpaquePointer?] = unsafe [nil, nil, nil]
        let opened = try unsafe checked("open the database in \(path)") { failure in
            unsafe "default".withCString { defaultName in
                unsafe ColumnFamily.segments.rawValue.withCString { segmentsName in
                    unsafe ColumnFamily.index.rawValue.withCString { indexName in
                        var names: [UnsafePointer<CChar>?] = unsafe [defaultName, segmentsName, indexName]
                        var options: [OpaquePointer?] = unsafe [indexOptions, segmentOptions, indexOptions]
                        return unsafe rocksdb_open_column_families(
                            databaseOptions,
                            path,
                            3,
                            &names,
                            &options,
                            &families,
                            failure
                        )
                    }
                }
            }
        }
        unsafe handle = opened
        unsafe (defaultFamily, segmentsFamily, indexFamily) = unsafe (families[0], families[1], families[2])
        unsafe readOptions = rocksdb_readoptions_create()
        unsafe rocksdb_readoptions_set_verify_checksums(readOptions, 1)
        unsafe rocksdb_readoptions_set_fill_cache(readOptions, 0)
        // With the write-ahead log, without fsync: survives the end of the process, not of the machine.
        unsafe writeOptions = rocksdb_writeoptions_create()
    }

    deinit {
        close(flushing: false)
        unsafe rocksdb_readoptions_destroy(readOptions)
        unsafe rocksdb_writeoptions_destroy(writeOptions)
    }

    /// Idempotent. Nobody may be using the database, iterators included.
    ///
    /// - Parameter flushing: writes the index's memory table out first, so that the next open has no log to replay.
    func close(flushing: Bool) {
        guard let handle = unsafe handle else { return }
        if flushing {
            let options = unsafe rocksdb_flushoptions_create()
            // What cannot be flushed is in the write-ahead log.
            try? unsafe checked("flush the index") { unsafe rocksdb_flush_cf(handle, options, indexFamily, $0) }
            unsafe rocksdb_flushoptions_destroy(options)
        }
        unsafe rocksdb_cancel_all_background_work(handle, 1)
        // An assertion of RocksDB aborts the process if a family outlives its database.
        unsafe rocksdb_column_family_handle_destroy(defaultFamily)
        unsafe rocksdb_column_family_handle_destroy(segmentsFamily)
        unsafe rocksdb_column_family_handle_destroy(indexFamily)
        unsafe rocksdb_close(handle)
        unsafe self.handle = nil
    }

    private func pointer(_ family: ColumnFamily) -> OpaquePointer? {
        switch family {
        case .segments: return unsafe segmentsFamily
        case .index: return unsafe indexFamily
        }
    }

    // MARK: Reading

    /// Lends the value without copying it, for the length of `body`. nil when there is none.
    func get<Result>(
        _ family: ColumnFamily,
        key: [UInt8],
        _ body: (UnsafeRawBufferPointer) throws(KVStoreError) -> Result
    ) throws(KVStoreError) -> Result? {
        let slice = try unsafe checked("read a record") { failure in
            unsafe key.withCharacters {
                unsafe rocksdb_get_pinned_cf(handle, readOptions, pointer(family), $0, $1, failure)
            }
        }
        guard let slice = unsafe slice else { return nil }
        defer { unsafe rocksdb_pinnableslice_destroy(slice) }
        var byteCount = 0
        // The bytes belong to the slice and stay until it is destroyed, after `body`.
        let bytes = unsafe rocksdb_pinnableslice_value(slice, &byteCount)
        return try unsafe body(UnsafeRawBufferPointer(start: bytes, count: byteCount))
    }

    /// Calls `body` with each key and value of the index from `lower` to below `upper`, in order, until it answers false.
    /// The buffers are only valid inside the call.
    func forEach(
        from lower: [UInt8],
        to upper: [UInt8],
        _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Bool
    ) throws(KVStoreError) {
        let options = unsafe rocksdb_readoptions_create()
        unsafe rocksdb_readoptions_set_verify_checksums(options, 1)
        unsafe rocksdb_readoptions_set_fill_cache(options, 0)
        defer { unsafe rocksdb_readoptions_destroy(options) }
        // RocksDB keeps the pointer to the bound, so the whole loop runs where it is valid.
        try unsafe checked("read a range of the database") { failure in
            unsafe upper.withCharacters { bound, boundByteCount in
                unsafe rocksdb_readoptions_set_iterate_upper_bound(options, bound, boundByteCount)
                let iterator = unsafe rocksdb_create_iterator_cf(handle, options, indexFamily)
                defer { unsafe rocksdb_iter_destroy(iterator) }
                unsafe lower.withCharacters { unsafe rocksdb_iter_seek(iterator, $0, $1) }
                while unsafe rocksdb_iter_valid(iterator) == 1 {
                    var keyByteCount = 0
                    var valueByteCount = 0
                    let key = unsafe rocksdb_iter_key(iterator, &keyByteCount)
                    let value = unsafe rocksdb_iter_value(iterator, &valueByteCount)
                    let goesOn = unsafe body(
                        UnsafeRawBufferPointer(start: key, count: keyByteCount),
                        UnsafeRawBufferPointer(start: value, count: valueByteCount)
                    )
                    guard goesOn else { return }
                    unsafe rocksdb_iter_next(iterator)
                }
                unsafe rocksdb_iter_get_error(iterator, failure)
            }
        }
    }

    func liveTables() -> [LiveTable] {
        let files = unsafe rocksdb_livefiles(handle)
        defer { unsafe rocksdb_livefiles_destroy(files) }
        let count = unsafe rocksdb_livefiles_count(files)
        return (0..<count).map { index in
            var keyByteCount = 0
            let key = unsafe rocksdb_livefiles_smallestkey(files, index, &keyByteCount)
            let name = unsafe String(cString: rocksdb_livefiles_name(files, index))
            let family = unsafe String(cString: rocksdb_livefiles_column_family_name(files, index))
            return unsafe LiveTable(
                family: ColumnFamily(rawValue: family),
                name: name.hasPrefix("/") ? String(name.dropFirst()) : name,
                level: Int(rocksdb_livefiles_level(files, index)),
                byteCount: rocksdb_livefiles_size(files, index),
                smallestKey: Array(UnsafeRawBufferPointer(start: key, count: keyByteCount))
            )
        }
    }

    // MARK: Writing. After the first error of one of these the handle must not be written to again: Debian's RocksDB
    // has assertions on, and some of them abort the process of whoever goes on.

    func apply(_ changes: [IndexChange]) throws(KVStoreError) {
        let batch = unsafe rocksdb_writebatch_create()
        defer { unsafe rocksdb_writebatch_destroy(batch) }
        for change in changes {
            switch change {
            case .put(let key, let value):
                unsafe key.withCharacters { key, keyByteCount in
                    unsafe value.withCharacters {
                        unsafe rocksdb_writebatch_put_cf(batch, indexFamily, key, keyByteCount, $0, $1)
                    }
                }
            case .delete(let key):
                unsafe key.withCharacters { unsafe rocksdb_writebatch_delete_cf(batch, indexFamily, $0, $1) }
            case .deleteRange(let lower, let upper):
                unsafe lower.withCharacters { lower, lowerByteCount in
                    unsafe upper.withCharacters {
                        unsafe rocksdb_writebatch_delete_range_cf(batch, indexFamily, lower, lowerByteCount, $0, $1)
                    }
                }
            }
        }
        try unsafe checked("write rows of the index") { unsafe rocksdb_write(handle, writeOptions, batch, $0) }
    }

    /// Takes a finished segment file into the database by moving it. It is refused if its range is already there.
    func ingest(_ path: String) throws(KVStoreError) {
        let options = unsafe rocksdb_ingestexternalfileoptions_create()
        defer { unsafe rocksdb_ingestexternalfileoptions_destroy(options) }
        unsafe rocksdb_ingestexternalfileoptions_set_move_files(options, 1)
        unsafe rocksdb_ingestexternalfileoptions_set_snapshot_consistency(options, 0)
        // Without a sequence number of its own a file can only go where nothing overlaps it: to the bottom.
        unsafe rocksdb_ingestexternalfileoptions_set_allow_global_seqno(options, 0)
        try unsafe checked("take \(path) into the database") { failure in
            unsafe path.withCString { name in
                var names: [UnsafePointer<CChar>?] = unsafe [name]
                unsafe rocksdb_ingest_external_file_cf(handle, segmentsFamily, &names, 1, options, failure)
            }
        }
    }

    /// Deletes the segment files that lie wholly between two record keys, both included.
    func deleteTables(from lower: [UInt8], through upper: [UInt8]) throws(KVStoreError) {
        try unsafe checked("drop a segment") { failure in
            unsafe lower.withCharacters { lower, lowerByteCount in
                unsafe upper.withCharacters {
                    unsafe rocksdb_delete_file_in_range_cf(
                        handle,
                        segmentsFamily,
                        lower,
                        lowerByteCount,
                        $0,
                        $1,
                        failure
                    )
                }
            }
        }
    }
}

// MARK: Options

/// Above every level, so RocksDB's LOG stays empty. On a full disk the second line that it tries to write there runs
/// into an assertion and aborts the process (seen in rocksdb_close, 7.8.3); errors reach us as statuses anyway.
private let informationLogLevelNothing: Int32 = 6
private let checksumXXH3: CChar = 4

/// Measured with defaults: one open and one put allocate 76 MB, most of it for logs that a cache does not need.
private func makeDatabaseOptions(_ options: RocksDatabaseOptions, create: Bool) -> OpaquePointer {
    let result = unsafe rocksdb_options_create()!
    unsafe rocksdb_options_set_create_if_missing(result, create ? 1 : 0)
    // A database whose making was interrupted has only some of its families.
    unsafe rocksdb_options_set_create_missing_column_families(result, 1)
    unsafe rocksdb_options_set_paranoid_checks(result, 1)
    unsafe rocksdb_options_set_max_open_files(result, Int32(clamping: options.maxOpenFileCount))
    unsafe rocksdb_options_set_use_direct_reads(result, options.usesDirectReads ? 1 : 0)
    // With direct reads RocksDB takes 2 MiB for each file of a compaction unless told otherwise: 10 MiB at once for the five
    // files of the index, beside regions of 56 MiB.
    unsafe rocksdb_options_compaction_readahead_size(result, 256 << 10)
    unsafe rocksdb_options_set_max_background_jobs(result, 2)
    unsafe rocksdb_options_set_max_total_wal_size(result, 2 << 20)
    unsafe rocksdb_options_set_manifest_preallocation_size(result, 64 << 10)
    unsafe rocksdb_options_set_max_manifest_file_size(result, 1 << 20)
    unsafe rocksdb_options_set_info_log_level(result, informationLogLevelNothing)
    unsafe rocksdb_options_set_max_log_file_size(result, 1 << 20)
    unsafe rocksdb_options_set_keep_log_file_num(result, 2)
    unsafe rocksdb_options_set_stats_dump_period_sec(result, 0)
    unsafe rocksdb_options_set_stats_persist_period_sec(result, 0)
    unsafe rocksdb_options_set_skip_stats_update_on_db_open(result, 1)
    return unsafe result
}

private func makeFamilyOptions() -> OpaquePointer {
    let result = unsafe rocksdb_options_create()!
    unsafe rocksdb_options_set_write_buffer_size(result, 1 << 20)
    unsafe rocksdb_options_set_compression(result, Int32(rocksdb_no_compression))
    let tables = unsafe rocksdb_block_based_options_create()
    unsafe rocksdb_block_based_options_set_checksum(tables, checksumXXH3)
    unsafe rocksdb_block_based_options_set_format_version(tables, 5)
    // The memory tier is the cache; a second copy of a block here would only be outside its cap.
    unsafe rocksdb_block_based_options_set_no_block_cache(tables, 1)
    unsafe rocksdb_options_set_block_based_table_factory(result, tables)
    unsafe rocksdb_block_based_options_destroy(tables)
    return unsafe result
}

private func makeSegmentOptions() -> OpaquePointer {
    let result = unsafe makeFamilyOptions()
    unsafe rocksdb_options_set_disable_auto_compactions(result, 1)
    return unsafe result
}

private func makeIndexOptions() -> OpaquePointer {
    let result = unsafe makeFamilyOptions()
    unsafe rocksdb_options_set_target_file_size_base(result, 8 << 20)
    unsafe rocksdb_options_set_max_bytes_for_level_base(result, 16 << 20)
    return unsafe result
}

// MARK: Errors

/// Makes one C call that reports failure through a string, and throws that as a `KVStoreError`.
private func checked<Result>(
    _ action: @autoclosure () -> String,
    _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Result
) throws(KVStoreError) -> Result {
    var failure: UnsafeMutablePointer<CChar>?
    let result = unsafe body(&failure)
    guard let failure = unsafe failure else { return result }
    // RocksDB made the string with malloc and leaves it to us.
    defer { unsafe rocksdb_free(failure) }
    throw unsafe rocksError(String(cString: failure), action())
}

private func rocksError(_ text: String, _ action: String) -> KVStoreError {
    func has(_ part: String) -> Bool { text.contains(part) }
    let message = "cannot \(action): \(text)"
    if has("No space left on device") || has("Disk quota exceeded") {
        return KVStoreError(.diskFull, message + "; free space or lower the disk capacity")
    }
    if has("While lock file") || has("lock hold by current process") { return KVStoreError(.locked, message) }
    if has("Permission denied") || has("Read-only file system") { return KVStoreError(.permissionDenied, message) }
    let isDamage = text.hasPrefix("Corruption") || has("No such file or directory") || has("create_if_missing is false")
    if isDamage { return KVStoreError(.corrupt, message) }
    if text.hasPrefix("Invalid argument") || text.hasPrefix("Not implemented") {
        return KVStoreError(.invalidArgument, message)
    }
    return KVStoreError(.io, message)
}

extension [UInt8] {
    /// Lends the bytes as the C API wants them: `char` pointer and length.
    fileprivate func withCharacters<Result>(_ body: (UnsafePointer<CChar>?, Int) -> Result) -> Result {
        // Bytes and characters have the same layout, and the buffer outlives the call.
        unsafe withUnsafeBytes { unsafe body($0.baseAddress?.assumingMemoryBound(to: CChar.self), $0.count) }
    }
}
