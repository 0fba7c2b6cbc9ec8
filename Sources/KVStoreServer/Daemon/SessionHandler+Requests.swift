internal import KVStore
internal import KVStoreIPC
internal import Logging
internal import NIOCore

// What is to be done for each request. Those about blocks are in `+Blocks` and `+Staging`.
extension SessionHandler {
    func perform(_ request: SessionRequest) {
        if let prefix = request.prefix, blockCount(of: prefix) > WireLimits.keysPerRequest {
            if Verb(rawValue: self.request.verb)?.isOneWay == true { return finish() }
            return refuse(.invalidArgument, "a request names at most \(WireLimits.keysPerRequest) blocks")
        }
        switch request {
        case .hello(let hello): greet(hello)
        case .openNamespace(let identity): open(identity)
        case .match(let prefix): match(prefix)
        case .acquire(let prefix): acquire(prefix)
        case .release(let ids): release(ids)
        case .renew(let unmapped): renew(unmapped)
        case .reserve(let prefix): reserve(prefix)
        case .commit(let id): commit(id)
        case .abandon(let id):
            if machine.endReservation(id) { endReservation(id) }
            finish()
        case .get(let prefix): get(prefix)
        case .put(let prefix): put(prefix)
        case .prefetch(let prefix): prefetch(prefix)
        case .pin(let prefix): pin(prefix)
        case .unpin(let prefix): unpin(prefix)
        case .remove(let prefix): remove(prefix)
        case .ping(let bytes): reply(bytes)
        case .purge, .flush, .statistics, .namespaces, .health, .drain: administrate(request)
        }
    }

    // MARK: Beginning

    private func greet(_ hello: HelloRequest) {
        guard let peer else { return close() }
        do throws(TenantTable.Refusal) {
            let admission = try server.tenants.admit(peer, token: hello.token)
            tenant = admission.tenant
            machine.authenticated(.init(tenant: admission.tenant?.name, isOperator: admission.isOperator))
            let configuration = server.configuration
            reply(
                HelloReply(
                    hasTenant: admission.tenant != nil,
                    isOperator: admission.isOperator,
                    leaseMilliseconds: UInt32(clamping: configuration.leaseTTLMilliseconds),
                    stagingByteCount: UInt64(
                        min(configuration.stagingPerConnectionBytes, server.staging.capacityBytes)),
                    daemonID: server.daemonID,
                    tenant: admission.tenant?.name ?? ""
                ).body
            )
        } catch {
            machine.authenticated(nil)
            server.counters.refusedPeers.increment()
            server.logger.warning("refused uid \(peer.userID), pid \(peer.processID): \(error)")
            refuse(.noTenant, "\(error)", thenClose: true)
        }
    }

    private func open(_ identity: NamespaceIdentity) {
        guard let tenant else { return refuse(.noTenant, "this user belongs to no tenant") }
        // Whatever the client wrote there: only the daemon says who a client is, and knows the salt.
        var identity = identity
        identity.tenant = tenant.name
        identity.salt = tenant.salt.bytes
        let (whole, server) = (identity, server)
        onWorker {
            server.openNamespace(whole)
        } then: { [self] result in
            switch result {
            case .success(let namespace):
                let id = UInt32(namespace.index)
                namespaces[id] = namespace
                machine.opened(namespaceID: id, blockByteCount: namespace.blockByteCount)
                reply(
                    NamespaceReply(
                        namespaceID: id,
                        blockByteCount: UInt64(namespace.blockByteCount),
                        fingerprint: namespace.fingerprint
                    ).body
                )
            case .failure(let problem): refuse(problem.status, problem.text)
            }
        }
    }

    // MARK: Administration

    private func administrate(_ request: SessionRequest) {
        let (server, tenantName) = (server, tenant?.name)
        let isOperator = machine.peer?.isOperator == true
        switch request {
        case .purge(let name):
            // The machine let nobody but an operator name another tenant.
            guard let name = name ?? tenantName else { return refuse(.noTenant, "say which tenant") }
            server.logger.notice("purging tenant \(name) for uid \(peer?.userID ?? 0)")
            onWorker(.slow) {
                server.pins.endAll(ofTenant: name)
                return server.store.purge(tenant: name)
            } then: { [self] count in
                reply(NumberList.body(UInt64(count)))
            }
        case .flush:
            // Everybody's is the operator's to ask for, and to know.
            let store = server.store
            onWorker(.slow) {
                tenantName.map { isOperator ? store.flush() : store.flush(tenant: $0) } ?? store.flush()
            } then: { [self] result in
                reply(
                    FlushReply(
                        durableBlocks: UInt64(result.durableBlocks),
                        refusedBlocks: UInt64(result.refusedBlocks),
                        reason: result.reason ?? ""
                    ).body
                )
            }
        case .statistics(let everything, let hottest):
            onWorker(.figures) { () -> [UInt8] in
                let all = server.statistics(hottest: everything ? min(hottest, 1000) : 0)
                return JSONBytes.encode(everything ? all : all.part(ofTenant: tenantName ?? ""))
            } then: { [self] json in
                reply(json)
            }
        case .namespaces(let everything):
            onWorker(.figures) { () -> [UInt8] in
                let all = server.store.namespaceStatistics()
                return JSONBytes.encode(everything ? all : all.filter { $0.tenant == tenantName })
            } then: { [self] json in
                reply(json)
            }
        case .health:
            onWorker(.figures) {
                server.health(withReasons: isOperator)
            } then: { [self] report in
                reply(JSONBytes.encode(report))
            }
        case .drain:
            server.logger.notice("asked to drain by uid \(peer?.userID ?? 0)")
            reply([])
            server.requestShutdown()
        default: preconditionFailure("not administration")
        }
    }
}
