// Bringing back what was on disk when the store opened.
extension StoreCore {
    /// Brings one block back that was on disk when the store opened. Its parent must be in the table already.
    /// Blocks come hottest first, `tick` falling: every one goes to the cold end of the disk tier's order.
    ///
    /// - Parameter previous: the block restored before, which is often the parent.
    /// - Returns: nil when the block cannot be indexed (no metadata, no parent).
    mutating func restore(_ row: IndexRow, namespace: UInt16, tick: UInt32, after previous: EntryID) -> EntryID? {
        var parent = EntryID.none
        if row.parent != row.fingerprint {
            guard let found = entries.find(row.parent, likely: previous), entries[found].isInDiskTier else {
                return nil
            }
            parent = found
        }
        guard !disk.removedWhileWarming.contains(row.key), !disk.tenantsPurgedWhileWarming.contains(row.tenant),
            hasDiskQuotaRoom(Int(row.storedByteCount), namespace: namespace)
        else { return nil }
        guard let ordinal = UInt16(exactly: row.ordinal), disk.hasPlace(segment: row.segment, ordinal: ordinal) else {
            return nil
        }
        let id: EntryID
        if let known = entries.find(row.key) {
            // Stored again while the index was loading: the bytes in memory stay, the disk copy is as good.
            guard entries[known].residence == .resident, !entries[known].isInDiskTier,
                entries[known].namespace == namespace, entries[known].parent == parent
            else { return nil }
            id = known
        } else {
            // Nothing makes room for it: all that is in the table was used later.
            guard entries.count < entries.capacity,
                let fresh = addEntry(row.key, parent: parent, namespace: namespace)
            else { return nil }
            id = fresh
        }
        entries[id].uses = UInt8(clamping: row.uses)
        disk.policy.insertColdest(id, tenant: namespaces[Int(namespace)].tenantIndex, tick: tick)
        namespaceCounters[Int(namespace)].diskBlocks += 1
        place(id, segment: row.segment, ordinal: ordinal, storedByteCount: Int(row.storedByteCount))
        return id
    }
}
