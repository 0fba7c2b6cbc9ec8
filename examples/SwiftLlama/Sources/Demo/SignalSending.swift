internal import Glibc

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
