/// Decides which block of a tier goes next.
///
/// A policy owns an order over small integer ids (slots of the memory tier, index entries of the disk tier) and nothing
/// else: no bytes, no clock, no I/O. The store tells it what happened and asks for a victim; the store acts. So every
/// policy can be tested with integers, and the same policy type serves both tiers.
///
/// The store reports the blocks of a chain from the last to the first. A policy that keeps recency order therefore
/// always has children colder than their parents, and its coldest member is a leaf.
///
/// A policy lives inside the store's lock; it need not be thread-safe.
protocol EvictionPolicy: AnyObject {
    /// Makes room for ids below `count`; false when no memory is left for metadata.
    func grow(toCount count: Int) -> Bool

    /// The block entered the tier at `tick`.
    func insert(_ id: UInt32, tick: UInt32)

    /// The block was in the tier before a restart, and every member was used since it was. `tick` is when, or the coldest
    /// member's tick if that is less.
    func insertColdest(_ id: UInt32, tick: UInt32)

    /// The block was used at `tick`. A second report of the same tick changes nothing.
    func touch(_ id: UInt32, tick: UInt32)

    /// The block left the tier.
    func remove(_ id: UInt32)

    /// The best block to give up among those `mayEvict` allows, or nil. The block stays in the order until `remove`.
    func victim(_ mayEvict: (UInt32) -> Bool) -> UInt32?

    /// The tick of the last `insert` or `touch`.
    func tick(of id: UInt32) -> UInt32

    /// The tick of the coldest member, 0 when empty.
    var coldestTick: UInt32 { get }

    /// Halves every tick, keeping the order: the store's counter is about to wrap. Every tick stays above zero.
    func halveTicks()

    /// Members.
    var count: Int { get }

    /// Memory the policy takes from the cap.
    var metadataBytes: Int { get }
}

/// As `EvictionPolicy`, over the blocks of several tenants: what goes next may be asked of all or of one of them. The disk
/// tier's kind, where a tenant over its quota gives up blocks of its own.
///
/// A tenant is named by a small number, the same for a block from `insert` to `remove`.
protocol SharedEvictionPolicy: AnyObject {
    /// As in `EvictionPolicy`.
    func grow(toCount count: Int) -> Bool
    /// As in `EvictionPolicy`.
    func insert(_ id: UInt32, tenant: Int, tick: UInt32)
    /// As in `EvictionPolicy`, of the tenant's members.
    func insertColdest(_ id: UInt32, tenant: Int, tick: UInt32)
    /// As in `EvictionPolicy`.
    func touch(_ id: UInt32, tenant: Int, tick: UInt32)
    /// As in `EvictionPolicy`.
    func remove(_ id: UInt32, tenant: Int)
    /// The best block to give up, of one tenant or of all, among those `mayEvict` allows.
    func victim(ofTenant tenant: Int?, _ mayEvict: (UInt32) -> Bool) -> UInt32?
    /// As in `EvictionPolicy`.
    func tick(of id: UInt32) -> UInt32
    /// As in `EvictionPolicy`.
    var coldestTick: UInt32 { get }
    /// As in `EvictionPolicy`.
    func halveTicks()
    /// Members of all tenants.
    var count: Int { get }
    /// As in `EvictionPolicy`.
    var metadataBytes: Int { get }
}

extension SharedEvictionPolicy {
    /// The best block to give up of all tenants' blocks.
    func victim(_ mayEvict: (UInt32) -> Bool) -> UInt32? { victim(ofTenant: nil, mayEvict) }
}

/// The policies that can be chosen by name.
public enum EvictionPolicyName: String, Sendable, CaseIterable {
    /// Least recently used, leaves of the prefix tree first: the baseline every other policy must beat.
    case leafLRU = "leaf-lru"
    /// The best policy there is. Today that is leaf-first LRU.
    case `default` = "default"

    func make(capacity: Int) throws(KVStoreError) -> any EvictionPolicy {
        switch self {
        case .leafLRU: try LeafLRU(capacity: capacity)
        case .default: try LeafLRU(capacity: capacity)
        }
    }

    func makeShared(capacity: Int) throws(KVStoreError) -> any SharedEvictionPolicy {
        switch self {
        case .leafLRU: try SharedLeafLRU(capacity: capacity)
        case .default: try SharedLeafLRU(capacity: capacity)
        }
    }
}
