internal import Logging
internal import KVStore
internal import NIOCore
internal import NIOPosix
internal import ServiceLifecycle
internal import Synchronization

/// The daemon could not start; one sentence for each reason, with what to do.
package struct DaemonStartError: Error, CustomStringConvertible {
    /// All reasons.
    package var description: String
    init(_ description: String) { self.description = description }
}

/// One cache for all processes of a node, behind a Unix socket.
///
/// ```
/// start ──▶ accepting ──SIGTERM──▶ draining: no new connections, no new blocks, leases run out ──▶ flush ──▶ closed
///               ▲ │ SIGHUP: what can change is read again
///               └─┘
/// ```
/// Being killed at any moment is as safe as stopping; a stop only saves clients their retries and the last seconds of
/// writes.
package final class Daemon: Sendable {
    let context: ServerContext
    private let sources: ConfigurationSources
    private let group: MultiThreadedEventLoopGroup
    private let listener: SocketListener
    private let channel: any Channel
    private let metrics: MetricsEndpoint?
    private let notifier: SystemdNotifier
    private let watch: ClientWatch
    private let log: StandardErrorLog.Sink
    private let logger: Logger

    /// Where the configuration is read from again on SIGHUP.
    package struct ConfigurationSources: Sendable {
        /// Texts by the key of their setting.
        package var flags: [String: String]
        /// The process's variables.
        package var environment: [String: String]
        /// The YAML file, if one was named on the command line.
        package var filePath: String?

        package init(flags: [String: String] = [:], environment: [String: String] = [:], filePath: String? = nil) {
            self.flags = flags
            self.environment = environment
            self.filePath = filePath
        }

        /// Reads all of it.
        package func load() throws(ConfigurationError) -> LoadedConfiguration {
            try LoadedConfiguration(flags: flags, environment: environment, filePath: filePath)
        }
    }

    private init(
        context: ServerContext,
        sources: ConfigurationSources,
        group: MultiThreadedEventLoopGroup,
        listener: SocketListener,
        channel: any Channel,
        metrics: MetricsEndpoint?,
        watch: ClientWatch,
        log: StandardErrorLog.Sink
    ) {
        self.context = context
        self.sources = sources
        self.group = group
        self.listener = listener
        self.channel = channel
        self.metrics = metrics
        self.watch = watch
        self.log = log
        logger = context.logger
        notifier = SystemdNotifier(environment: sources.environment)
    }

    /// Where clients connect.
    package var socketPath: String { listener.path }
    /// For libraries that tell more than an operator wants to know.
    var quietLogger: Logger {
        var quiet = Logger(label: "kvstore.lifecycle") { _ in SwiftLogNoOpLogHandler() }
        quiet.logLevel = .critical
        return quiet
    }
    /// The port of the metrics endpoint on TCP.
    package var metricsPort: Int? { metrics?.port }

    /// Opens the store, takes the socket and begins to serve. What fails leaves nothing behind.
    package static func start(
        _ sources: ConfigurationSources,
        log: StandardErrorLog.Sink? = nil,
        timeLimits: SessionTimeLimits = SessionTimeLimits()
    ) async throws -> Daemon {
        let loaded = try sources.load()
        let configuration = loaded.configuration
        let log = log ?? StandardErrorLog.Sink(level: Logger.Level(rawValue: configuration.logLevel) ?? .info)
        let logger = Logger(label: "kvstore") { _ in StandardErrorLog(log) }
        for warning in loaded.warnings { logger.warning("\(warning)") }
        let tenants = try TenantTable(configuration)
        let watch = try ClientWatch()
        // The path before the store: a second daemon must not get as far as the first one's disk tier.
        let listener = try takeSocket(configuration, sources.environment)
        let store = try BlockStore(
            configuration.storeConfiguration { event in
                switch event.severity {
                case .info: logger.info("\(event.message)")
                case .warning: logger.warning("\(event.message)")
                }
            }
        )
        let workers = NIOThreadPool(numberOfThreads: max(4, min(16, System.coreCount)))
        workers.start()
        let slowWorkers = NIOThreadPool(numberOfThreads: 2)
        slowWorkers.start()
        let figureWorkers = NIOThreadPool(numberOfThreads: 1)
        figureWorkers.start()
        let group = MultiThreadedEventLoopGroup(numberOfThreads: max(1, min(4, System.coreCount / 2)))
        let context = ServerContext(
            configuration: configuration,
            tenants: tenants,
            store: store,
            workers: workers,
            slowWorkers: slowWorkers,
            figureWorkers: figureWorkers,
            watch: watch,
            logger: logger,
            timeLimits: timeLimits
        )
        context.setQuotas(to: configuration.tenants)
        var metrics: MetricsEndpoint?
        do {
            if let address = configuration.metricsListen {
                metrics = try await MetricsEndpoint.start(
                    address,
                    content: context.metricsContent,
                    group: group,
                    workers: figureWorkers,
                    onAcceptError: context.noteAcceptError
                )
            }
            let channel = try await serve(listener.takeDescriptor(), context, group)
            let place = configuration.effectiveDiskPath.map { ", disk \($0)" } ?? ", no disk tier"
            logger.info(
                "listening on \(listener.path), memory \(ByteText.exact(configuration.memoryCapacityBytes))\(place)")
            return Daemon(
                context: context,
                sources: sources,
                group: group,
                listener: listener,
                channel: channel,
                metrics: metrics,
                watch: watch,
                log: log
            )
        } catch {
            await metrics?.stop()
            watch.stop()
            try? await workers.shutdownGracefully()
            try? await slowWorkers.shutdownGracefully()
            try? await figureWorkers.shutdownGracefully()
            try? await group.shutdownGracefully()
            store.close()
            listener.close()
            throw error
        }
    }

    private static func takeSocket(
        _ configuration: ServerConfiguration,
        _ environment: [String: String]
    ) throws(HostFileError) -> SocketListener {
        if let activated = try SocketListener.activated(environment: environment) { return activated }
        return try SocketListener(
            path: configuration.socketPath,
            mode: configuration.socketMode,
            group: configuration.socketGroup
        )
    }

    private static func serve(
        _ descriptor: Int32,
        _ context: ServerContext,
        _ group: MultiThreadedEventLoopGroup
    ) async throws -> any Channel {
        try await ServerBootstrap(group: group)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(AcceptPause(onError: context.noteAcceptError))
                }
            }
            .childChannelOption(.maxMessagesPerRead, value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    guard context.limit.enter(channel) else { return }
                    try channel.pipeline.syncOperations.addHandler(SessionHandler(context))
                }
            }
            .withBoundSocket(descriptor)
            .get()
    }

    // MARK: Running

    /// Serves until a graceful shutdown, then drains. Returns when everything is closed.
    package func run() async throws {
        let watchdog = notifier.watchdogMicroseconds.map { microseconds in
            Task { await self.beat(everyMicroseconds: microseconds / 3) }
        }
        let context = context
        let pins = Self.repeatedly(every: .seconds(1)) { context.pins.expire(now: monotonicNanoseconds()) }
        let trims = Self.repeatedly(every: .seconds(15)) { ProcessSetup.giveBackFreeMemory() }
        notifier.ready(status: context.statusLine)
        let status = notifier.isConnected ? statusUpdates : nil
        try? await gracefulShutdown()
        status?.cancel()
        notifier.stopping()
        // A task of its own: being cancelled means to stop in order, not at once.
        await Task { await self.drain() }.value
        pins.cancel()
        trims.cancel()
        watchdog?.cancel()
    }

    /// Until it is cancelled.
    private static func repeatedly(every pause: Duration, _ work: @escaping @Sendable () -> Void) -> Task<Void, Never> {
        Task {
            while !Task.isCancelled {
                work()
                try? await Task.sleep(for: pause)
            }
        }
    }

    /// What `systemctl status` shows, every ten seconds.
    private var statusUpdates: Task<Void, Never> {
        let (notifier, context) = (notifier, context)
        return Task {
            while (try? await Task.sleep(for: .seconds(10))) != nil { notifier.status(context.statusLine) }
        }
    }

    /// Tells systemd that the event loops turn; a loop that hangs stops the beat, and systemd restarts the service.
    private func beat(everyMicroseconds interval: Int) async {
        while !Task.isCancelled {
            let loops = Array(group.makeIterator())
            let turns = loops.map { loop in loop.submit {} }
            try? await EventLoopFuture.andAllSucceed(turns, on: loops[0]).get()
            notifier.watchdog()
            try? await Task.sleep(for: .microseconds(interval))
        }
    }

    /// Reads the configuration again and takes over what can change. A configuration with mistakes changes nothing.
    package func reload() {
        notifier.reloading(monotonicMicroseconds: monotonicNanoseconds() / 1000)
        defer { notifier.ready(status: context.statusLine) }
        do throws(ConfigurationError) {
            let loaded = try sources.load()
            let current = context.configuration
            let changes = LoadedConfiguration.changes(from: current, to: loaded.configuration)
            let merged = LoadedConfiguration.merged(current, with: loaded.configuration)
            context.reload(merged, tenants: try TenantTable(merged))
            log.level = Logger.Level(rawValue: merged.logLevel) ?? log.level
            logger.notice("configuration read again; changed: \(Self.list(changes.applied))")
            if !changes.needRestart.isEmpty {
                logger.warning("these changes wait for the next start: \(Self.list(changes.needRestart))")
            }
        } catch {
            for problem in error.problems { logger.error("configuration not taken over: \(problem)") }
        }
    }

    private static func list(_ keys: [String]) -> String { keys.isEmpty ? "nothing" : keys.joined(separator: ", ") }

    // MARK: Stopping

    private func drain() async {
        logger.info("draining")
        context.isDraining = true
        try? await channel.close().get()
        context.pins.endAll()
        let timeout = context.configuration.drainTimeoutMilliseconds
        let deadline = monotonicNanoseconds() + UInt64(timeout) * 1_000_000
        while monotonicNanoseconds() < deadline {
            let statistics = context.store.statistics
            if statistics.leases == 0, statistics.reservations == 0 { break }
            try? await Task.sleep(for: .milliseconds(20))
        }
        await metrics?.stop()
        // Workers first: what they are at answers to the event loops.
        for pool in [context.workers, context.slowWorkers, context.figureWorkers] {
            try? await pool.shutdownGracefully()
        }
        // Closes every connection; the leases and reservations of those that did not finish end here.
        try? await group.shutdownGracefully()
        watch.stop()
        let flushed = await context.store.flush()
        if let reason = flushed.reason, flushed.refusedBlocks > 0, context.configuration.effectiveDiskPath != nil {
            logger.warning("\(flushed.refusedBlocks) blocks are not on disk: \(reason)")
        }
        context.store.close()
        listener.close()
        logger.info("stopped")
    }
}
