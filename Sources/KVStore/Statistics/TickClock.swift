/// Tells how long ago a tick was, without a time in every entry: keeps some pairs of tick and second.
///
/// A pair a second at most. When the list is full, pairs go that are nearer to their neighbours than a 64th of their age:
/// what is told is at most that much too old, and the last minute is told to the second. Lives inside the store's lock;
/// noting allocates nothing.
struct TickClock {
    private struct Sample {
        var tick: UInt32
        var seconds: UInt32
    }

    private static let sampleLimit = 1024
    private var samples: [Sample] = []
    /// The last second noted.
    private(set) var nowSeconds: UInt32 = 0

    init() { samples.reserveCapacity(Self.sampleLimit) }

    /// Ticks after `tick` are at `seconds` or later. Seconds of any clock that does not go back.
    @inline(__always)
    mutating func note(tick: UInt32, seconds: UInt32) {
        if seconds != nowSeconds || samples.isEmpty { append(tick: tick, seconds: seconds) }
    }

    private mutating func append(tick: UInt32, seconds: UInt32) {
        // Calls of several threads come in a little out of order.
        guard seconds > nowSeconds || samples.isEmpty else { return }
        if samples.count == Self.sampleLimit { thinOut() }
        nowSeconds = seconds
        samples.append(Sample(tick: tick, seconds: seconds))
    }

    private mutating func thinOut() {
        var kept = 1
        for place in 1..<samples.count {
            let isLast = place + 1 == samples.count
            // Without this one, ticks up to the next would be told as old as the one kept before.
            let gap = isLast ? .max : samples[place + 1].seconds - samples[kept - 1].seconds
            guard gap > (nowSeconds - samples[place].seconds) / 64 else { continue }
            samples[kept] = samples[place]
            kept += 1
        }
        // In a list this long that is impossible before centuries have passed; then the oldest goes.
        if kept == samples.count { samples.removeFirst() } else { samples.removeLast(samples.count - kept) }
    }

    /// Seconds between the tick and the last second noted; nil for a tick from before the first. O(log n).
    func age(ofTick tick: UInt32) -> UInt32? {
        var (low, high) = (0, samples.count)
        while low < high {
            let middle = (low + high) / 2
            if samples[middle].tick <= tick { low = middle + 1 } else { high = middle }
        }
        return low == 0 ? nil : nowSeconds - samples[low - 1].seconds
    }

    /// Every tick was halved, as `EvictionPolicy.halveTicks` does.
    mutating func halveTicks() {
        for place in samples.indices { samples[place].tick = samples[place].tick / 2 + 1 }
    }
}
