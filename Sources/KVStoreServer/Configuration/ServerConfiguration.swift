package import KVStore
internal import Logging

/// Everything that can be set about the daemon. Sizes are bytes, times milliseconds.
///
/// Names, defaults in words, help and where values may come from are in ``Setting/all``; this is what the rest of the
/// server reads.
package struct ServerConfiguration: Sendable, Hashable {
    /// The Unix socket clients connect to.
    package var socketPath = "/run/kvstore/kvstore.sock"
    /// Permission bits of the socket.
    package var socketMode = 0o660
    /// Group that owns the socket; nil leaves the daemon's own.
    package var socketGroup: String?
    /// Where the tenants' salts are kept, and the disk tier unless `diskPath` says otherwise.
    package var stateDirectory = "/var/lib/kvstore"
    /// Hard cap of the memory tier, staging included.
    package var memoryCapacityBytes = 1 << 30
    /// Memory to take before it is needed; of it at most an eighth of what the store gets.
    package var memoryAheadBytes = 256 << 20
    /// Directory of the disk tier; nil is `disk` in the state directory.
    package var diskPath: String?
    /// Hard cap of the disk tier; 0 for none.
    package var diskCapacityBytes = 0
    /// How old a block gets before it is written to disk.
    package var writeBackDelayMilliseconds = 5000
    /// Whether memory is filled from disk after a start.
    package var warmsUp = true
    /// How blocks are coded on disk.
    package var codec = CodecChoice.automatic
    /// Compare digests on every memory hit.
    package var verifyMemoryHits = false
    /// Memory in which one connection prepares blocks.
    package var stagingPerConnectionBytes = 16 << 20
    /// After this long without a sign of life a connection's leases end.
    package var leaseTTLMilliseconds = 10_000
    /// Connections served at the same time.
    package var maximumConnections = 1024
    /// How long a stop waits for leases to end.
    package var drainTimeoutMilliseconds = 10_000
    /// Where metrics are served; nil for nowhere.
    package var metricsListen: MetricsAddress?
    /// The least level that is logged.
    package var logLevel = Logger.Level.info.rawValue
    /// Members of this group are operators, beside root and the daemon's own user.
    package var operatorGroup: String?
    /// Whether peers without a tenant of their own share one called `public`.
    package var hasPublicTenant = false
    /// Who may use the cache. Empty: one tenant for the daemon's own user.
    package var tenants: [TenantConfiguration] = []

    /// Every default.
    package init() {}

    /// Where the disk tier lives, if there is one.
    package var effectiveDiskPath: String? {
        diskCapacityBytes == 0 ? nil : diskPath ?? stateDirectory + "/disk"
    }

    /// Staging of all connections together never takes more: an eighth of the memory cap.
    package var stagingCapacityBytes: Int { memoryCapacityBytes / 8 }
    /// The same for requests and replies that carry blocks or long lists of keys.
    package var frameCapacityBytes: Int { memoryCapacityBytes / 256 * 5 }
    /// For the keys of prefetches, which nobody waits for, so that they do not keep others waiting.
    package var wishCapacityBytes: Int { memoryCapacityBytes / 256 }
    /// And for what is noted of leases.
    package var leaseNoteCapacityBytes: Int { memoryCapacityBytes / 128 }

    /// What the engine is opened with: all of this is kept aside, so that everything together stays within the cap.
    package func storeConfiguration(onEvent: (@Sendable (StoreEvent) -> Void)? = nil) -> Configuration {
        let aside = stagingCapacityBytes + frameCapacityBytes + wishCapacityBytes + leaseNoteCapacityBytes
        var configuration = Configuration(memoryCapacityBytes: memoryCapacityBytes - aside)
        configuration.verifyMemoryHits = verifyMemoryHits
        configuration.memoryAheadBytes = min(memoryAheadBytes, configuration.memoryCapacityBytes / 8)
        configuration.onEvent = onEvent
        if !warmsUp { configuration.warmUpFraction = 0 }
        if let path = effectiveDiskPath {
            var disk = DiskConfiguration(path: path, capacityBytes: diskCapacityBytes)
            disk.writeBackDelaySeconds = Double(writeBackDelayMilliseconds) / 1000
            disk.codec = codec
            configuration.disk = disk
        }
        return configuration
    }

    /// What holds between settings rather than within one; each problem is a sentence that names the settings.
    package var problems: [String] {
        var problems: [String] = []
        if memoryCapacityBytes < 32 << 20 {
            problems.append("memory is \(ByteText.exact(memoryCapacityBytes)); write at least 32MiB")
        }
        if diskCapacityBytes != 0, diskCapacityBytes < 32 << 20 {
            problems.append(
                "diskCapacity is \(ByteText.exact(diskCapacityBytes)); write 0 for no disk tier, or at least 32MiB")
        }
        if let diskPath, diskCapacityBytes == 0 {
            problems.append(
                "diskPath is \(diskPath) but diskCapacity is 0; say how much the disk tier may take, for example 64GiB")
        }
        if !(50...86_400_000).contains(writeBackDelayMilliseconds) {
            problems.append("writeBackDelay is \(DurationText.exact(writeBackDelayMilliseconds)); write 50ms to 24h")
        }
        if !(100...3_600_000).contains(leaseTTLMilliseconds) {
            problems.append("leaseTTL is \(DurationText.exact(leaseTTLMilliseconds)); write 100ms to 1h")
        }
        if drainTimeoutMilliseconds > 600_000 {
            problems.append("drainTimeout is \(DurationText.exact(drainTimeoutMilliseconds)); write at most 10m")
        }
        if !(1...100_000).contains(maximumConnections) {
            problems.append("maximumConnections is \(maximumConnections); write 1 to 100000")
        }
        if stagingPerConnectionBytes < 4096 {
            problems.append("stagingPerConnection is \(stagingPerConnectionBytes); write at least 4KiB")
        }
        return problems + tenantProblems
    }

    private var tenantProblems: [String] {
        var problems: [String] = []
        var names: Set<String> = []
        var owners: [UInt32: String] = [:]
        for tenant in tenants {
            if !names.insert(tenant.name).inserted { problems.append("two tenants are called '\(tenant.name)'") }
            if hasPublicTenant, tenant.name == TenantConfiguration.publicName {
                problems.append("a tenant is called 'public', which is the name of the tenant that publicTenant makes")
            }
            for uid in tenant.userIDs {
                if let other = owners.updateValue(tenant.name, forKey: uid) {
                    problems.append(
                        "uid \(uid) is given to the tenants '\(other)' and '\(tenant.name)'; give it to one")
                }
            }
        }
        for (what, cap, quotas) in [
            ("memoryQuota", storeConfiguration().memoryCapacityBytes, tenants.compactMap(\.memoryQuotaBytes)),
            ("diskQuota", diskCapacityBytes, tenants.compactMap(\.diskQuotaBytes)),
        ] {
            // Quotas are below 2^62 each and few; a sum that overflows is above any cap.
            let sum = quotas.reduce(0) { sum, quota in
                let (total, overflow) = sum.addingReportingOverflow(quota)
                return overflow ? Int.max : total
            }
            if sum > cap {
                problems.append(
                    "the tenants' \(what) add up to \(ByteText.exact(sum)), more than the \(ByteText.exact(cap)) there is "
                        + (what == "memoryQuota" ? "(memory less what clients prepare and send)" : "(diskCapacity)")
                )
            }
        }
        return problems
    }
}

