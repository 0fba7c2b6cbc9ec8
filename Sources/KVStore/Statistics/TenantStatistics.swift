/// What the store did for one tenant and holds of it. Sums of the tenants are the totals of `StoreStatistics`.
public struct TenantStatistics: Sendable, Codable, Hashable {
    /// The tenant's name; `#` and eight hex digits while only blocks on disk, from before the start, tell of it.
    public var name: String
    /// Calls of `acquire`.
    public var lookups = 0
    /// Blocks those calls asked for.
    public var requestedBlocks = 0
    /// Tokens those calls asked for.
    public var requestedTokens = 0
    /// Blocks found in memory.
    public var memoryHitBlocks = 0
    /// Tokens in them.
    public var memoryHitTokens = 0
    /// Blocks found on disk.
    public var diskHitBlocks = 0
    /// Tokens in them.
    public var diskHitTokens = 0
    /// Lookups that ended early because the next block was nowhere.
    public var missesAbsent = 0
    /// … because it was reserved and not yet committed, or being read while only memory was asked.
    public var missesInProgress = 0
    /// … because no slot was free to promote it into, or its tenant has leased all that it may.
    public var missesWithoutSlot = 0
    /// … because its stored bytes were damaged.
    public var missesCorrupt = 0
    /// … while the index was still being loaded.
    public var missesWarming = 0
    /// Blocks the memory tier counts.
    public var memoryBlocks = 0
    /// Bytes of the tenant's regions, those included that are closed and still mapped by clients.
    public var memoryBytes = 0
    /// Slots that hold nothing, inside `memoryBytes`: emptied, or taken ahead of need.
    public var unusedBytes = 0
    /// What `memoryBytes` may not pass; nil without a quota.
    public var memoryQuotaBytes: Int?
    /// Bytes of slots under a lease or a reservation, or being read or written in the background.
    public var pinnedBytes = 0
    /// Blocks the disk tier counts, those that wait to be written included.
    public var diskBlocks = 0
    /// Bytes of their records; of blocks that wait, the most that their records can take.
    public var diskBytes = 0
    /// What `diskBytes` may not pass; nil without a quota.
    public var diskQuotaBytes: Int?
    /// Blocks that are only in memory: what a kill of the process would lose.
    public var unwrittenBlocks = 0
    /// How often a block was not queued for the disk because of the tenant's quota.
    public var quotaRefusedBlocks = 0
    /// Blocks given up on disk to make room under the quota.
    public var quotaEvictedBlocks = 0
    /// Namespaces that were opened, or are on disk.
    public var namespaces = 0
    /// Open leases.
    public var leases = 0

    /// A tenant without anything.
    public init(name: String) { self.name = name }
}

/// What the store holds of one namespace.
public struct NamespaceStatistics: Sendable, Codable, Hashable {
    /// The tenant's name, as in `TenantStatistics`.
    public var tenant: String
    /// The model's name; empty while nobody has opened the namespace since the start.
    public var model: String
    /// Eight hex digits of a keyed hash of the fingerprint: tells namespaces apart and says nothing else. The key is made
    /// anew with every store.
    public var fingerprintPrefix: String
    /// Bytes of one block.
    public var blockBytes: Int
    /// Tokens of one block; 0 while nobody has opened the namespace since the start.
    public var tokensPerBlock: Int
    /// Blocks in any tier, those being stored included.
    public var blocks = 0
    /// Blocks the memory tier counts.
    public var memoryBlocks = 0
    /// Blocks the disk tier counts.
    public var diskBlocks = 0

    /// A namespace without blocks.
    public init(tenant: String, model: String, fingerprintPrefix: String, blockBytes: Int, tokensPerBlock: Int) {
        self.tenant = tenant
        self.model = model
        self.fingerprintPrefix = fingerprintPrefix
        self.blockBytes = blockBytes
        self.tokensPerBlock = tokensPerBlock
    }
}

/// A prefix that many lookups share.
public struct HotPrefix: Sendable, Codable, Hashable {
    /// The tenant's name, as in `TenantStatistics`.
    public var tenant: String
    /// The model's name, as in `NamespaceStatistics`.
    public var namespace: String
    /// Eight hex digits of a keyed hash of the last block's key. The key is made anew with every store.
    public var keyHash: String
    /// Blocks from the head to the last one.
    public var blocks: Int
    /// Lookups that found the last block; 255 stands for 255 and more.
    public var uses: Int
    /// Seconds since the last of them; nil when that was before the store was opened.
    public var lastUsedSeconds: Int?

    /// A prefix of `blocks` blocks that was found `uses` times.
    public init(
        tenant: String,
        namespace: String,
        keyHash: String,
        blocks: Int,
        uses: Int,
        lastUsedSeconds: Int?
    ) {
        self.tenant = tenant
        self.namespace = namespace
        self.keyHash = keyHash
        self.blocks = blocks
        self.uses = uses
        self.lastUsedSeconds = lastUsedSeconds
    }
}
