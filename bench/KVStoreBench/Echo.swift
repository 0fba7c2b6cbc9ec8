import Foundation
import NIOCore
import NIOPosix

/// What a round trip of 64 bytes over a Unix socket costs when nothing is done with them.
final class Echo {
    private let stream: StreamConnection
    private let stop: () -> Void
    private var buffer = [UInt8](repeating: 0, count: 64)

    private init(_ stream: StreamConnection, stop: @escaping () -> Void = {}) {
        self.stream = stream
        self.stop = stop
    }

    deinit {
        stream.close()
        stop()
    }

    /// To a thread that reads and writes: the least there is.
    static func ofThread() throws -> Echo {
        var ends: [Int32] = [0, 0]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0 else {
            throw BenchError("no socket pair")
        }
        let far = ends[1]
        Thread {
            let other = StreamConnection(descriptor: far)
            var bytes = [UInt8](repeating: 0, count: 64)
            while other.receive(64, into: &bytes) { other.send(bytes) }
        }.start()
        return Echo(StreamConnection(descriptor: ends[0]))
    }

    /// To a server on SwiftNIO, as the daemon is one, that sends back what it gets.
    static func ofEventLoop() throws -> Echo {
        let path = NSTemporaryDirectory() + "kvstore-echo-\(getpid()).sock"
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let server = try ServerBootstrap(group: group)
            .childChannelOption(.maxMessagesPerRead, value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(SendBack()) }
            }
            .bind(unixDomainSocketPath: path, cleanupExistingSocketFile: true).wait()
        return Echo(try StreamConnection(path)) {
            try? server.close().wait()
            try? group.syncShutdownGracefully()
            unlink(path)
        }
    }

    /// Median of one round trip, in nanoseconds.
    func measure() -> Double {
        let message = [UInt8](repeating: 9, count: 64)
        let values = (0..<2000).map { _ in
            Sample.nanoseconds {
                stream.send(message)
                precondition(stream.receive(64, into: &buffer))
            }
        }
        return Sample(nanoseconds: values).median
    }
}

private final class SendBack: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        context.writeAndFlush(wrapOutboundOut(unwrapInboundIn(data)), promise: nil)
    }
}
