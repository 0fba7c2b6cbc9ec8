/// Cuts text into the pieces that BPE merges within. The two regular expressions in use with byte-level BPE, written out
/// as scanners: alternatives are tried in their order, each takes as much as it can.
enum PreTokenizer: Sendable, Hashable {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    case gpt2
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    case llama3

    /// The regular expression as `tokenizer.json` of Llama 3 has it.
    static let llama3Pattern =
        #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#

    /// The pieces of `text`; together they are the text.
    func pieces(_ text: some StringProtocol) -> [Substring.UnicodeScalarView] {
        let text = Substring(text).unicodeScalars
        var pieces: [Substring.UnicodeScalarView] = []
        var scan = Scan(text)
        while scan.start < text.endIndex {
            let end = self == .gpt2 ? scan.gpt2() : scan.llama3()
            pieces.append(text[scan.start..<end])
            scan.start = end
        }
        return pieces
    }
}

private struct Scan {
    let text: Substring.UnicodeScalarView
    var start: Substring.UnicodeScalarView.Index

    init(_ text: Substring.UnicodeScalarView) {
        self.text = text
        start = text.startIndex
    }

    typealias Index = Substring.UnicodeScalarView.Index

    private func at(_ index: Index) -> Unicode.Scalar? { index < text.endIndex ? text[index] : nil }
    private func after(_ index: Index) -> Index { text.index(after: index) }

    /// The end of the run from `index` on whose characters fit.
    private func run(_ index: Index, most: Int = .max, _ fits: (Unicode.Scalar) -> Bool) -> Index {
        var end = index
        var count = 0
        while count < most, let scalar = at(end), fits(scalar) {
            end = after(end)
            count += 1
        }
        return end
    }

    /// The end of `'s`, `'re` and the like.
    private func contraction(ignoringCase: Bool) -> Index? {
        guard at(start) == "'" else { return nil }
        let first = after(start)
        guard let letter = lower(at(first), ignoringCase) else { return nil }
        if "stmd".unicodeScalars.contains(letter) { return after(first) }
        let second = after(first)
        guard let other = lower(at(second), ignoringCase) else { return nil }
        let isKnown = other == "e" ? letter == "r" || letter == "v" : letter == "l" && other == "l"
        return isKnown ? after(second) : nil
    }

    private func lower(_ scalar: Unicode.Scalar?, _ ignoringCase: Bool) -> Unicode.Scalar? {
        guard let scalar, ignoringCase else { return scalar }
        return scalar.properties.lowercaseMapping.unicodeScalars.first
    }

    /// ` ?X+`: an optional space and a run.
    private func spaced(_ fits: (Unicode.Scalar) -> Bool) -> Index? {
        let begin = at(start) == " " ? after(start) : start
        let end = run(begin, fits)
        return end > begin ? end : nil
    }

    /// `\s+(?!\S)|\s+`: white space, but its last character belongs to what follows.
    private func space() -> Index {
        let end = run(start, \.isSpace)
        guard end < text.endIndex, after(start) < end else { return end > start ? end : after(start) }
        return text.index(before: end)
    }

    func gpt2() -> Index {
        contraction(ignoringCase: false) ?? spaced(\.isLetter) ?? spaced(\.isNumber) ?? spaced(\.isOther) ?? space()
    }

    func llama3() -> Index {
        if let end = contraction(ignoringCase: true) { return end }
        if let first = at(start) {
            let begin = first.isLetter || first.isNumber || first.isLineEnd ? start : after(start)
            let end = run(begin, \.isLetter)
            if end > begin { return end }
        }
        let digits = run(start, most: 3, \.isNumber)
        if digits > start { return digits }
        if let end = spaced(\.isOther) { return run(end, \.isLineEnd) }
        // \s*[\r\n]+: white space up to its last line end.
        let blank = run(start, \.isSpace)
        if let last = text[start..<blank].lastIndex(where: \.isLineEnd) { return after(last) }
        return space()
    }
}

extension Unicode.Scalar {
    fileprivate var isLetter: Bool {
        switch properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: true
        default: false
        }
    }
    fileprivate var isNumber: Bool {
        switch properties.generalCategory {
        case .decimalNumber, .letterNumber, .otherNumber: true
        default: false
        }
    }
    fileprivate var isSpace: Bool { properties.isWhitespace }
    fileprivate var isLineEnd: Bool { self == "\r" || self == "\n" }
    fileprivate var isOther: Bool { !isSpace && !isLetter && !isNumber }
}
