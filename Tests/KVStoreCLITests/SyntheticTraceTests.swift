import Testing

@testable import KVStoreCLI

@Suite("Made-up chats")
struct SyntheticTraceTests {
    private func requests(seed: UInt64 = 1, _ count: Int = 2000) -> [TraceRequest] {
        SyntheticTrace.trace(seed: seed, requests: count, blockTokens: 512).requests
    }

    @Test func areTheSameForTheSameSeed() {
        #expect(requests(seed: 7) == requests(seed: 7))
        #expect(requests(seed: 7) != requests(seed: 8))
        // The first request and a checksum over many, so that a change of the generator cannot go unnoticed.
        let checksum = requests(seed: 1).reduce(UInt64(0)) { sum, request in
            request.blocks.reduce(SplitMix64.mix(sum ^ UInt64(request.inputTokens))) { SplitMix64.mix($0 ^ $1) }
        }
        #expect(checksum == 2_204_787_163_387_884_635)
    }

    @Test func ofAShortRunAreTheBeginningOfALongOne() {
        #expect(requests(100) == Array(requests(300).prefix(100)))
    }

    @Test func arriveInOrderAndHoldFullBlocksOnly() {
        var previous = 0
        for request in requests() {
            #expect(request.arrivalMilliseconds >= previous)
            #expect(request.blocks.count == request.inputTokens / 512)
            #expect(Set(request.blocks).count == request.blocks.count)
            previous = request.arrivalMilliseconds
        }
    }

    @Test func arePrefixChained() {
        // A block always has the same parent: that is what makes equal ids equal prefixes.
        var parents: [UInt64: UInt64] = [:]
        for request in requests() {
            for (parent, block) in zip([UInt64.max] + request.blocks, request.blocks) {
                #expect(parents.updateValue(parent, forKey: block) ?? parent == parent)
            }
        }
    }

    @Test func shareFewSystemPromptsAndComeBackForMoreTurns() {
        let requests = requests()
        let heads = Set(requests.compactMap(\.blocks.first))
        #expect(heads.count == SyntheticTrace.systemPromptCount)
        let last = Dictionary(grouping: requests.filter { !$0.blocks.isEmpty }, by: { $0.blocks.last! })
        #expect(last.count > 500, "chats grow")
        let summary = TraceSummary(requests)
        #expect((0.6...0.95).contains(summary.endlessHitRatioBlocks), "\(summary.endlessHitRatioBlocks)")
        #expect(
            (5...40).contains(summary.blocks / summary.requests),
            "\(summary.blocks / summary.requests) blocks each"
        )
    }
}
