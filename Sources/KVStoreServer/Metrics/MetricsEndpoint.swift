internal import Glibc
package import NIOCore
internal import NIOHTTP1
package import NIOPosix

/// `GET /metrics` and `GET /health` over HTTP, for one machine: loopback TCP or a Unix socket.
///
/// Small on purpose: one request a connection, no body, a bounded head, a limit on time and on connections. On TCP no
/// tenant is named, because every user of the machine can connect there.
package final class MetricsEndpoint: Sendable {
    /// What is served.
    package struct Content: Sendable {
        /// Prometheus text; the parameter says whether tenants may be named. Called on a worker, may take a lock.
        package var metrics: @Sendable (_ tenantLabels: Bool) -> String
        /// Whether the daemon can serve, and a line that says how it is.
        package var health: @Sendable () -> (isReady: Bool, text: String)

        package init(
            metrics: @escaping @Sendable (_ tenantLabels: Bool) -> String,
            health: @escaping @Sendable () -> (isReady: Bool, text: String)
        ) {
            self.metrics = metrics
            self.health = health
        }
    }

    private let channel: any Channel
    private let listener: SocketListener?

    private init(channel: any Channel, listener: SocketListener?) {
        self.channel = channel
        self.listener = listener
    }

    /// The port on TCP, useful when it was given as 0.
    package var port: Int? { channel.localAddress?.port }

    private static let idleSeconds: Int64 = 10

    /// Binds and serves.
    package static func start(
        _ address: MetricsAddress,
        content: Content,
        group: any EventLoopGroup,
        workers: NIOThreadPool,
        onAcceptError: @escaping @Sendable (any Error) -> Void = { _ in }
    ) async throws -> MetricsEndpoint {
        let (isUnix, limit) = (address.isUnix, ConnectionLimit(16))
        let bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 64)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(AcceptPause(onError: onAcceptError))
                }
            }
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    guard limit.enter(channel) else { return }
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.configureHTTPServerPipeline(withPipeliningAssistance: false)
                    try pipeline.addHandler(IdleStateHandler(allTimeout: .seconds(idleSeconds)))
                    try pipeline.addHandler(MetricsHandler(content, isUnix: isUnix, workers: workers))
                }
            }
        switch address {
        case .loopback(let host, let port):
            return MetricsEndpoint(channel: try await bootstrap.bind(host: host, port: port).get(), listener: nil)
        case .unix(let path):
            let listener = try SocketListener(path: path, mode: 0o660)
            let channel = try await bootstrap.withBoundSocket(listener.takeDescriptor()).get()
            return MetricsEndpoint(channel: channel, listener: listener)
        }
    }

    /// Stops listening; a request under way is still answered or times out.
    package func stop() async {
        try? await channel.close().get()
        listener?.close()
    }
}

extension MetricsAddress {
    fileprivate var isUnix: Bool { if case .unix = self { true } else { false } }
}

/// Answers one request and closes.
private final class MetricsHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let content: MetricsEndpoint.Content
    private let isUnix: Bool
    private let workers: NIOThreadPool
    private var head: HTTPRequestHead?
    private var isAnswered = false

    init(_ content: MetricsEndpoint.Content, isUnix: Bool, workers: NIOThreadPool) {
        self.content = content
        self.isUnix = isUnix
        self.workers = workers
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !isAnswered else { return }
        switch unwrapInboundIn(data) {
        case .head(let head): self.head = head
        case .body: answer(context, .payloadTooLarge, "no body is read here\n")
        case .end: answer(context)
        }
    }

    private func answer(_ context: ChannelHandlerContext) {
        guard let head else { return context.close(promise: nil) }
        guard head.method == .GET || head.method == .HEAD else {
            return answer(context, .methodNotAllowed, "GET /metrics or GET /health\n")
        }
        let (content, isUnix) = (content, isUnix)
        let path = head.uri.prefix { $0 != "?" }
        guard path == "/metrics" || path == "/health" else {
            return answer(context, .notFound, "GET /metrics or GET /health\n")
        }
        isAnswered = true
        let isMetrics = path == "/metrics"
        let loopBound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        workers.runIfActive(eventLoop: context.eventLoop) { () -> (Bool, String) in
            if isMetrics { return (true, content.metrics(isUnix)) }
            let health = content.health()
            return (health.isReady, health.text + "\n")
        }.whenComplete { result in
            let (handler, context) = loopBound.value
            switch result {
            case .success(let (isReady, text)):
                handler.send(context, isReady ? .ok : .serviceUnavailable, text)
            case .failure: handler.send(context, .serviceUnavailable, "the daemon stops\n")
            }
        }
    }

    private func answer(_ context: ChannelHandlerContext, _ status: HTTPResponseStatus, _ text: String) {
        isAnswered = true
        send(context, status, text)
    }

    private func send(_ context: ChannelHandlerContext, _ status: HTTPResponseStatus, _ text: String) {
        guard context.channel.isActive else { return }
        var headers = HTTPHeaders()
        headers.add(name: "Content-Type", value: "text/plain; version=0.0.4; charset=utf-8")
        headers.add(name: "Content-Length", value: "\(text.utf8.count)")
        headers.add(name: "Connection", value: "close")
        let head = HTTPResponseHead(version: .http1_1, status: status, headers: headers)
        context.write(wrapOutboundOut(.head(head)), promise: nil)
        if self.head?.method != .HEAD {
            context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: text)))), promise: nil)
        }
        let channel = context.channel
        context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in channel.close(promise: nil) }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        // Too slow in sending its request or in taking the answer.
        if event is IdleStateHandler.IdleStateEvent { context.close(promise: nil) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
