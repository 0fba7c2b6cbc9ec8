/// Where a block was found.
public enum Tier: String, Sendable, Codable {
    /// In memory.
    case memory
    /// On disk, or evicted from memory and not yet written.
    case disk
}
