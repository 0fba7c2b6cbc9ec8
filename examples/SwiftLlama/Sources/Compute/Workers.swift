internal import Dispatch

/// Work in parallel. Who does which part never changes a result.
enum Workers {
    /// Threads worth feeding.
    static let count = max(1, min(8, ProcessorCount.active))

    /// Calls `body` for pieces of `0..<total` of at least `least` (where there are that many), in parallel.
    static func split(_ total: Int, least: Int, _ body: @Sendable (Range<Int>) -> Void) {
        // More pieces than threads, since another process may hold one of the cores.
        let pieces = max(1, min(total / least, count * 4))
        guard pieces > 1 else { return body(0..<total) }
        // Even numbers, because a tile is two panels wide.
        let size = ((total + pieces - 1) / pieces + 1) & ~1
        DispatchQueue.concurrentPerform(iterations: (total + size - 1) / size) { piece in
            body(piece * size..<min((piece + 1) * size, total))
        }
    }

    /// Calls `body` with each of `0..<count`, in parallel.
    static func each(_ count: Int, _ body: @Sendable (Int) -> Void) {
        guard count > 1 else { return (0..<count).forEach(body) }
        DispatchQueue.concurrentPerform(iterations: count, execute: body)
    }
}
