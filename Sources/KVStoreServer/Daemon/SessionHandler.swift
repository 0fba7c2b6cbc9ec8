internal import NIOCore

/// One connection.
final class SessionHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let context: ServerContext

    init(_ context: ServerContext) { self.context = context }
}
