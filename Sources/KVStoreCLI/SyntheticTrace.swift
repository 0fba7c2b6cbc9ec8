/// Made-up chats: a few shared system prompts, several turns each, many at the same time.
///
/// The shape follows what the recorded chat traces show: short questions with a few long pasted texts, every turn
/// sends the whole chat again, some pauses are much longer than others, and popular system prompts are reused by
/// everyone. Only whole numbers are drawn, so a seed gives the same requests on every machine, and fewer requests are
/// the beginning of more.
struct SyntheticTrace {
    private struct Chat {
        var nextMilliseconds: Int
        var turnsLeft: Int
        var inputTokens: Int
        /// Full blocks so far; a chat that goes on only appends.
        var blocks: [UInt64]
    }

    static let systemPromptCount = 8
    static let chatsAtOnce = 64

    private var random: SplitMix64
    private let blockTokens: Int
    private var nextBlock: UInt64 = 0
    private var systemPrompts: [(tokens: Int, blocks: [UInt64])] = []
    private var chats: [Chat] = []

    init(seed: UInt64, blockTokens: Int) {
        random = SplitMix64(seed: seed)
        self.blockTokens = blockTokens
        for _ in 0..<Self.systemPromptCount {
            let tokens = 600 + random.below(6000)
            systemPrompts.append((tokens, takeBlocks(tokens / blockTokens)))
        }
        for _ in 0..<Self.chatsAtOnce { startChat(at: random.below(60_000)) }
    }

    /// The first `count` requests.
    static func trace(seed: UInt64, requests count: Int, blockTokens: Int) -> Trace {
        var generator = SyntheticTrace(seed: seed, blockTokens: blockTokens)
        return Trace(
            name: "made-up chats, seed \(seed)",
            fingerprint: SplitMix64.mix(seed ^ 0x6368_6174) ^ UInt64(blockTokens),
            requests: (0..<count).map { _ in generator.next() }
        )
    }

    /// The next request in order of arrival.
    mutating func next() -> TraceRequest {
        var earliest = 0
        for index in chats.indices where chats[index].nextMilliseconds < chats[earliest].nextMilliseconds {
            earliest = index
        }
        let now = chats[earliest].nextMilliseconds
        // One question in six comes with a long text.
        let isLong = random.below(6) == 0
        chats[earliest].inputTokens += isLong ? 500 + random.below(6000) : 20 + random.below(200)
        let fullBlocks = chats[earliest].inputTokens / blockTokens
        chats[earliest].blocks += takeBlocks(fullBlocks - chats[earliest].blocks.count)
        let output = 50 + random.below(700)
        let request = TraceRequest(
            arrivalMilliseconds: now,
            inputTokens: chats[earliest].inputTokens,
            outputTokens: output,
            blocks: chats[earliest].blocks
        )
        chats[earliest].inputTokens += output
        chats[earliest].turnsLeft -= 1
        chats[earliest].nextMilliseconds += pauseMilliseconds()
        if chats[earliest].turnsLeft == 0 {
            chats.remove(at: earliest)
            startChat(at: now + random.below(30_000))
        }
        return request
    }

    private mutating func startChat(at milliseconds: Int) {
        // The smaller of two draws: the first prompts are the popular ones.
        let number = min(random.below(Self.systemPromptCount), random.below(Self.systemPromptCount))
        var turns = 1
        while turns < 40 && random.below(5) != 0 { turns += 1 }
        chats.append(
            Chat(
                nextMilliseconds: milliseconds,
                turnsLeft: turns,
                inputTokens: systemPrompts[number].tokens,
                blocks: systemPrompts[number].blocks
            )
        )
    }

    /// Reading and typing; one time in eight the person does something else first.
    private mutating func pauseMilliseconds() -> Int {
        let pause = 5_000 + random.below(60_000)
        return random.below(8) == 0 ? pause + random.below(600_000) : pause
    }

    private mutating func takeBlocks(_ count: Int) -> [UInt64] {
        defer { nextBlock += UInt64(count) }
        return Array(nextBlock..<nextBlock + UInt64(count))
    }
}
