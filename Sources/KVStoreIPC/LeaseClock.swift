/// When the leases of a connection end for want of a sign of life. Pure: the time is an argument, on the monotonic clock.
///
/// Any frame renews all leases of its connection. Only a client that was stopped, or whose keep-alive thread hangs,
/// stays silent for that long; it must find out from the generations that what it reads has gone.
package struct LeaseClock: Sendable {
    package let timeToLiveNanoseconds: UInt64
    private var lastHeardNanoseconds: UInt64
    /// While a request of the client is in work it cannot speak.
    package var isBusy = false

    package init(timeToLiveNanoseconds: UInt64, now: UInt64) {
        self.timeToLiveNanoseconds = timeToLiveNanoseconds
        lastHeardNanoseconds = now
    }

    package mutating func heard(now: UInt64) { lastHeardNanoseconds = max(lastHeardNanoseconds, now) }

    package func isExpired(now: UInt64) -> Bool {
        !isBusy && now > lastHeardNanoseconds && now - lastHeardNanoseconds >= timeToLiveNanoseconds
    }
}
