import Synchronization
import Testing

@testable import KVStore

/// Jobs that somebody waits for go before wishes that nobody waits for, of which there are only so many.
@Suite("The pool of readers")
struct ReaderPoolTests {
    /// Counted while it lives.
    private final class Ticket: Sendable {
        static let living = Atomic<Int>(0)
        init() { Self.living.wrappingAdd(1, ordering: .relaxed) }
        deinit { Self.living.wrappingSubtract(1, ordering: .relaxed) }
    }

    @Test func `does jobs first, forgets wishes beyond the limit and all when it stops`() {
        let pool = ReaderPool(threadCount: 1)
        let order = Monitor<[String]>([])
        let (isHeld, gate) = (Monitor(false), Monitor(false))
        pool.submit {
            isHeld.update { $0 = true }
            _ = gate.wait(untilNanoseconds: nil) { $0 ? true : nil }
        }
        // The only thread is busy from here on, so that everything else waits in the queues.
        _ = isHeld.wait(untilNanoseconds: nil) { $0 ? true : nil }
        #expect(pool.submitWish { order.update { $0.append("wish") } })
        pool.submit { order.update { $0.append("job") } }
        var accepted = 1
        for _ in 0..<2 * ReaderPool.wishLimit {
            let ticket = Ticket()
            if pool.submitWish({ withExtendedLifetime(ticket) {} }) { accepted += 1 }
        }
        #expect(accepted == ReaderPool.wishLimit)
        // All but the first hold a ticket. One that was forgotten has let go of its own.
        #expect(Ticket.living.load(ordering: .relaxed) == accepted - 1)
        gate.update { $0 = true }
        let done = order.wait(untilNanoseconds: nil) { $0.count == 2 ? $0 : nil }
        #expect(done == ["job", "wish"])
        pool.stop()
        #expect(!pool.submitWish {})
        #expect(Ticket.living.load(ordering: .relaxed) == 0)
    }
}
