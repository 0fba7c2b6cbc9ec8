internal import Glibc

/// Seconds of the clock and of the processor.
struct Times {
    var wall: Double
    var processor: Double

    /// Since some moment, and since this process began.
    static var now: Times {
        Times(wall: seconds(CLOCK_MONOTONIC), processor: seconds(CLOCK_PROCESS_CPUTIME_ID))
    }

    static func - (end: Times, start: Times) -> Times {
        Times(wall: end.wall - start.wall, processor: end.processor - start.processor)
    }

    private static func seconds(_ clock: Int32) -> Double {
        var time = timespec()
        // Safe: the call fills the struct it is given.
        unsafe clock_gettime(clock, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
}

/// The one signal that the demo sends.
enum SignalSending {
    /// SIGKILL to a process that we started.
    static func kill(_ process: Int32) { _ = Glibc.kill(process, SIGKILL) }

    /// The load averages of the machine, for those who read timings.
    static var loadAverages: [Double] {
        var loads = [0.0, 0.0, 0.0]
        // Safe: there is room for the three numbers that are asked for.
        let count = unsafe getloadavg(&loads, 3)
        return Array(loads.prefix(max(0, Int(count))))
    }
}
