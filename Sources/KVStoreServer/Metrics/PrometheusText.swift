package import KVStoreIPC

/// Statistics in the Prometheus text format, version 0.0.4. A pure function; `Metric.all` says what is written.
package enum PrometheusText {
    /// What belongs into the `Content-Type` header.
    package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    /// - Parameter tenantLabels: whether tenants may be named. Without it no series says who stores how much.
    package static func render(_ statistics: DaemonStatistics, tenantLabels: Bool) -> String {
        var text = ""
        for metric in Metric.all where tenantLabels || !metric.namesTenants {
            let samples = metric.samples(statistics)
            if samples.isEmpty { continue }
            text += "# HELP \(metric.name) \(escaped(metric.help, quotes: false))\n"
            text += "# TYPE \(metric.name) \(metric.kind.rawValue)\n"
            for sample in samples { append(sample, of: metric, to: &text) }
        }
        return text
    }

    private static func append(_ sample: Metric.Sample, of metric: Metric, to text: inout String) {
        switch sample.value {
        case .number(let number): text += "\(metric.name)\(labels(sample.labels)) \(numberText(number))\n"
        case .histogram(let buckets, let sum, let count):
            for bucket in buckets {
                text += "\(metric.name)_bucket\(labels(sample.labels + [("le", bucket.bound)])) \(bucket.count)\n"
            }
            text += "\(metric.name)_bucket\(labels(sample.labels + [("le", "+Inf")])) \(count)\n"
            text += "\(metric.name)_sum\(labels(sample.labels)) \(numberText(sum))\n"
            text += "\(metric.name)_count\(labels(sample.labels)) \(count)\n"
        }
    }

    private static func labels(_ labels: [(name: String, value: String)]) -> String {
        if labels.isEmpty { return "" }
        return "{" + labels.map { "\($0.name)=\"\(escaped($0.value, quotes: true))\"" }.joined(separator: ",") + "}"
    }

    /// Whole numbers without a point, as far as a Double holds them exactly.
    private static func numberText(_ number: Double) -> String {
        abs(number) < 9e15 && number.rounded() == number ? "\(Int(number))" : "\(number)"
    }

    private static func escaped(_ text: String, quotes: Bool) -> String {
        var result = ""
        // By scalars: a carriage return and a line feed together are one character.
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\"" where quotes: result += "\\\""
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
