/// Leaf-first least recently used: one doubly linked list from cold to hot.
///
/// "Leaf-first" is not in this file: it follows from the store touching a chain from its last block to its first, which
/// leaves every parent hotter than its children. Replaying real traces, this beats touching head to tail by up to 4
/// points of hit ratio at small capacities and never loses. Every operation is O(1); `victim` walks past blocks it may
/// not evict (leased or being written), which are few and hot.
final class LeafLRU: EvictionPolicy {
    private struct Link: BitwiseCopyable {
        // Id + 1, so that zeroed memory means "none".
        var colder: UInt32
        var hotter: UInt32
        // Zero when the id is not a member.
        var tick: UInt32
    }

    private var links: MappedArray<Link>
    private var coldest: UInt32 = 0
    private var hottest: UInt32 = 0
    private(set) var count = 0

    init(capacity: Int) throws(KVStoreError) {
        links = try MappedArray(capacity: capacity)
    }

    var metadataBytes: Int { links.committedBytes }

    func grow(toCount count: Int) -> Bool {
        links.grow(toCount: count)
    }

    func insert(_ id: UInt32, tick: UInt32) {
        precondition(links[Int(id)].tick == 0, "already a member")
        precondition(tick != 0)
        appendHottest(id, tick: tick)
        count += 1
    }

    func touch(_ id: UInt32, tick: UInt32) {
        precondition(links[Int(id)].tick != 0, "not a member")
        unlink(id)
        appendHottest(id, tick: tick)
    }

    func remove(_ id: UInt32) {
        precondition(links[Int(id)].tick != 0, "not a member")
        unlink(id)
        links[Int(id)] = Link(colder: 0, hotter: 0, tick: 0)
        count -= 1
    }

    func victim(_ mayEvict: (UInt32) -> Bool) -> UInt32? {
        var candidate = coldest
        while candidate != 0 {
            if mayEvict(candidate - 1) { return candidate - 1 }
            candidate = links[Int(candidate - 1)].hotter
        }
        return nil
    }

    func tick(of id: UInt32) -> UInt32 { links[Int(id)].tick }

    var coldestTick: UInt32 { coldest == 0 ? 0 : links[Int(coldest - 1)].tick }

    func halveTicks() {
        var id = coldest
        while id != 0 {
            links[Int(id - 1)].tick = links[Int(id - 1)].tick / 2 + 1
            id = links[Int(id - 1)].hotter
        }
    }

    private func appendHottest(_ id: UInt32, tick: UInt32) {
        links[Int(id)] = Link(colder: hottest, hotter: 0, tick: tick)
        if hottest == 0 { coldest = id + 1 } else { links[Int(hottest - 1)].hotter = id + 1 }
        hottest = id + 1
    }

    private func unlink(_ id: UInt32) {
        let link = links[Int(id)]
        if link.colder == 0 { coldest = link.hotter } else { links[Int(link.colder - 1)].hotter = link.hotter }
        if link.hotter == 0 { hottest = link.colder } else { links[Int(link.hotter - 1)].colder = link.colder }
    }
}
