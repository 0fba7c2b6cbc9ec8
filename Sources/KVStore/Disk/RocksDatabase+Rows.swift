/// Rows and segments as the log keeps them in its database.
extension RocksDatabase {
    func row(of identity: BlockIdentity) throws(KVStoreError) -> IndexRow? {
        let key = IndexEncoding.blockKey(identity)
        let row = try unsafe get(.index, key: key) { value in
            // Both buffers are valid for the length of these closures.
            unsafe key.withUnsafeBytes { keyBytes in unsafe IndexEncoding.row(key: keyBytes, value: value) }
        }
        return row ?? nil
    }

    /// Calls `body` with every row of the index until it answers false.
    func forEachRow(_ body: (IndexRow) -> Bool) throws(KVStoreError) {
        let range = IndexEncoding.blockRange()
        try unsafe forEach(from: range.lower, to: range.upper) { key, value in
            // The buffers are valid for this call; rows of the wrong shape were dropped at open.
            guard let row = unsafe IndexEncoding.row(key: key, value: value) else { return true }
            return body(row)
        }
    }

    /// Drops a segment's file, then the row that says it is there.
    func dropSegment(_ id: UInt32) throws(KVStoreError) {
        try deleteTables(
            from: IndexEncoding.recordKey(RecordPosition(segment: id, ordinal: 0)),
            through: IndexEncoding.recordKey(RecordPosition(segment: id, ordinal: IndexEncoding.footerOrdinal))
        )
        // Last: a segment without this row counts as one whose rows were lost, and would get them back.
        try apply([.delete(key: IndexEncoding.segmentKey(id))])
    }
}
