internal import NIOCore

/// Stops listening for a second when `accept` fails, so that a daemon that is out of descriptors does not spin.
///
/// What waits to be accepted stays readable, so epoll would wake the loop at once, again and again. NIO's own
/// `AcceptBackoffHandler` delays the next `read`, but the channel still counts the failed one as pending and stays
/// registered for it (2.101): with it the loop took nine tenths of a processor. Without auto-read it is not registered.
final class AcceptPause: ChannelInboundHandler {
    typealias InboundIn = any Channel
    private let onError: (any Error) -> Void

    init(onError: @escaping (any Error) -> Void) { self.onError = onError }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        onError(error)
        Self.setListening(false, context.channel)
        let channel = NIOLoopBound(context.channel, eventLoop: context.eventLoop)
        context.eventLoop.scheduleTask(in: .seconds(1)) { Self.setListening(true, channel.value) }
    }

    private static func setListening(_ isListening: Bool, _ channel: any Channel) {
        // Fails only on a channel that is closed.
        try? channel.syncOptions?.setOption(.autoRead, value: isListening)
    }
}
