/// Where a leased block lies, for a process that maps the region itself.
package struct SlotPlace: Hashable, Sendable {
    /// The region's id, unique in the life of the store.
    package let regionID: UInt32
    /// Place in the region.
    package let slotIndex: UInt32
    /// How often the slot had been given out. When the region's own count differs, the slot holds something else.
    package let generation: UInt64
}

/// A region that another process is to map. The descriptor is the store's, valid while a lease on one of its blocks is.
package struct SharedRegion: Sendable {
    package let id: UInt32
    package let slotCount: Int
    package let slotByteCount: Int
    /// Slots and generations.
    package let byteCount: Int
    package let fileDescriptor: Int32
}

// What the daemon needs to hand blocks to other processes without copying them.
extension BlockStore {
    /// Where the blocks of a lease lie, head first.
    package func places(of lease: borrowing BlockLease) -> [SlotPlace] {
        let slots = lease.slots
        return core.with { core in slots.map { core.slots.place(of: $0) } }
    }

    /// Notes that a process is about to map a region. From now on the region counts against the cap, closed or not,
    /// until `unshare`. Nil when it is closed already, which a lease on one of its blocks prevents.
    package func share(regionID: UInt32) -> SharedRegion? { core.with { $0.slots.share(regionID) } }

    /// A process has let go of regions: it said so, or it has ended.
    package func unshare(regionIDs: some Collection<UInt32> & Sendable) {
        core.with { core in for id in regionIDs { core.slots.unshare(id) } }
    }

    /// Those of `regionIDs` that the store has closed, so that whoever maps them should let go.
    package func closedRegions(among regionIDs: some Collection<UInt32> & Sendable) -> [UInt32] {
        core.with { core in
            var closed: [UInt32] = []
            for id in regionIDs where core.slots.isClosedButShared(id) { closed.append(id) }
            return closed
        }
    }

    /// Bytes of regions that are closed here and still mapped by other processes.
    package var closedSharedByteCount: Int { core.with { $0.slots.closedSharedByteCount } }
}
