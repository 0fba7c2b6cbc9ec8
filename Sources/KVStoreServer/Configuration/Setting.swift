internal import KVStore
internal import Logging

/// One thing that can be set: the table below is the only place that knows its names, its default and what it means.
///
/// Flag and variable follow from the key: `diskCapacity` is `--disk-capacity` and `KVSTORE_DISK_CAPACITY`.
package struct Setting: Sendable {
    /// Its name in the YAML file and in messages.
    package let key: String
    /// What stands for the value in help.
    package let valueName: String
    /// One sentence or two.
    package let help: String
    /// Whether SIGHUP changes it in a running daemon.
    package let canReload: Bool
    /// Puts a value given as text in its place.
    package let assign: @Sendable (inout ServerConfiguration, String) throws(SettingProblem) -> Void
    /// The value as text that `assign` reads back.
    package let text: @Sendable (ServerConfiguration) -> String

    /// `--disk-capacity`.
    package var flag: String { "--" + words.joined(separator: "-") }
    /// `KVSTORE_DISK_CAPACITY`.
    package var environmentName: String { "KVSTORE_" + words.joined(separator: "_").uppercased() }
    /// What holds when nobody says anything.
    package var defaultText: String { text(ServerConfiguration()) }

    private var words: [String] {
        var words = [""]
        // A run of capitals is one word: leaseTTL is lease-ttl.
        var wasUpper = false
        for character in key {
            if character.isUppercase, !wasUpper { words.append("") }
            wasUpper = character.isUppercase
            words[words.count - 1] += character.lowercased()
        }
        return words
    }

    /// Finds a setting by its key.
    package static func named(_ key: String) -> Setting? { all.first { $0.key == key } }

    /// Every setting that is one value. `tenants`, a list of objects, is in the YAML file only (`ConfigurationFile`).
    package static let all: [Setting] = sockets + tiers + connections + operations

    private static let sockets = [
        Setting(
            key: "socket", valueName: "PATH", help: "Unix socket that clients connect to.", canReload: false,
            assign: set(\.socketPath, absolutePath),
            text: { $0.socketPath }
        ),
        Setting(
            key: "socketMode", valueName: "OCTAL", help: "Permission bits of the socket; never for everybody.",
            canReload: false,
            assign: set(\.socketMode, mode),
            text: { "0" + String($0.socketMode, radix: 8) }
        ),
        Setting(
            key: "socketGroup", valueName: "GROUP", help: "Group that owns the socket: its members may connect.",
            canReload: false,
            assign: set(\.socketGroup, optional),
            text: { $0.socketGroup ?? "none" }
        ),
        Setting(
            key: "stateDirectory", valueName: "PATH",
            help: "Directory of the tenants' salts (0700) and, unless diskPath is set, of the disk tier.",
            canReload: false,
            assign: set(\.stateDirectory, absolutePath),
            text: { $0.stateDirectory }
        ),
    ]

    private static let tiers = [
        Setting(
            key: "memory", valueName: "SIZE",
            help: "Hard cap of the memory tier; an eighth is for blocks in preparation, a 32nd for large requests.",
            canReload: false,
            assign: set(\.memoryCapacityBytes, ByteText.parse),
            text: { ByteText.exact($0.memoryCapacityBytes) }
        ),
        Setting(
            key: "memoryAhead", valueName: "SIZE",
            help: "Memory to take and clear before it is needed, at most an eighth of all; 0 for none.",
            canReload: false,
            assign: set(\.memoryAheadBytes, ByteText.parse),
            text: { ByteText.exact($0.memoryAheadBytes) }
        ),
        Setting(
            key: "diskPath", valueName: "PATH",
            help: "Directory of the disk tier; none means 'disk' in the state directory.", canReload: false,
            assign: set(\.diskPath, optionalPath),
            text: { $0.diskPath ?? "none" }
        ),
        Setting(
            key: "diskCapacity", valueName: "SIZE", help: "Hard cap of the disk tier; 0 for no disk tier.",
            canReload: false,
            assign: set(\.diskCapacityBytes, ByteText.parse),
            text: { ByteText.exact($0.diskCapacityBytes) }
        ),
        Setting(
            key: "writeBackDelay", valueName: "TIME",
            help: "Blocks are written to disk when they are about this old, so that a crash finds them.",
            canReload: false,
            assign: set(\.writeBackDelayMilliseconds, DurationText.parseMilliseconds),
            text: { DurationText.exact($0.writeBackDelayMilliseconds) }
        ),
        Setting(
            key: "warmUp", valueName: "BOOL",
            help: "After a start, read what was used most from disk into up to half of the memory.",
            canReload: false,
            assign: set(\.warmsUp, boolean),
            text: { "\($0.warmsUp)" }
        ),
        Setting(
            key: "codec", valueName: "NAME",
            help: "How blocks are coded on disk: \(CodecChoice.allCases.map(\.rawValue).joined(separator: ", ")).",
            canReload: false,
            assign: set(\.codec, codec),
            text: { $0.codec.rawValue }
        ),
        Setting(
            key: "verifyMemoryHits", valueName: "BOOL",
            help: "Compare the digest of every block that a memory hit returns; costs a pass over its bytes.",
            canReload: false,
            assign: set(\.verifyMemoryHits, boolean),
            text: { "\($0.verifyMemoryHits)" }
        ),
    ]

    private static let connections = [
        Setting(
            key: "stagingPerConnection", valueName: "SIZE",
            help: "Memory in which one connection prepares blocks; raised to one block where blocks are larger.",
            canReload: false,
            assign: set(\.stagingPerConnectionBytes, ByteText.parse),
            text: { ByteText.exact($0.stagingPerConnectionBytes) }
        ),
        Setting(
            key: "leaseTTL", valueName: "TIME",
            help: "The leases of a connection end after this long without a sign of life.", canReload: true,
            assign: set(\.leaseTTLMilliseconds, DurationText.parseMilliseconds),
            text: { DurationText.exact($0.leaseTTLMilliseconds) }
        ),
        Setting(
            key: "maximumConnections", valueName: "COUNT", help: "Connections served at once; more are closed at once.",
            canReload: true,
            assign: set(\.maximumConnections, integer),
            text: { "\($0.maximumConnections)" }
        ),
        Setting(
            key: "publicTenant", valueName: "BOOL",
            help: "Peers without a tenant share one called 'public'; otherwise they are refused.", canReload: true,
            assign: set(\.hasPublicTenant, boolean),
            text: { "\($0.hasPublicTenant)" }
        ),
        Setting(
            key: "operatorGroup", valueName: "GROUP",
            help: "Members of this group are operators, beside root and the daemon's own user.", canReload: true,
            assign: set(\.operatorGroup, optional),
            text: { $0.operatorGroup ?? "none" }
        ),
    ]

    private static let operations = [
        Setting(
            key: "metricsListen", valueName: "ADDRESS",
            help: "Serve /metrics and /health over HTTP on 127.0.0.1:PORT, [::1]:PORT or the path of a Unix socket.",
            canReload: false,
            assign: set(\.metricsListen, metricsAddress),
            text: { $0.metricsListen?.description ?? "off" }
        ),
        Setting(
            key: "drainTimeout", valueName: "TIME", help: "How long a stop waits for clients to end their leases.",
            canReload: true,
            assign: set(\.drainTimeoutMilliseconds, DurationText.parseMilliseconds),
            text: { DurationText.exact($0.drainTimeoutMilliseconds) }
        ),
        Setting(
            key: "logLevel", valueName: "LEVEL",
            help: "Least level that is logged: \(Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")).",
            canReload: true,
            assign: set(\.logLevel, logLevel),
            text: { $0.logLevel }
        ),
    ]
}

