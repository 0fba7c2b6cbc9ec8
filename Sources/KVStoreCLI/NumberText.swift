// Numbers as text, without a locale: the same input gives the same output on every machine.

/// `12031` as `12,031`.
func grouped(_ number: Int) -> String {
    let digits = String(number.magnitude)
    var result = number < 0 ? "-" : ""
    for (position, digit) in digits.enumerated() {
        if position > 0 && (digits.count - position) % 3 == 0 { result.append(",") }
        result.append(digit)
    }
    return result
}

/// A number with exactly `digits` decimals, rounded half away from zero.
func decimal(_ number: Double, digits: Int) -> String {
    guard number.isFinite, abs(number) < 1e12 else { return "\(number)" }
    var scale = 1
    for _ in 0..<digits { scale *= 10 }
    let scaled = Int((abs(number) * Double(scale)).rounded())
    let sign = number < 0 && scaled > 0 ? "-" : ""
    guard digits > 0 else { return "\(sign)\(scaled)" }
    let fraction = String(scaled % scale)
    return "\(sign)\(scaled / scale)." + String(repeating: "0", count: digits - fraction.count) + fraction
}

/// Like `decimal(_:digits:)`, without zeros at the end: `1.50` becomes `1.5`, `64.00` becomes `64`.
func trimmedDecimal(_ number: Double, digits: Int) -> String {
    var text = decimal(number, digits: digits)
    guard text.contains(".") else { return text }
    while text.hasSuffix("0") { text.removeLast() }
    if text.hasSuffix(".") { text.removeLast() }
    return text
}

/// A latency in the unit a person would choose: `2.1 µs`, `3.4 ms`.
func durationText(microseconds: Double) -> String {
    if microseconds < 1000 { return "\(decimal(microseconds, digits: 1)) µs" }
    if microseconds < 1_000_000 { return "\(decimal(microseconds / 1000, digits: 2)) ms" }
    return secondsText(microseconds / 1_000_000)
}

/// A span of time that someone waits for: `8 s`, `3 min 20 s`, `2 h 5 min`.
func secondsText(_ seconds: Double) -> String {
    guard seconds.isFinite, seconds >= 0, seconds < 1e9 else { return "?" }
    if seconds < 10 { return "\(decimal(seconds, digits: 1)) s" }
    let whole = Int(seconds.rounded())
    if whole < 60 { return "\(whole) s" }
    if whole < 3600 { return "\(whole / 60) min \(whole % 60) s" }
    return "\(whole / 3600) h \(whole % 3600 / 60) min"
}