/// One tenant: who it is and how much it may hold.
package struct TenantConfiguration: Sendable, Hashable {
    /// The tenant of everybody without one, when configured.
    package static let publicName = "public"

    /// Letters, digits, `.`, `_`, `-`; names its salt file and its rows in statistics.
    package var name: String
    /// Peers with these user ids are this tenant.
    package var userIDs: [UInt32] = []
    /// Peers that send the content of this file are this tenant.
    package var tokenFile: String?
    /// Bytes of memory it may hold; nil shares what others leave.
    package var memoryQuotaBytes: Int?
    /// Bytes of disk it may hold; nil shares what others leave.
    package var diskQuotaBytes: Int?

    package init(
        name: String,
        userIDs: [UInt32] = [],
        tokenFile: String? = nil,
        memoryQuotaBytes: Int? = nil,
        diskQuotaBytes: Int? = nil
    ) {
        self.name = name
        self.userIDs = userIDs
        self.tokenFile = tokenFile
        self.memoryQuotaBytes = memoryQuotaBytes
        self.diskQuotaBytes = diskQuotaBytes
    }

    /// Checks a name: it becomes part of a file's name and of log lines.
    package static func checkName(_ name: String) throws(SettingProblem) {
        let allowed = name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
            case UInt8(ascii: "0")...UInt8(ascii: "9"): true
            case UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"): true
            default: false
            }
        }
        guard allowed, (1...64).contains(name.utf8.count), !name.hasPrefix(".") else {
            throw SettingProblem("'\(name)' is not a tenant's name; write 1 to 64 letters, digits, '.', '_' or '-'")
        }
    }
}

/// Where metrics are served. Never an address that another machine can reach: they are not authenticated.
package enum MetricsAddress: Sendable, Hashable, CustomStringConvertible {
    /// TCP on 127.0.0.1 or ::1.
    case loopback(host: String, port: Int)
    /// A Unix socket.
    case unix(path: String)

    /// Reads `127.0.0.1:9464`, `[::1]:9464`, or the path of a socket.
    package init(parsing text: String) throws(SettingProblem) {
        if text.hasPrefix("/") {
            self = .unix(path: text)
            return
        }
        let wrong = SettingProblem(
            "'\(text)' is not a place for metrics; write 127.0.0.1:9464, [::1]:9464, the path of a Unix socket, or off"
        )
        guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]),
            (0...65_535).contains(port)
        else { throw wrong }
        let host = text[..<colon].filter { $0 != "[" && $0 != "]" }
        guard host == "127.0.0.1" || host == "::1" else {
            throw SettingProblem(
                "metrics on '\(host)' could be read from elsewhere; write 127.0.0.1:\(port), [::1]:\(port) or the path of a Unix socket"
            )
        }
        self = .loopback(host: host, port: port)
    }

    /// As it is written.
    package var description: String {
        switch self {
        case .loopback(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        case .unix(let path): path
        }
    }
}
