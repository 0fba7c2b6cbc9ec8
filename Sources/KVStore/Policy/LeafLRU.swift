/// Leaf-first least recently used: one doubly linked list from cold to hot.
///
/// "Leaf-first" is not in this file: it follows from the store touching a chain from its last block to its first, which
/// leaves every parent hotter than its children. Replaying real traces, this beats touching head to tail by up to 4
/// points of hit ratio at small capacities and never loses. Every operation is O(1); `victim` walks past blocks it may
/// not evict (leased or being written), which are few and hot.
final class LeafLRU: EvictionPolicy {
    // Not checked for exclusive access at run time, which took a sixth of a memory hit: a policy lives inside the store's
    // lock and calls nobody but `mayEvict`, which does not come back here.
    @exclusivity(unchecked) private var links: RecencyLinks
    @exclusivity(unchecked) private var list = RecencyList()

    init(capacity: Int) throws(KVStoreError) {
        unsafe links = RecencyLinks(links: try MappedArray(capacity: capacity))
    }

    var metadataBytes: Int { unsafe links.links.committedBytes }
    var count: Int { unsafe list.count }
    var coldestTick: UInt32 { unsafe links.coldestTick(list) }

    func grow(toCount count: Int) -> Bool { unsafe links.links.grow(toCount: count) }
    func insert(_ id: UInt32, tick: UInt32) { unsafe links.insert(id, tick: tick, in: &list) }
    func insertColdest(_ id: UInt32, tick: UInt32) { unsafe links.insertColdest(id, tick: tick, in: &list) }
    func touch(_ id: UInt32, tick: UInt32) { unsafe links.touch(id, tick: tick, in: &list) }
    func remove(_ id: UInt32) { unsafe links.remove(id, from: &list) }
    func tick(of id: UInt32) -> UInt32 { unsafe links.links[Int(id)].tick }
    func halveTicks() { unsafe links.halveTicks(list) }
    func victim(_ mayEvict: (UInt32) -> Bool) -> UInt32? { unsafe links.victim(in: list, mayEvict) }
}

/// `LeafLRU` with a list for each tenant. The coldest of all is the coldest of the lists' cold ends.
final class SharedLeafLRU: SharedEvictionPolicy {
    // As in `LeafLRU`.
    @exclusivity(unchecked) private var links: RecencyLinks
    @exclusivity(unchecked) private var lists: [RecencyList] = []

    init(capacity: Int) throws(KVStoreError) {
        unsafe links = RecencyLinks(links: try MappedArray(capacity: capacity))
    }

    var metadataBytes: Int { unsafe links.links.committedBytes }
    var count: Int { unsafe lists.reduce(0) { $0 + $1.count } }

    var coldestTick: UInt32 {
        var coldest: UInt32 = 0
        for list in unsafe lists where list.count > 0 {
            let tick = unsafe links.coldestTick(list)
            if coldest == 0 || tick < coldest { coldest = tick }
        }
        return coldest
    }

    func grow(toCount count: Int) -> Bool { unsafe links.links.grow(toCount: count) }

    func insert(_ id: UInt32, tenant: Int, tick: UInt32) {
        addLists(upTo: tenant)
        unsafe links.insert(id, tick: tick, in: &lists[tenant])
    }

    func insertColdest(_ id: UInt32, tenant: Int, tick: UInt32) {
        addLists(upTo: tenant)
        unsafe links.insertColdest(id, tick: tick, in: &lists[tenant])
    }

    func touch(_ id: UInt32, tenant: Int, tick: UInt32) { unsafe links.touch(id, tick: tick, in: &lists[tenant]) }
    func remove(_ id: UInt32, tenant: Int) { unsafe links.remove(id, from: &lists[tenant]) }
    func tick(of id: UInt32) -> UInt32 { unsafe links.links[Int(id)].tick }
    func halveTicks() { for list in unsafe lists { unsafe links.halveTicks(list) } }

