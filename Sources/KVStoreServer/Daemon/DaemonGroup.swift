internal import ServiceLifecycle
internal import UnixSignals

/// Runs a started daemon until SIGTERM or SIGINT; SIGHUP reads the configuration again.
package func runUntilSignalled(_ daemon: Daemon) async throws {
    let group = ServiceGroup(
        configuration: ServiceGroupConfiguration(
            services: [daemon, ReloadOnHangup(daemon: daemon)],
            gracefulShutdownSignals: [.sigterm, .sigint],
            logger: daemon.quietLogger
        )
    )
    daemon.context.onShutdownRequest { Task { await group.triggerGracefulShutdown() } }
    try await group.run()
}

private struct ReloadOnHangup: Service {
    let daemon: Daemon

    func run() async throws {
        for await _ in await UnixSignalsSequence(trapping: .sighup).cancelOnGracefulShutdown() { daemon.reload() }
    }
}

extension Daemon: Service {}
