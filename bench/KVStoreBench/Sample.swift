/// Several measurements of one thing.
struct Sample {
    enum Unit: String {
        case nanoseconds = "ns"
        case seconds = "s"
        case bytesPerSecond = "B/s"
        case bytes = "B"
        case count = "1"
    }

    let values: [Double]
    let unit: Unit

    init(_ values: [Double], _ unit: Unit) {
        precondition(!values.isEmpty, "nothing was measured")
        self.values = values
        self.unit = unit
    }

    init(nanoseconds: [Double]) { self.init(nanoseconds, .nanoseconds) }

    init(bytesPerSecond: [Double]) { self.init(bytesPerSecond, .bytesPerSecond) }

    var nanoseconds: [Double] { values }

    var median: Double { percentile(50) }
    var minimum: Double { values.min()! }
    var maximum: Double { values.max()! }

    /// The value below which `percent` of the measurements lie, between the two nearest where it falls between.
    func percentile(_ percent: Double) -> Double {
        let sorted = values.sorted()
        let place = percent / 100 * Double(sorted.count - 1)
        let below = Int(place)
        let above = min(below + 1, sorted.count - 1)
        return sorted[below] + (sorted[above] - sorted[below]) * (place - Double(below))
    }

    /// From the smallest to the largest, as people read it.
    var spread: String { "\(text(minimum)) – \(text(maximum))" }

    /// A value of this sample, as people read it.
    func text(_ value: Double) -> String {
        switch unit {
        case .nanoseconds: durationText(nanoseconds: value)
        case .seconds: durationText(nanoseconds: value * 1e9)
        case .bytesPerSecond: "\(decimal(value / 1e6, digits: value < 1e7 ? 2 : 0)) MB/s"
        case .bytes: "\(decimal(value / Double(1 << 20), digits: 2)) MiB"
        case .count: decimal(value, digits: value == value.rounded() ? 0 : 3)
        }
    }

    /// Nanoseconds of one of `count` things: `body` is timed as a whole and divided.
    static func measure(count: Int, _ body: () -> Void) -> Double {
        nanoseconds(of: body) / Double(count)
    }

    /// Nanoseconds that `body` takes.
    static func nanoseconds(of body: () throws -> Void) rethrows -> Double {
        let elapsed = try ContinuousClock().measure(body)
        return Double(elapsed.components.attoseconds) / 1e9 + Double(elapsed.components.seconds) * 1e9
    }
}

/// A latency in the unit a person would choose.
func durationText(nanoseconds: Double) -> String {
    if nanoseconds < 1e6 { return "\(decimal(nanoseconds / 1e3, digits: 2)) µs" }
    if nanoseconds < 1e9 { return "\(decimal(nanoseconds / 1e6, digits: 2)) ms" }
    return "\(decimal(nanoseconds / 1e9, digits: 2)) s"
}

/// A number with exactly `digits` decimals, without a locale.
func decimal(_ number: Double, digits: Int) -> String {
    guard number.isFinite, abs(number) < 1e15 else { return "\(number)" }
    var scale = 1.0
    for _ in 0..<digits { scale *= 10 }
    let scaled = Int((abs(number) * scale).rounded())
    let sign = number < 0 && scaled > 0 ? "-" : ""
    guard digits > 0 else { return "\(sign)\(scaled)" }
    let fraction = String(scaled % Int(scale))
    return "\(sign)\(scaled / Int(scale))." + String(repeating: "0", count: digits - fraction.count) + fraction
}
