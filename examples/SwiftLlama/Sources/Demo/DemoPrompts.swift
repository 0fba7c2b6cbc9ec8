/// The prompts of the demo: a long system prompt that users share, in some variants that share nothing with each other,
/// and a short question of each user.
struct DemoPrompts {
    private let tokenizer: Tokenizer
    private let prefixTokens: Int
    private let questionTokens: Int

    init(_ tokenizer: Tokenizer, prefixTokens: Int, questionTokens: Int) {
        self.tokenizer = tokenizer
        self.prefixTokens = prefixTokens
        self.questionTokens = questionTokens
    }

    /// The tokens of a variant's system prompt and a user's question.
    func prompt(variant: Int, user: Int) -> [UInt32] {
        let head = "Assistant \(variant), these are the rules that hold for all users of this service. "
        return cut(head, Self.sentences, seed: UInt64(variant), count: prefixTokens)
            + cut("User \(user) asks: ", Self.questions, seed: UInt64(user) &+ 1000, count: questionTokens)
    }

    private func cut(_ head: String, _ sentences: [String], seed: UInt64, count: Int) -> [UInt32] {
        var text = head
        var state = seed
        while true {
            let tokens = tokenizer.encode(text)
            if tokens.count >= count { return Array(tokens.prefix(count)) }
            // About what is missing, then look again.
            for _ in 0..<max(1, (count - tokens.count) / 40) {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                text += sentences[Int(state >> 33) % sentences.count]
            }
        }
    }

    private static let sentences = [
        "Answer in whole sentences and keep to what was asked. ",
        "Numbers carry their unit, dates are written year first. ",
        "When two sources differ, name both and say which is newer. ",
        "Never guess an address; ask for it instead. ",
        "A list has at most seven entries, the most important first. ",
        "Quote the manual by chapter, not by page. ",
        "If the question is not about the product, say so politely. ",
        "Code is given whole, with the imports it needs. ",
    ]
    private static let questions = [
        "How do I change the filter of the pump? ", "Which oil does the gear box take? ",
        "Why does the red lamp blink twice? ", "Where is the serial number? ", "What does error nine mean? ",
    ]
}
