internal import KVStore

extension ServerContext {
    /// What the metrics endpoint serves.
    var metricsContent: MetricsEndpoint.Content {
        MetricsEndpoint.Content(
            metrics: { [self] _ in "kvstore_up \(isDraining ? 0 : 1)\n" },
            health: { [self] in isDraining ? (false, "not ready: draining") : (true, "ready") }
        )
    }
}