// MARK: Reading values

private func set<Value>(
    _ field: any WritableKeyPath<ServerConfiguration, Value> & Sendable,
    _ read: @escaping @Sendable (String) throws(SettingProblem) -> Value
) -> @Sendable (inout ServerConfiguration, String) throws(SettingProblem) -> Void {
    { (configuration: inout ServerConfiguration, text: String) throws(SettingProblem) in
        configuration[keyPath: field] = try read(text)
    }
}

private func absolutePath(_ text: String) throws(SettingProblem) -> String {
    guard text.hasPrefix("/") else {
        throw SettingProblem("'\(text)' is not an absolute path; write one that starts with '/'")
    }
    return text.count > 1 && text.hasSuffix("/") ? String(text.dropLast()) : text
}

private func optional(_ text: String) -> String? { ["", "none", "off"].contains(text) ? nil : text }

private func optionalPath(_ text: String) throws(SettingProblem) -> String? {
    optional(text) == nil ? nil : try absolutePath(text)
}

private func metricsAddress(_ text: String) throws(SettingProblem) -> MetricsAddress? {
    optional(text) == nil ? nil : try MetricsAddress(parsing: text)
}

private func codec(_ text: String) throws(SettingProblem) -> CodecChoice {
    try oneOf(text, CodecChoice.allCases, \.rawValue)
}

private func logLevel(_ text: String) throws(SettingProblem) -> String {
    try oneOf(text, Logger.Level.allCases, \.rawValue).rawValue
}

private func boolean(_ text: String) throws(SettingProblem) -> Bool {
    switch text.lowercased() {
    case "true", "yes", "on", "1": true
    case "false", "no", "off", "0": false
    default: throw SettingProblem("'\(text)' is neither true nor false; write one of them")
    }
}

private func integer(_ text: String) throws(SettingProblem) -> Int {
    guard let number = Int(text) else { throw SettingProblem("'\(text)' is not a whole number") }
    return number
}

private func mode(_ text: String) throws(SettingProblem) -> Int {
    guard let mode = Int(text, radix: 8), (0...0o777).contains(mode) else {
        throw SettingProblem("'\(text)' is not a mode; write octal digits, for example 0660")
    }
    guard mode & 0o007 == 0 else {
        throw SettingProblem("mode \(text) lets every user of the machine in; write 0660, or 0600")
    }
    guard mode & 0o600 == 0o600 else { throw SettingProblem("mode \(text) keeps the owner out; write 0660 or 0600") }
    return mode
}

private func oneOf<Value>(
    _ text: String,
    _ values: [Value],
    _ name: (Value) -> String
) throws(SettingProblem) -> Value {
    guard let value = values.first(where: { name($0) == text }) else {
        throw SettingProblem("there is no '\(text)'; write one of: \(values.map(name).joined(separator: ", "))")
    }
    return value
}
