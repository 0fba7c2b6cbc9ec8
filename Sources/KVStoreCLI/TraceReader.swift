/// Reads trace files, plain or gzip, line by line.
enum TraceReader {
    /// No line of a real trace comes near this; a binary file without newlines is refused instead of read whole.
    static let lineLimit = 16 << 20

    /// Reads files one after the other into one trace.
    ///
    /// Ids of different files mean different blocks, so each file's ids get the file's number in their top byte.
    static func read(paths: [String], limit: Int?) throws(StartError) -> Trace {
        var requests: [TraceRequest] = []
        var fingerprint = SplitMix64.mix(UInt64(paths.count))
        for (number, path) in paths.enumerated() {
            let tag = UInt64(number) << 56
            for request in try read(path: path) {
                for block in request.blocks { fingerprint = SplitMix64.mix(fingerprint ^ block) }
                fingerprint = SplitMix64.mix(fingerprint ^ UInt64(request.inputTokens))
                if let limit, requests.count >= limit { continue }
                var request = request
                if tag != 0 { for index in request.blocks.indices { request.blocks[index] |= tag } }
                requests.append(request)
            }
        }
        let names = paths.map { $0.split(separator: "/").last.map(String.init) ?? $0 }
        return Trace(name: names.joined(separator: " + "), fingerprint: fingerprint, requests: requests)
    }

    /// Reads one file.
    static func read(path: String) throws(StartError) -> [TraceRequest] {
        let file = try InputFile(path: path)
        var lines = TraceLines(name: path)
        var chunk = try file.read(upTo: 256 << 10)
        guard chunk.starts(with: GzipDecoder.magic) else {
            while !chunk.isEmpty {
                try lines.append(chunk)
                chunk = try file.read(upTo: 256 << 10)
            }
            return try lines.finish()
        }
        let decoder = GzipDecoder()
        do {
            while !chunk.isEmpty {
                try decoder.decode(chunk) { try lines.append($0) }
                chunk = try file.read(upTo: 256 << 10)
            }
            try decoder.finish()
        } catch let error as StartError {
            throw error
        } catch GzipDecoder.Failure.damaged(let reason) {
            throw StartError(
                "'\(path)' is damaged gzip data (\(reason)) after line \(lines.count); copy or download it again"
            )
        } catch {
            throw StartError(
                "'\(path)' is cut off: the gzip data ends too early, after line \(lines.count); copy or download it again"
            )
        }
        return try lines.finish()
    }
}

/// Puts lines together from chunks, and parses each as soon as it is complete.
struct TraceLines {
    private let name: String
    private var partial: [UInt8] = []
    private var requests: [TraceRequest] = []
    /// Lines seen so far.
    private(set) var count = 0

    init(name: String) { self.name = name }

    mutating func append(_ chunk: [UInt8]) throws(StartError) {
        var start = 0
        while let end = chunk[start...].firstIndex(of: UInt8(ascii: "\n")) {
            partial += chunk[start..<end]
            try completeLine()
            start = end + 1
        }
        partial += chunk[start...]
        guard partial.count <= TraceReader.lineLimit else {
            throw StartError("\(name):\(count + 1): the line is longer than \(ByteSize(TraceReader.lineLimit))")
        }
    }

    mutating func finish() throws(StartError) -> [TraceRequest] {
        if !partial.isEmpty { try completeLine() }
        guard !requests.isEmpty else { throw StartError("'\(name)' holds no requests") }
        return requests
    }

    private mutating func completeLine() throws(StartError) {
        count += 1
        defer { partial.removeAll(keepingCapacity: true) }
        if partial.last == UInt8(ascii: "\r") { partial.removeLast() }
        if partial.allSatisfy({ $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") }) { return }
        do {
            requests.append(try TraceLine.parse(partial))
        } catch {
            throw StartError("\(name):\(count): \(error.reason)")
        }
    }
}
