/// When a scrub may look at its next block, and where it goes on. A value: no clock, no I/O; times are passed in.
///
/// The rate is a token bucket, kept as the one moment at which it is no longer overdrawn: a block may be checked from
/// then on, and moves the moment by what it costs. So blocks larger than the bucket need no special case, and between any
/// two moments at most `bytesPerSecond` × time + `burstNanoseconds`' worth + one block is checked.
///
/// A pass goes over positions in ascending order, from the cursor to an end that is fixed when the pass begins: what is
/// written meanwhile waits for the next pass, or a store that writes faster than it scrubs would never finish one.
struct ScrubSchedule: Hashable, Sendable {
    /// What a waiting scrub may save up, and the least it sleeps: a few wake-ups a second, each for a handful of blocks.
    static let burstNanoseconds: UInt64 = 20_000_000

    /// 0 turns the scrub off.
    let bytesPerSecond: Int
    /// Least time from the start of one pass to the start of the next.
    let passIntervalNanoseconds: UInt64
    /// A pass that found nothing to check is tried again this much later.
    let emptyPassNanoseconds: UInt64
    /// The next position to look at.
    private(set) var cursor: UInt64
    /// Passes that reached their end.
    private(set) var passes = 0
    /// The first position that is not part of the pass under way; nil between passes.
    private(set) var end: UInt64?
    /// When the bucket is no longer overdrawn.
    private var readyNanoseconds: UInt64
    private var nextPassNanoseconds: UInt64
    private var checkedInPass = 0

    /// - Parameters:
    ///   - firstPassNanoseconds: when the first pass may begin.
    ///   - cursor: where the last scrub stopped; the first pass begins there.
    init(
        bytesPerSecond: Int,
        passIntervalNanoseconds: UInt64,
        emptyPassNanoseconds: UInt64 = 10_000_000_000,
        firstPassNanoseconds: UInt64,
        cursor: UInt64 = 0
    ) {
        self.bytesPerSecond = bytesPerSecond
        self.passIntervalNanoseconds = passIntervalNanoseconds
        self.emptyPassNanoseconds = emptyPassNanoseconds
        self.cursor = cursor
        readyNanoseconds = firstPassNanoseconds
        nextPassNanoseconds = firstPassNanoseconds
    }

    var isOn: Bool { bytesPerSecond > 0 }

    /// From when on the next block may be checked, nil for never. Not before `now` plus a burst unless it is due already.
    func nextCheck(after now: UInt64) -> UInt64? {
        guard isOn else { return nil }
        let due = end == nil ? max(readyNanoseconds, nextPassNanoseconds) : readyNanoseconds
        return due <= now ? now : max(due, now + Self.burstNanoseconds)
    }

    /// Whether a block may be checked now.
    func isDue(at now: UInt64) -> Bool { nextCheck(after: now) == now }

    /// Begins a pass over the positions from the cursor to below `end`. A cursor at or behind the end starts over.
    ///
    /// - Precondition: none is under way.
    mutating func beginPass(end: UInt64, at now: UInt64) {
        precondition(self.end == nil, "a pass is under way")
        self.end = end
        if cursor >= end { cursor = 0 }
        checkedInPass = 0
        nextPassNanoseconds = now + passIntervalNanoseconds
    }

    /// Everything before `position` has been looked at. It never goes back.
    mutating func advance(to position: UInt64) { cursor = max(cursor, position) }

    /// A block of `byteCount` bytes was checked.
    mutating func spend(_ byteCount: Int, at now: UInt64) {
        checkedInPass += 1
        guard isOn else { return }
        let saved = now - min(now, Self.burstNanoseconds)
        let (sum, isOverflow) = max(readyNanoseconds, saved).addingReportingOverflow(cost(of: byteCount))
        readyNanoseconds = isOverflow ? .max : sum
    }

    /// Ends the pass. A pass without a single block is none: it is not counted, and the next try comes soon.
    ///
    /// - Returns: whether it counts.
    @discardableResult
    mutating func finishPass(at now: UInt64) -> Bool {
        precondition(end != nil, "no pass is under way")
        end = nil
        cursor = 0
        guard checkedInPass > 0 else {
            nextPassNanoseconds = max(now + Self.burstNanoseconds, min(nextPassNanoseconds, now + emptyPassNanoseconds))
            return false
        }
        passes += 1
        return true
    }

    /// Puts the next check off: what is to be scrubbed cannot be read just now.
    mutating func postpone(until nanoseconds: UInt64) { readyNanoseconds = max(readyNanoseconds, nanoseconds) }

    /// Nanoseconds that the bytes take at the rate, rounded up. Without overflow: a product of two 64-bit numbers.
    private func cost(of byteCount: Int) -> UInt64 {
        let product = UInt64(byteCount).multipliedFullWidth(by: 1_000_000_000)
        let rate = UInt64(bytesPerSecond)
        guard product.high < rate else { return .max }
        let (quotient, remainder) = rate.dividingFullWidth(product)
        return remainder == 0 || quotient == .max ? quotient : quotient + 1
    }
}
