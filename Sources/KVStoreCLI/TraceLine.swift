/// Reads one line of a trace: `{"t": 0, "in": 512, "out": 12, "h": [1, 2]}`.
///
/// Keys may come in any order and further keys are skipped. The names of the original Mooncake files (`timestamp`,
/// `input_length`, `output_length`, `hash_ids`) are understood too. A general JSON decoder would take minutes for the
/// hundreds of thousands of ids of a long trace.
struct TraceLine {
    /// What is wrong with a line; the reader adds file and line number.
    struct Malformed: Error, Hashable {
        var reason: String
        init(_ reason: String) { self.reason = reason }
    }

    /// Bounds that no real request comes near, so that a broken file cannot exhaust the memory.
    static let blockLimit = 1 << 20
    static let tokenLimit = 1 << 32
    /// Ids keep their top byte free: the replay puts the number of the trace file there.
    static let idLimit: UInt64 = 1 << 56

    private let bytes: [UInt8]
    private var position = 0

    private init(_ bytes: [UInt8]) { self.bytes = bytes }

    static func parse(_ bytes: [UInt8]) throws(Malformed) -> TraceRequest {
        var line = TraceLine(bytes)
        return try line.request()
    }

    private mutating func request() throws(Malformed) -> TraceRequest {
        var arrival: UInt64?
        var (input, output): (UInt64?, UInt64?)
        var blocks: [UInt64]?
        try expect("{", "the line must be a JSON object like {\"t\":0,\"in\":512,\"out\":9,\"h\":[1]}")
        if !accept("}") {
            repeat {
                let key = try string()
                try expect(":", "':' must follow the key \"\(key)\"")
                switch key {
                case "t", "timestamp": arrival = try number(key)
                case "in", "input_length": input = try number(key)
                case "out", "output_length": output = try number(key)
                case "h", "hash_ids": blocks = try ids(key)
                default: try skipValue(depth: 0)
                }
            } while accept(",")
            try expect("}", "the object is not closed with '}'")
        }
        skipBlanks()
        guard position == bytes.count else { throw Malformed("unexpected text after the object") }
        guard let input else { throw Malformed("key \"in\" (input tokens) is missing") }
        guard let blocks else { throw Malformed("key \"h\" (block ids) is missing") }
        guard input <= UInt64(Self.tokenLimit), output ?? 0 <= UInt64(Self.tokenLimit) else {
            throw Malformed("more than \(Self.tokenLimit) tokens")
        }
        return TraceRequest(
            arrivalMilliseconds: Int(clamping: arrival ?? 0),
            inputTokens: Int(input),
            outputTokens: Int(output ?? 0),
            blocks: blocks
        )
    }

    private mutating func ids(_ key: String) throws(Malformed) -> [UInt64] {
        try expect("[", "\"\(key)\" must be a list of block ids")
        var ids: [UInt64] = []
        if accept("]") { return ids }
        repeat {
            let id = try number(key)
            guard id < Self.idLimit else { throw Malformed("block id \(id) is 2^56 or larger") }
            guard ids.count < Self.blockLimit else { throw Malformed("more than \(Self.blockLimit) block ids") }
            ids.append(id)
        } while accept(",")
        try expect("]", "the list \"\(key)\" is not closed with ']'")
        return ids
    }

    /// A whole number that is not negative; a fraction (times may have one) is cut off.
    private mutating func number(_ key: String) throws(Malformed) -> UInt64 {
        skipBlanks()
        let start = position
        var value: UInt64 = 0
        while position < bytes.count, case let digit = bytes[position] &- UInt8(ascii: "0"), digit < 10 {
            guard value < UInt64.max / 10 else { throw Malformed("a number in \"\(key)\" is too large") }
            value = value &* 10 &+ UInt64(digit)
            position &+= 1
        }
        guard position > start else {
            let found =
                position < bytes.count ? "'\(Character(Unicode.Scalar(bytes[position])))'" : "the end of the line"
            throw Malformed("\"\(key)\" needs a whole number, found \(found) at column \(position + 1)")
        }
        if position < bytes.count, bytes[position] == UInt8(ascii: ".") {
            repeat { position &+= 1 } while position < bytes.count && bytes[position] &- UInt8(ascii: "0") < 10
        }
        return value
    }

    private mutating func string() throws(Malformed) -> String {
        try expect("\"", "a key in double quotes is missing")
        let start = position
        while position < bytes.count, bytes[position] != UInt8(ascii: "\"") {
            position += bytes[position] == UInt8(ascii: "\\") ? 2 : 1
        }
        guard position < bytes.count else { throw Malformed("the line ends inside a string") }
        defer { position += 1 }
        return String(decoding: bytes[start..<position], as: UTF8.self)
    }

    /// Steps over a value that means nothing to a replay.
    private mutating func skipValue(depth: Int) throws(Malformed) {
        guard depth < 16 else { throw Malformed("nested deeper than 16 levels") }
        skipBlanks()
        guard position < bytes.count else { throw Malformed("the line ends where a value should be") }
        switch bytes[position] {
        case UInt8(ascii: "\""): _ = try string()
        case UInt8(ascii: "["), UInt8(ascii: "{"):
            let isObject = bytes[position] == UInt8(ascii: "{")
            let closing: Unicode.Scalar = isObject ? "}" : "]"
            position += 1
            if accept(closing) { return }
            repeat {
                if isObject {
                    _ = try string()
                    try expect(":", "':' is missing")
                }
                try skipValue(depth: depth + 1)
            } while accept(",")
            try expect(closing, "'\(closing)' is missing")
        default:
            let start = position
            while position < bytes.count, !",]} \t".utf8.contains(bytes[position]) { position += 1 }
            guard position > start else { throw Malformed("a value is missing at column \(position + 1)") }
        }
    }

    private mutating func skipBlanks() {
        while position < bytes.count, bytes[position] == UInt8(ascii: " ") || bytes[position] == UInt8(ascii: "\t") {
            position &+= 1
        }
    }

    private mutating func accept(_ scalar: Unicode.Scalar) -> Bool {
        skipBlanks()
        guard position < bytes.count, bytes[position] == UInt8(ascii: scalar) else { return false }
        position &+= 1
        return true
    }

    private mutating func expect(_ scalar: Unicode.Scalar, _ reason: String) throws(Malformed) {
        guard accept(scalar) else { throw Malformed("\(reason) (column \(position + 1))") }
    }
}
