import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("Random operations against a dictionary", .serialized)
struct ModelTests {
    /// Runs every seed on as many threads as there are cores; the first failing run is reported with its operations.
    private func run(_ name: String, seeds: [UInt64], onDisk: Bool) {
        let next = Guarded(0)
        let totals = Guarded(ModelTotals())
        let failures = Guarded<[String]>([])
        DispatchQueue.concurrentPerform(iterations: 2) { _ in
            while failures.value.isEmpty {
                let index = next.update { value -> Int in
                    defer { value += 1 }
                    return value
                }
                guard index < seeds.count else { return }
                if let failure = Self.runOne(seeds[index], onDisk: onDisk, totals: totals) {
                    failures.update { $0.append(failure) }
                }
            }
        }
        print("\(name): \(totals.value)")
        for failure in failures.value { Issue.record("\(failure)") }
    }

    /// Nil when all went well.
    private static func runOne(_ seed: UInt64, onDisk: Bool, totals: Guarded<ModelTotals>) -> String? {
        let directory = onDisk ? TemporaryDirectory("model") : nil
        let plan = ModelPlan(seed: seed, directory: directory?.path)
        var operations = ""
        do {
            let run = try ModelRun(plan)
            defer { operations = run.operations }
            try run.run()
            totals.update { $0.add(run.totals) }
            return nil
        } catch {
            return
                "KVSTORE_SEED=\(seed)\n\(plan.configuration)\n\(plan.identities.map(\.opaqueBlockByteCount))\n\(operations)\n\(error)"
        }
    }

    @Test func `Without a disk every answer is a miss or the bytes last committed`() {
        run("model, memory only", seeds: TestScale.seeds(default: 2000, full: 20_000), onDisk: false)
    }

    @Test func `With a disk every answer is a miss or the bytes last committed`() {
        run("model, with disk", seeds: TestScale.seeds(default: 300, full: 3000), onDisk: true)
    }

    @Test func `A store that ends leaves no descriptor and no mapping`() async {
        // A process of its own: other tests hold regions too.
        await #expect(processExitsWith: .success) {
            let run = try ModelRun(ModelPlan(seed: 1, directory: nil))
            #expect(!openRegionInodes().isEmpty || run.store!.statistics.regions == 0)
            try run.run()
            #expect(openRegionInodes().isEmpty)
            #expect(mappedRegionInodes().isEmpty)
        }
    }
}

/// A value behind a lock, for counting over threads.
final class Guarded<Value>: @unchecked Sendable {
    private let lock = NSLock()
    private var stored: Value
    init(_ value: Value) { stored = value }
    var value: Value { lock.withLock { stored } }
    func update<Result>(_ body: (inout Value) -> Result) -> Result { lock.withLock { body(&stored) } }
}
