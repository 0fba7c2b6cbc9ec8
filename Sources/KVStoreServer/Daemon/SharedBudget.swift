internal import Synchronization

/// Bytes that all connections share, of which no tenant gets more than its share. Thread-safe.
final class SharedBudget: Sendable {
    let capacityBytes: Int
    /// Whether one taker is let through however much it asks for: a small capacity would refuse it for ever.
    private let admitsOneAlways: Bool

    private struct Books: Sendable {
        var shareBytes: Int
        var used = 0
        var usedByOwner: [String: Int] = [:]
    }
    private let books: Mutex<Books>

    init(capacityBytes: Int, admitsOneAlways: Bool = false) {
        self.capacityBytes = capacityBytes
        self.admitsOneAlways = admitsOneAlways
        books = Mutex(Books(shareBytes: capacityBytes))
    }

    /// What one tenant may have; what it has already stays its own.
    func setShare(bytes: Int) { books.withLock { $0.shareBytes = bytes } }

    var usedBytes: Int { books.withLock { $0.used } }

    /// What that tenant could take now.
    func freeBytes(for owner: String) -> Int {
        books.withLock { min(capacityBytes - $0.used, $0.shareBytes - ($0.usedByOwner[owner] ?? 0)) }
    }

    /// False when that much is not left for the tenant; nothing changed then.
    func take(_ byteCount: Int, for owner: String) -> Bool {
        books.withLock { books in
            let own = books.usedByOwner[owner] ?? 0
            let fits = byteCount <= capacityBytes - books.used && byteCount <= books.shareBytes - own
            guard fits || (admitsOneAlways && books.used == 0) else { return false }
            books.used += byteCount
            books.usedByOwner[owner] = own + byteCount
            return true
        }
    }

    func give(_ byteCount: Int, for owner: String) {
        books.withLock { books in
            let left = (books.usedByOwner[owner] ?? 0) - byteCount
            precondition(left >= 0, "more was given back than taken")
            books.used -= byteCount
            books.usedByOwner[owner] = left == 0 ? nil : left
        }
    }
}

/// What one taker has of a budget; it goes back with the last reference.
final class BudgetShare: Sendable {
    private let budget: SharedBudget
    private let byteCount: Int
    private let owner: String

    /// Nil when that much is not left for the owner.
    init?(_ byteCount: Int, of budget: SharedBudget, for owner: String) {
        guard budget.take(byteCount, for: owner) else { return nil }
        (self.budget, self.byteCount, self.owner) = (budget, byteCount, owner)
    }

    deinit { budget.give(byteCount, for: owner) }
}
