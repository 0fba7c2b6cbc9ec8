internal import KVStoreIPC

/// Where a value came from; said in every message about it.
package enum ValueOrigin: Sendable, Hashable, CustomStringConvertible {
    /// Nobody set it.
    case builtIn
    /// A line of the YAML file.
    case file(path: String, line: Int)
    /// An environment variable.
    case environment(name: String)
    /// The command line.
    case flag(name: String)

    /// For messages.
    package var description: String {
        switch self {
        case .builtIn: "default"
        case .file(let path, let line): "\(path):\(line)"
        case .environment(let name): "environment variable \(name)"
        case .flag(let name): "flag \(name)"
        }
    }
}

/// The configuration cannot be used; one line for each thing that is wrong, and where.
package struct ConfigurationError: Error, Hashable, CustomStringConvertible {
    /// What is wrong.
    package var problems: [String]
    package init(_ problems: [String]) { self.problems = problems }
    /// All of it.
    package var description: String { problems.joined(separator: "\n") }
}

/// A checked configuration, and where each value in it came from.
package struct LoadedConfiguration: Sendable {
    /// The values.
    package var configuration = ServerConfiguration()
    /// By the key of the setting; what is missing is the default.
    package var origins: [String: ValueOrigin] = [:]
    /// What is probably a mistake but stops nothing.
    package var warnings: [String] = []

    /// Reads the configuration: flags win over environment variables, those over the file, that over the defaults.
    ///
    /// - Parameters:
    ///   - flags: texts by the key of their setting.
    ///   - environment: all of the process's variables.
    ///   - filePath: the YAML file; else `KVSTORE_CONFIG` names one, else there is none.
    package init(
        flags: [String: String] = [:],
        environment: [String: String] = [:],
        filePath: String? = nil
    ) throws(ConfigurationError) {
        var problems: [String] = []
        if let path = filePath ?? environment[Self.fileVariable], !path.isEmpty {
            let file = ConfigurationFile(path: path)
            problems += file.problems
            for value in file.values { set(value.key, value.text, .file(path: path, line: value.line), &problems) }
            configuration.tenants = file.tenants
            if let line = file.tenantsLine { origins["tenants"] = .file(path: path, line: line) }
        }
        for setting in Setting.all {
            if let text = environment[setting.environmentName] {
                set(setting.key, text, .environment(name: setting.environmentName), &problems)
            }
        }
        for (key, text) in flags.sorted(by: { $0.key < $1.key }) {
            guard let setting = Setting.named(key) else { preconditionFailure("there is no setting '\(key)'") }
            set(key, text, .flag(name: setting.flag), &problems)
        }
        chooseUserPlaces(environment)
        if problems.isEmpty { problems = configuration.problems.map(withOrigins) }
        guard problems.isEmpty else { throw ConfigurationError(problems) }
        warnings = Self.warnings(about: environment)
    }

    /// In a user's session the defaults are places that the user may write, as clients expect them.
    private mutating func chooseUserPlaces(_ environment: [String: String]) {
        guard let runtime = environment["XDG_RUNTIME_DIR"], !runtime.isEmpty else { return }
        if origins["socket"] == nil {
            configuration.socketPath = DaemonSocket.standardPath { $0 == "KVSTORE_SOCKET" ? nil : environment[$0] }
        }
        if origins["stateDirectory"] == nil, let home = environment["HOME"], home.hasPrefix("/") {
            configuration.stateDirectory = (environment["XDG_STATE_HOME"] ?? home + "/.local/state") + "/kvstore"
        }
    }

    /// The variable that names the file.
    package static let fileVariable = "KVSTORE_CONFIG"

    private mutating func set(_ key: String, _ text: String, _ origin: ValueOrigin, _ problems: inout [String]) {
        guard let setting = Setting.named(key) else { preconditionFailure("there is no setting '\(key)'") }
        do throws(SettingProblem) {
            try setting.assign(&configuration, text)
            origins[key] = origin
        } catch {
            problems.append("\(origin): \(key): \(error)")
        }
    }

    /// Adds where the settings that a sentence names were set.
    private func withOrigins(_ problem: String) -> String {
        let words = Set(problem.split { !$0.isLetter }.map(String.init))
        let places = (Setting.all.map(\.key) + ["tenants"]).compactMap { key -> String? in
            guard words.contains(key), let origin = origins[key] else { return nil }
            return "\(key): \(origin)"
        }
        return places.isEmpty ? problem : "\(problem) (\(places.joined(separator: "; ")))"
    }

    /// A misspelt variable would otherwise be silently without effect. Only those that look like one of ours: other
    /// programs of the project read variables with the same beginning.
    private static func warnings(about environment: [String: String]) -> [String] {
        let known = Set(Setting.all.map(\.environmentName) + [fileVariable])
        return environment.keys.sorted().compactMap { name in
            guard name.hasPrefix("KVSTORE_"), !known.contains(name),
                let nearest = nearestWord(to: name, in: known.sorted())
            else { return nil }
            return "environment variable \(name) is not a setting; did you mean \(nearest)?"
        }
    }

    /// The whole configuration as a YAML file that reads back as the same, each value with where it came from.
    package var yamlText: String {
        var text = ""
        let width = Setting.all.map { $0.key.count + 2 + $0.text(configuration).count }.max() ?? 0
        for setting in Setting.all {
            let line = "\(setting.key): \(setting.text(configuration))"
            let padding = String(repeating: " ", count: max(0, width - line.count))
            text += "\(line)\(padding)  # \(origins[setting.key] ?? .builtIn)\n"
        }
        guard !configuration.tenants.isEmpty else {
            return text + "tenants: []  # one tenant for the daemon's own user\n"
        }
        text += "tenants:\n"
        for tenant in configuration.tenants {
            text += "  - name: \(tenant.name)\n"
            if !tenant.userIDs.isEmpty {
                text += "    uids: [\(tenant.userIDs.map(String.init).joined(separator: ", "))]\n"
            }
            if let file = tenant.tokenFile { text += "    tokenFile: \(file)\n" }
            if let quota = tenant.memoryQuotaBytes { text += "    memoryQuota: \(ByteText.exact(quota))\n" }
            if let quota = tenant.diskQuotaBytes { text += "    diskQuota: \(ByteText.exact(quota))\n" }
        }
        return text
    }

    /// What changed between two configurations, and whether a running daemon can take it over.
    package static func changes(from old: ServerConfiguration, to new: ServerConfiguration) -> ConfigurationChanges {
        var changes = ConfigurationChanges()
        for setting in Setting.all where setting.text(old) != setting.text(new) {
            if setting.canReload {
                changes.applied.append(setting.key)
            } else {
                changes.needRestart.append(setting.key)
            }
        }
        if old.tenants != new.tenants { changes.applied.append("tenants") }
        return changes
    }

    /// `old` with everything from `new` that can change while the daemon runs.
    package static func merged(_ old: ServerConfiguration, with new: ServerConfiguration) -> ServerConfiguration {
        var merged = old
        for setting in Setting.all where setting.canReload {
            // What was read once as valid text is valid text.
            try? setting.assign(&merged, setting.text(new))
        }
        merged.tenants = new.tenants
        return merged
    }
}

/// Keys of settings that differ between two configurations.
package struct ConfigurationChanges: Sendable, Hashable {
    /// A running daemon takes these over.
    package var applied: [String] = []
    /// These wait for the next start.
    package var needRestart: [String] = []
}

/// The word with the fewest edits from `word`, if there are at most two.
func nearestWord(to word: String, in words: [String]) -> String? {
    let distances = words.map { (word: $0, distance: editDistance(Array(word.lowercased()), Array($0.lowercased()))) }
    guard let nearest = distances.min(by: { $0.distance < $1.distance }), nearest.distance <= 2 else { return nil }
    return nearest.word
}

/// Levenshtein's distance.
private func editDistance(_ left: [Character], _ right: [Character]) -> Int {
    var row = Array(0...right.count)
    for (index, character) in left.enumerated() {
        var diagonal = row[0]
        row[0] = index + 1
        for column in right.indices {
            let substituted = diagonal + (character == right[column] ? 0 : 1)
            diagonal = row[column + 1]
            row[column + 1] = min(substituted, row[column] + 1, diagonal + 1)
        }
    }
    return row[right.count]
}
