// The only file here that imports RocksDB: what a plain database does with the same values.
import CRocksDB
import Foundation

/// `rocksdb_put` into a database of its own, tuned only where the default would be unfair to it: no write-ahead log, no
/// compression (the values have none to give).
enum RocksPut {
    /// Puts `count` values, flushes, and returns the nanoseconds of both. Opening and closing do not count.
    static func write(_ payload: Payload, count: Int, directory: String, usesBlobs: Bool) throws -> Double {
        let options = rocksdb_options_create()
        defer { rocksdb_options_destroy(options) }
        rocksdb_options_set_create_if_missing(options, 1)
        rocksdb_options_set_compression(options, Int32(rocksdb_no_compression))
        if usesBlobs { rocksdb_options_set_enable_blob_files(options, 1) }
        let database = try checked("open a database") { rocksdb_open(options, directory, $0) }
        defer { rocksdb_close(database) }
        let writing = rocksdb_writeoptions_create()
        rocksdb_writeoptions_disable_WAL(writing, 1)
        defer { rocksdb_writeoptions_destroy(writing) }
        let flushing = rocksdb_flushoptions_create()
        rocksdb_flushoptions_set_wait(flushing, 1)
        defer { rocksdb_flushoptions_destroy(flushing) }
        return try Sample.nanoseconds {
            for number in 0..<count {
                let value = payload.bytes(number)
                // Keys as long as ours and in no order, as digests are.
                let digest = UInt64(number) &* 0x9E37_79B9_7F4A_7C15
                try withUnsafeBytes(of: (digest, digest, digest, UInt64(number))) { key in
                    try checked("put") {
                        rocksdb_put(
                            database, writing, key.baseAddress!.assumingMemoryBound(to: CChar.self), key.count,
                            value.baseAddress!.assumingMemoryBound(to: CChar.self), value.count, $0
                        )
                    }
                }
            }
            try checked("flush") { rocksdb_flush(database, flushing, $0) }
        }
    }

    private static func checked<Result>(
        _ action: String,
        _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Result
    ) throws -> Result {
        var failure: UnsafeMutablePointer<CChar>?
        let result = body(&failure)
        guard let failure else { return result }
        defer { rocksdb_free(failure) }
        throw BenchError("RocksDB cannot \(action): \(String(cString: failure))")
    }
}