    func victim(ofTenant tenant: Int?, _ mayEvict: (UInt32) -> Bool) -> UInt32? {
        if let tenant { return unsafe tenant < lists.count ? links.victim(in: lists[tenant], mayEvict) : nil }
        var best: (id: UInt32, tick: UInt32)?
        for list in unsafe lists where list.count > 0 {
            // Nothing of a list is colder than its cold end.
            if let best, unsafe links.coldestTick(list) >= best.tick { continue }
            guard let id = unsafe links.victim(in: list, mayEvict) else { continue }
            let tick = tick(of: id)
            if best == nil || tick < best!.tick { best = (id, tick) }
        }
        return best?.id
    }

    private func addLists(upTo tenant: Int) {
        while unsafe lists.count <= tenant { unsafe lists.append(RecencyList()) }
    }
}

/// One list from cold to hot: its ends, as ids plus 1, and its length.
private struct RecencyList {
    var coldest: UInt32 = 0
    var hottest: UInt32 = 0
    var count = 0
}

/// The links of all lists, by id. Ids are stored plus 1, so that zeroed memory means "none".
private struct RecencyLinks: ~Copyable {
    struct Link: BitwiseCopyable {
        var colder: UInt32
        var hotter: UInt32
        // Zero when the id is not a member.
        var tick: UInt32
    }

    var links: MappedArray<Link>

    init(links: consuming MappedArray<Link>) { self.links = links }

    func coldestTick(_ list: RecencyList) -> UInt32 { list.coldest == 0 ? 0 : links[Int(list.coldest - 1)].tick }

    mutating func insert(_ id: UInt32, tick: UInt32, in list: inout RecencyList) {
        precondition(links[Int(id)].tick == 0, "already a member")
        precondition(tick != 0)
        appendHottest(id, tick: tick, in: &list)
        list.count += 1
    }

    mutating func insertColdest(_ id: UInt32, tick: UInt32, in list: inout RecencyList) {
        precondition(links[Int(id)].tick == 0, "already a member")
        precondition(tick != 0)
        let coldest = list.coldest
        links[Int(id)] = Link(colder: 0, hotter: coldest, tick: coldest == 0 ? tick : min(tick, coldestTick(list)))
        if coldest == 0 { list.hottest = id + 1 } else { links[Int(coldest - 1)].colder = id + 1 }
        list.coldest = id + 1
        list.count += 1
    }

    mutating func touch(_ id: UInt32, tick: UInt32, in list: inout RecencyList) {
        let link = links[Int(id)]
        precondition(link.tick != 0, "not a member")
        if link.tick == tick { return }
        unlink(link, from: &list)
        appendHottest(id, tick: tick, in: &list)
    }

    mutating func remove(_ id: UInt32, from list: inout RecencyList) {
        let link = links[Int(id)]
        precondition(link.tick != 0, "not a member")
        unlink(link, from: &list)
        links[Int(id)] = Link(colder: 0, hotter: 0, tick: 0)
        list.count -= 1
    }

    func victim(in list: RecencyList, _ mayEvict: (UInt32) -> Bool) -> UInt32? {
        var candidate = list.coldest
        while candidate != 0 {
            if mayEvict(candidate - 1) { return candidate - 1 }
            candidate = links[Int(candidate - 1)].hotter
        }
        return nil
    }

    mutating func halveTicks(_ list: RecencyList) {
        var id = list.coldest
        while id != 0 {
            links[Int(id - 1)].tick = links[Int(id - 1)].tick / 2 + 1
            id = links[Int(id - 1)].hotter
        }
    }

    private mutating func appendHottest(_ id: UInt32, tick: UInt32, in list: inout RecencyList) {
        links[Int(id)] = Link(colder: list.hottest, hotter: 0, tick: tick)
        if list.hottest == 0 { list.coldest = id + 1 } else { links[Int(list.hottest - 1)].hotter = id + 1 }
        list.hottest = id + 1
    }

    private mutating func unlink(_ link: Link, from list: inout RecencyList) {
        if link.colder == 0 { list.coldest = link.hotter } else { links[Int(link.colder - 1)].hotter = link.hotter }
        if link.hotter == 0 { list.hottest = link.colder } else { links[Int(link.hotter - 1)].colder = link.colder }
    }
}
