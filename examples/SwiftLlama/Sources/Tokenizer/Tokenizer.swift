/// Byte-level BPE as in Hugging Face's `tokenizer.json`.
struct Tokenizer: Sendable {
    private let ids: [String: UInt32]
    private let texts: [UInt32: String]
    private let ranks: [Pair: Int]
    private let preTokenizer: PreTokenizer
    /// Tokens that are found in the text before everything else, longest first.
    private let added: [(text: String, id: UInt32)]
    /// Whole pieces that are in the vocabulary are taken without merging.
    private let ignoresMerges: Bool
    /// What every text begins with.
    let leadingTokens: [UInt32]

    struct Pair: Hashable, Sendable {
        let left: String
        let right: String
    }

    init(
        ids: [String: UInt32],
        merges: [Pair],
        added: [String: UInt32] = [:],
        preTokenizer: PreTokenizer = .gpt2,
        ignoresMerges: Bool = false,
        leadingTokens: [UInt32] = []
    ) {
        self.ids = ids
        var texts: [UInt32: String] = [:]
        for (text, id) in ids { texts[id] = text }
        self.texts = texts
        var ranks: [Pair: Int] = [:]
        for (rank, pair) in merges.enumerated() where ranks[pair] == nil { ranks[pair] = rank }
        self.ranks = ranks
        self.added = added.map { (text: $0.key, id: $0.value) }
            .sorted { ($0.text.utf8.count, $1.text) > ($1.text.utf8.count, $0.text) }
        self.preTokenizer = preTokenizer
        self.ignoresMerges = ignoresMerges
        self.leadingTokens = leadingTokens
    }

    /// One token for each byte, and `<s>`: what made-up models use, and directories without a `tokenizer.json`.
    static let bytes: Tokenizer = {
        var ids: [String: UInt32] = [:]
        for (byte, character) in ByteAlphabet.characters.enumerated() { ids[String(character)] = UInt32(byte) }
        return Tokenizer(ids: ids, merges: [], added: ["<s>": 256])
    }()

    /// One more than the largest token.
    var vocabularySize: Int { Int(max(texts.keys.max() ?? 0, added.map(\.id).max() ?? 0)) + 1 }

    /// Tokens by text, without the added ones.
    var vocabulary: [String: UInt32] { ids }
    /// The added tokens by text.
    var addedTokens: [String: UInt32] { Dictionary(uniqueKeysWithValues: added.map { ($0.text, $0.id) }) }

    /// The tokens of a text, the leading ones included.
    func encode(_ text: String) -> [UInt32] {
        var tokens = leadingTokens
        var rest = Substring(text)
        while !rest.isEmpty {
            guard let (range, id) = firstAdded(in: rest) else {
                encodePlain(rest, into: &tokens)
                break
            }
            encodePlain(rest[..<range.lowerBound], into: &tokens)
            tokens.append(id)
            rest = rest[range.upperBound...]
        }
        return tokens
    }

    /// The text of tokens. Bytes that are not UTF-8 become U+FFFD.
    func decode(_ tokens: some Sequence<UInt32>) -> String {
        var bytes: [UInt8] = []
        let special = Dictionary(uniqueKeysWithValues: added.map { ($0.id, $0.text) })
        for token in tokens {
            if let text = special[token] {
                bytes += Array(text.utf8)
            } else if let text = texts[token] {
                bytes += ByteAlphabet.bytes(of: text) ?? Array(text.utf8)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private func firstAdded(in text: Substring) -> (Range<Substring.Index>, UInt32)? {
        var found: (Range<Substring.Index>, UInt32)?
        for (special, id) in added {
            guard let range = text.firstOccurrence(of: special) else { continue }
            // The longest comes first, so an equal start does not replace it.
            if found == nil || range.lowerBound < found!.0.lowerBound { found = (range, id) }
        }
        return found
    }

    private func encodePlain(_ text: Substring, into tokens: inout [UInt32]) {
        for piece in preTokenizer.pieces(text) {
            let spelled = ByteAlphabet.spell(piece)
            if ignoresMerges, let id = ids[spelled] {
                tokens.append(id)
                continue
            }
            // A byte that is not in the vocabulary is left out, as without an unknown token elsewhere.
            for symbol in merge(spelled) { if let id = ids[symbol] { tokens.append(id) } }
        }
    }

    /// Merges the pair of the lowest rank, leftmost first, until none is left.
    private func merge(_ piece: String) -> [String] {
        var symbols = piece.unicodeScalars.map { String($0) }
        while symbols.count > 1 {
            var best: (rank: Int, at: Int)?
            for at in 0..<symbols.count - 1 {
                guard let rank = ranks[Pair(left: symbols[at], right: symbols[at + 1])] else { continue }
                if best == nil || rank < best!.rank { best = (rank, at) }
            }
            guard let best else { break }
            let right = symbols.remove(at: best.at + 1)
            symbols[best.at] += right
        }
        return symbols
    }
}

extension Substring {
    /// The first place of `text`, compared by Unicode scalars: an accent that follows does not hide it.
    fileprivate func firstOccurrence(of text: String) -> Range<Index>? {
        let wanted = Array(text.unicodeScalars)
        guard let first = wanted.first else { return nil }
        var start = startIndex
        while let candidate = unicodeScalars[start...].firstIndex(of: first) {
            let tail = unicodeScalars[candidate...]
            if tail.starts(with: wanted) {
                return candidate..<tail.index(candidate, offsetBy: wanted.count)
            }
            start = unicodeScalars.index(after: candidate)
        }
        return nil
    }
}
