internal import ServiceLifecycle
internal import UnixSignals

/// Runs a started daemon until SIGTERM or SIGINT; SIGHUP reads the configuration again.
package func runUntilSignalled(_ daemon: Daemon) async throws {
    // Before systemd hears that the daemon is ready: a SIGHUP that nobody traps ends the process.
    let hangups = await UnixSignalsSequence(trapping: .sighup)
    let group = ServiceGroup(
        configuration: ServiceGroupConfiguration(
            services: [daemon, ReloadOnHangup(daemon: daemon, hangups: hangups)],
            gracefulShutdownSignals: [.sigterm, .sigint],
            logger: daemon.quietLogger
        )
    )
    daemon.context.onShutdownRequest { Task { await group.triggerGracefulShutdown() } }
    try await group.run()
}

private struct ReloadOnHangup: Service {
    let daemon: Daemon
    let hangups: UnixSignalsSequence

    func run() async throws {
        for await _ in hangups.cancelOnGracefulShutdown() { daemon.reload() }
    }
}

extension Daemon: Service {}
