/// The printable characters that stand for bytes in byte-level BPE vocabularies, as GPT-2 chose them: printable Latin-1
/// characters are themselves, the other 68 bytes follow from U+0100 on.
enum ByteAlphabet {
    /// The character of each byte.
    static let characters: [Unicode.Scalar] = {
        var next: UInt32 = 0x100
        return (0..<256).map { byte -> Unicode.Scalar in
            if printable.contains(where: { $0.contains(byte) }) { return Unicode.Scalar(UInt8(byte)) }
            defer { next += 1 }
            return Unicode.Scalar(next) ?? " "
        }
    }()

    // Without the space, the no-break space, the soft hyphen and controls.
    private static let printable = [0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF]

    /// The byte of each character.
    static let bytes: [Unicode.Scalar: UInt8] = Dictionary(
        uniqueKeysWithValues: characters.enumerated().map { ($1, UInt8($0)) })

    /// UTF-8 text as characters of the alphabet.
    static func spell(_ text: Substring.UnicodeScalarView) -> String {
        var spelled = String.UnicodeScalarView()
        for byte in String(text).utf8 { spelled.append(characters[Int(byte)]) }
        return String(spelled)
    }

    /// The bytes that a token's text stands for; nil when it has a character that is not of the alphabet.
    static func bytes(of token: String) -> [UInt8]? {
        var found: [UInt8] = []
        for scalar in token.unicodeScalars {
            guard let byte = bytes[scalar] else { return nil }
            found.append(byte)
        }
        return found
    }
}
