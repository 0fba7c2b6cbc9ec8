/// What a comparison should come to.
enum Goal: Hashable {
    case atMost(Double)
    case atLeast(Double)

    func isMet(by value: Double) -> Bool {
        switch self {
        case .atMost(let limit): value <= limit
        case .atLeast(let limit): value >= limit
        }
    }

    /// 1 where the goal is just met, more where it is exceeded.
    func score(of value: Double) -> Double {
        switch self {
        case .atMost(let limit): value > 0 ? limit / value : .infinity
        case .atLeast(let limit): value / limit
        }
    }

    var text: String {
        switch self {
        case .atMost(let limit): "≤ \(trimmed(limit))"
        case .atLeast(let limit): "≥ \(trimmed(limit))"
        }
    }

    private func trimmed(_ number: Double) -> String {
        var text = decimal(number, digits: 3)
        while text.hasSuffix("0") { text.removeLast() }
        if text.hasSuffix(".") { text.removeLast() }
        return text
    }
}

/// Us against a reference, or against a goal: one number for every pair of measurements.
struct Comparison {
    let name: String
    let sample: Sample

    /// Pair by pair, so that what slowed both down at the same time cancels out.
    init(_ name: String, _ ours: Sample, over reference: Sample) {
        precondition(ours.values.count == reference.values.count, "pairs need a partner each")
        self.init(name, zip(ours.values, reference.values).map { $0 / $1 })
    }

    init(_ name: String, _ values: [Double]) {
        self.name = name
        sample = Sample(values, .count)
    }

    /// What is known about a comparison apart from its value.
    struct Meaning {
        var label: String
        var goal: Goal?
        /// The comparison whose goal this one is drawn against: how others do at the same task.
        var standsBeside: String?
    }

    /// The goals of DESIGN §9, of codecs those of its §7, and the words for the chart, in which they keep this order. A
    /// comparison that is not listed has no goal.
    static let known: [(name: String, meaning: Meaning)] = [
        ("lookupVsBareHash", Meaning(label: "keys + lookup / bare SHA-256", goal: .atMost(1.2))),
        ("memoryHitMicroseconds", Meaning(label: "memory hit of 64 blocks, µs", goal: .atMost(5))),
        ("memoryHitVsMemcpy", Meaning(label: "memory hit / memcpy of the bytes")),
        ("memoryOverhead", Meaning(label: "memory beyond payload / cap", goal: .atMost(0.04))),
        ("memoryOverheadWithDisk", Meaning(label: "the same with a disk tier")),
        ("spillWriteVsRawWrite", Meaning(label: "spill / raw write, incompressible", goal: .atLeast(0.85))),
        ("rocksdbPutVsRawWrite", Meaning(label: "rocksdb_put / raw write", standsBeside: "spillWriteVsRawWrite")),
        (
            "rocksdbBlobPutVsRawWrite",
            Meaning(label: "rocksdb_put, BlobDB / raw write", standsBeside: "spillWriteVsRawWrite")
        ),
        ("spillWriteBf16VsRawWrite", Meaning(label: "spill / raw write, bf16 KV", goal: .atLeast(1.1))),
        ("coldReadVsRawRead", Meaning(label: "cold hit / raw read, incompressible", goal: .atLeast(0.7))),
        ("coldReadBf16VsRawRead", Meaning(label: "cold hit / raw read, bf16 KV", goal: .atLeast(0.9))),
        ("writeAmplification", Meaning(label: "write amplification", goal: .atMost(1.3))),
        ("promoteP99DuringReclaimVsBefore", Meaning(label: "promote p99 in reclaim / before", goal: .atMost(2))),
        ("reopenSecondsPerMillionBlocks", Meaning(label: "reopen, s per million blocks", goal: .atMost(2))),
        ("reopenAfterKillSecondsPerMillionBlocks", Meaning(label: "reopen after kill -9, the same", goal: .atMost(2))),
        ("nib4EncodeVsMemcpy", Meaning(label: "nib4 encode / memcpy", goal: .atLeast(0.5))),
        ("nib4DecodeVsMemcpy", Meaning(label: "nib4 decode / memcpy", goal: .atLeast(0.6))),
        ("nib4hEncodeVsMemcpy", Meaning(label: "nib4h encode / memcpy", goal: .atLeast(0.12))),
        ("nib4hDecodeVsMemcpy", Meaning(label: "nib4h decode / memcpy", goal: .atLeast(0.2))),
        ("nib4Ratio", Meaning(label: "nib4, raw / stored", goal: .atLeast(1.32))),
        ("nib4hRatio", Meaning(label: "nib4h, raw / stored", goal: .atLeast(1.46))),
        ("hsplitFp16Ratio", Meaning(label: "hsplit of fp16, raw / stored", goal: .atLeast(1.165))),
        ("int8Ratio", Meaning(label: "int8 (lossy), raw / stored", goal: .atLeast(1.92))),
        ("hitVsEcho64KiB", Meaning(label: "daemon hit 64 KiB / echo", goal: .atMost(2))),
        ("hitVsEcho512KiB", Meaning(label: "daemon hit 512 KiB / echo", goal: .atMost(2))),
        ("hitVsEcho2MiB", Meaning(label: "daemon hit 2 MiB / echo", goal: .atMost(2))),
        ("hitVsEcho8MiB", Meaning(label: "daemon hit 8 MiB / echo", goal: .atMost(2))),
        ("getVsRedis2MiB", Meaning(label: "redis get / daemon hit, 2 MiB", goal: .atLeast(10))),
        ("getVsRedis8MiB", Meaning(label: "redis get / daemon hit, 8 MiB", goal: .atLeast(40))),
        ("commitSpeedVsMemcpy2MiB", Meaning(label: "memcpy / daemon commit, 2 MiB", goal: .atLeast(0.6))),
        ("commitVsRedis2MiB", Meaning(label: "redis set / daemon commit, 2 MiB", goal: .atLeast(1.5))),
    ]

    static let meanings = Dictionary(uniqueKeysWithValues: known.map { ($0.name, $0.meaning) })

    var meaning: Meaning { Self.meanings[name] ?? Meaning(label: name) }
    var goal: Goal? { meaning.goal }
    var isMissed: Bool { goal.map { !$0.isMet(by: sample.median) } ?? false }
}
