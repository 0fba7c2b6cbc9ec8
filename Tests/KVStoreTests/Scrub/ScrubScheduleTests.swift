import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("ScrubSchedule")
struct ScrubScheduleTests {
    private static let second: UInt64 = 1_000_000_000

    private static func schedule(_ bytesPerSecond: Int, intervalSeconds: UInt64 = 0, cursor: UInt64 = 0)
        -> ScrubSchedule
    {
        ScrubSchedule(
            bytesPerSecond: bytesPerSecond,
            passIntervalNanoseconds: intervalSeconds * second,
            firstPassNanoseconds: 5 * second,
            cursor: cursor
        )
    }

    @Test func `Bytes stay below the rate and close to it whatever the blocks and the sleeps`() {
        var random = SeededRandom(seed: 7)
        for _ in 0..<100 {
            let rate = Int.random(in: 1 << 10...1 << 28, using: &random)
            // Not so small that a burst is a million blocks.
            let largest = rate / 1000 + Int.random(in: 1...1 << 22, using: &random)
            var schedule = Self.schedule(rate)
            var now = 5 * Self.second
            schedule.beginPass(end: .max, at: now)
            let start = now
            var (bytes, oversleep) = (0, UInt64(0))
            for _ in 0..<200 {
                while schedule.isDue(at: now) {
                    let size = Int.random(in: largest / 2...largest, using: &random)
                    schedule.spend(size, at: now)
                    bytes += size
                    let elapsed = Double(now - start + ScrubSchedule.burstNanoseconds) / 1e9
                    #expect(Double(bytes) <= elapsed * Double(rate) * 1.000_001 + Double(largest))
                    // Checking takes time too.
                    now += UInt64.random(in: 0...1_000_000, using: &random)
                }
                let late = UInt64.random(in: 0...1_000_000, using: &random)
                now = schedule.nextCheck(after: now)! + late
                oversleep += late
            }
            // What is slept too long may be lost, no more.
            let useful = Double(now - start - oversleep) / 1e9
            #expect(Double(bytes) >= useful * Double(rate) * 0.9 - Double(largest) - Double(rate) * 0.05)
        }
    }

    @Test func `A rate of 0 is never due`() {
        let schedule = Self.schedule(0)
        #expect(schedule.nextCheck(after: 0) == nil)
        #expect(schedule.nextCheck(after: .max / 2) == nil)
        #expect(!schedule.isDue(at: 100 * Self.second))
    }

    @Test func `The first pass waits and later ones start an interval apart`() {
        var schedule = Self.schedule(1 << 20, intervalSeconds: 60)
        #expect(!schedule.isDue(at: 4 * Self.second))
        #expect(schedule.nextCheck(after: 0) == 5 * Self.second)
        schedule.beginPass(end: 10, at: 6 * Self.second)
        schedule.advance(to: 10)
        schedule.spend(1000, at: 6 * Self.second)
        var isCounted = schedule.finishPass(at: 8 * Self.second)
        #expect(isCounted)
        #expect(schedule.passes == 1)
        #expect(schedule.nextCheck(after: 8 * Self.second) == 66 * Self.second)
        #expect(schedule.isDue(at: 66 * Self.second))
        // A pass that took longer than the interval is followed by the next at once.
        schedule.beginPass(end: 10, at: 66 * Self.second)
        schedule.spend(1000, at: 100 * Self.second)
        isCounted = schedule.finishPass(at: 200 * Self.second)
        #expect(isCounted)
        #expect(schedule.isDue(at: 200 * Self.second))
    }

    @Test func `A pass without a block is none and the next try comes soon`() {
        var schedule = Self.schedule(1 << 20, intervalSeconds: 3600)
        schedule.beginPass(end: 0, at: 5 * Self.second)
        let isCounted = schedule.finishPass(at: 5 * Self.second)
        #expect(!isCounted)
        #expect(schedule.passes == 0)
        #expect(schedule.nextCheck(after: 5 * Self.second) == 15 * Self.second)
        var eager = Self.schedule(1 << 20)
        eager.beginPass(end: 0, at: 5 * Self.second)
        eager.finishPass(at: 5 * Self.second)
        #expect(!eager.isDue(at: 5 * Self.second), "an empty store must not be looked at without a pause")
    }

    @Test func `A cursor is kept and only moves on and starts over behind the end`() {
        var schedule = Self.schedule(1 << 20, cursor: 40)
        schedule.beginPass(end: 100, at: 5 * Self.second)
        #expect(schedule.cursor == 40)
        schedule.advance(to: 60)
        schedule.advance(to: 50)
        #expect(schedule.cursor == 60)
        schedule.spend(1, at: 5 * Self.second)
        schedule.finishPass(at: 6 * Self.second)
        #expect(schedule.cursor == 0)
        var stale = Self.schedule(1 << 20, cursor: 100)
        stale.beginPass(end: 100, at: 5 * Self.second)
        #expect(stale.cursor == 0)
    }

    @Test func `Sizes and rates at their limits do not trap`() {
        var slow = Self.schedule(1)
        slow.beginPass(end: 10, at: 5 * Self.second)
        for _ in 0..<100 { slow.spend(.max, at: 5 * Self.second) }
        #expect(!slow.isDue(at: .max - 1 - ScrubSchedule.burstNanoseconds))
        var fast = Self.schedule(.max)
        fast.beginPass(end: 10, at: 5 * Self.second)
        for _ in 0..<100 { fast.spend(1 << 30, at: 5 * Self.second) }
        #expect(fast.isDue(at: 5 * Self.second + 100))
        fast.postpone(until: 7 * Self.second)
        #expect(!fast.isDue(at: 6 * Self.second))
        #expect(fast.isDue(at: 7 * Self.second))
    }
}

@Suite("ScrubCursor")
struct ScrubCursorTests {
    private static let position = RecordPosition(segment: 0x0102_0304, ordinal: 77)

    @Test func `What is saved is loaded`() throws {
        let directory = TemporaryDirectory()
        let file = ScrubCursor(directory: directory.path)
        #expect(file.load() == nil)
        file.save(Self.position)
        #expect(file.load() == Self.position)
        file.save(RecordPosition(segment: 9, ordinal: 0))
        #expect(file.load() == RecordPosition(segment: 9, ordinal: 0))
        #expect(RecordPosition(scrubCursor: Self.position.scrubCursor) == Self.position)
        // Nowhere to write: nobody is told, nothing traps.
        ScrubCursor(directory: directory.path + "/missing").save(Self.position)
    }

    @Test func `Any other bytes mean the beginning`() {
        let bytes = ScrubCursor.encode(Self.position)
        #expect(bytes.count == 24)
        #expect(ScrubCursor.decode(bytes) == Self.position)
        for bit in 0..<bytes.count * 8 {
            var damaged = bytes
            damaged[bit / 8] ^= 1 << (bit % 8)
            #expect(ScrubCursor.decode(damaged) == nil, "bit \(bit)")
        }
        for length in 0..<24 { #expect(ScrubCursor.decode(Array(bytes.prefix(length))) == nil) }
        #expect(ScrubCursor.decode(bytes + [0]) == nil)
    }
}
