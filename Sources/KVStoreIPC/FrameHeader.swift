/// The 16 bytes before every body, little-endian.
///
/// ```
/// 0        4        5        6        8            12         16
/// | u32    | u8     | u8     | u16    | u32        | u32      |
/// | length | version| kind   | verb   | request id | status   |
/// ```
/// `length` counts the body only. `request id` is the client's and comes back in the reply; events carry 0. `status` is
/// 0 in requests and events.
package struct FrameHeader: Hashable, Sendable {
    package static let byteCount = 16
    package static let version: UInt8 = 1

    package enum Kind: UInt8, Sendable {
        case request = 0
        case reply = 1
        case event = 3
    }

    package var bodyByteCount: UInt32
    package var kind: Kind
    /// Raw, so that an unknown verb can be answered and not only be cut off.
    package var verb: UInt16
    package var requestID: UInt32
    package var status: WireStatus

    package init(bodyByteCount: Int, kind: Kind, verb: Verb, requestID: UInt32, status: WireStatus = .ok) {
        self.bodyByteCount = UInt32(bodyByteCount)
        self.kind = kind
        self.verb = verb.rawValue
        self.requestID = requestID
        self.status = status
    }

    /// Nil when the bytes are no header of this protocol version.
    package init?(_ bytes: [UInt8]) {
        var reader = WireReader(bytes)
        guard let length = reader.uint32(), let version = reader.uint8(), version == Self.version,
            let kind = reader.uint8().flatMap(Kind.init(rawValue:)), let verb = reader.uint16(),
            let requestID = reader.uint32(), let status = reader.uint32()
        else { return nil }
        bodyByteCount = length
        self.kind = kind
        self.verb = verb
        self.requestID = requestID
        self.status = WireStatus(rawValue: status)
    }

    package var bytes: [UInt8] {
        var writer = WireWriter(capacity: Self.byteCount)
        append(to: &writer)
        return writer.bytes
    }

    package func append(to writer: inout WireWriter) {
        writer.append(bodyByteCount)
        writer.append(Self.version)
        writer.append(kind.rawValue)
        writer.append(verb)
        writer.append(requestID)
        writer.append(status.rawValue)
    }
}

/// How a request ended. A struct, so that a code from a later daemon survives.
package struct WireStatus: RawRepresentable, Hashable, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }

    package static let ok = WireStatus(rawValue: 0)
    /// Not understood. The daemon closes the connection after this reply.
    package static let badFrame = WireStatus(rawValue: 1)
    package static let wrongOrder = WireStatus(rawValue: 2)
    package static let unsupportedVersion = WireStatus(rawValue: 3)
    package static let unknownVerb = WireStatus(rawValue: 4)
    package static let forbidden = WireStatus(rawValue: 5)
    package static let noTenant = WireStatus(rawValue: 6)
    package static let unknownNamespace = WireStatus(rawValue: 7)
    package static let invalidArgument = WireStatus(rawValue: 8)
    package static let limitReached = WireStatus(rawValue: 9)
    package static let draining = WireStatus(rawValue: 10)
    package static let notFound = WireStatus(rawValue: 11)
}

/// A whole frame.
package struct Frame: Hashable, Sendable {
    package var header: FrameHeader
    package var body: [UInt8]

    package init(
        _ kind: FrameHeader.Kind, _ verb: Verb, requestID: UInt32, status: WireStatus = .ok, body: [UInt8] = []
    ) {
        header = FrameHeader(
            bodyByteCount: body.count,
            kind: kind,
            verb: verb,
            requestID: requestID,
            status: status
        )
        self.body = body
    }

    /// The answer to a request that was refused: a status and a sentence for people.
    package static func refusal(
        _ status: WireStatus,
        _ message: String,
        verb: UInt16,
        requestID: UInt32
    ) -> Frame {
        var frame = Frame(
            .reply,
            .hello,
            requestID: requestID,
            status: status,
            body: Array(WireWriter.cut(message, limit: WireLimits.messageByteCount))
        )
        frame.header.verb = verb
        return frame
    }

    package var bytes: [UInt8] {
        var writer = WireWriter(capacity: FrameHeader.byteCount + body.count)
        append(to: &writer)
        return writer.bytes
    }

    package func append(to writer: inout WireWriter) {
        header.append(to: &writer)
        writer.append(contentsOf: body)
    }
}
