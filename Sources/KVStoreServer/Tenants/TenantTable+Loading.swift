internal import Glibc

extension TenantTable {
    /// Reads tokens and salts, and looks up the operators' group.
    ///
    /// Without configured tenants there is one, called `default`, for the daemon's own user.
    package init(_ configuration: ServerConfiguration) throws(ConfigurationError) {
        var problems: [String] = []
        var entries: [Entry] = []
        var publicEntry: Entry?
        var groupID: UInt32?
        var tenants = configuration.tenants
        if tenants.isEmpty { tenants = [TenantConfiguration(name: Self.defaultName, userIDs: [geteuid()])] }
        do throws(HostFileError) {
            let salts = try SaltStore(stateDirectory: configuration.stateDirectory)
            for tenant in tenants {
                do throws(HostFileError) {
                    entries.append(try Self.entry(tenant, salts))
                } catch {
                    problems.append("tenant '\(tenant.name)': \(error)")
                }
            }
            if configuration.hasPublicTenant {
                publicEntry = try Self.entry(TenantConfiguration(name: TenantConfiguration.publicName), salts)
            }
        } catch {
            problems.append("stateDirectory: \(error)")
        }
        problems += Self.sameTokens(entries.map { ($0.name, $0.token) })
        if let name = configuration.operatorGroup {
            groupID = UserDatabase.groupID(named: name)
            if groupID == nil { problems.append("operatorGroup: there is no group '\(name)'") }
        }
        guard problems.isEmpty else { throw ConfigurationError(problems) }
        self.init(
            entries: entries,
            publicEntry: publicEntry,
            operatorUserIDs: [0, geteuid()],
            operatorGroupID: groupID
        )
    }

    /// Looks at what a configuration names outside of itself, without making anything: token files and the group.
    package static func check(_ configuration: ServerConfiguration) throws(ConfigurationError) {
        var problems: [String] = []
        var tokens: [(String, Secret?)] = []
        for tenant in configuration.tenants {
            do throws(HostFileError) {
                if let path = tenant.tokenFile { tokens.append((tenant.name, try TokenFile.read(path))) }
            } catch {
                problems.append("tenant '\(tenant.name)': \(error)")
            }
        }
        problems += sameTokens(tokens)
        for (key, group) in [
            ("operatorGroup", configuration.operatorGroup), ("socketGroup", configuration.socketGroup),
        ] {
            if let group, UserDatabase.groupID(named: group) == nil {
                problems.append("\(key): there is no group '\(group)'")
            }
        }
        guard problems.isEmpty else { throw ConfigurationError(problems) }
    }

    /// One sentence for each pair of tenants with the same token: a client could not be told apart by it.
    private static func sameTokens(_ tokens: [(name: String, token: Secret?)]) -> [String] {
        tokens.enumerated().flatMap { index, entry -> [String] in
            guard let token = entry.token else { return [] }
            return tokens[..<index].filter { $0.token?.isEqual(to: token.bytes) == true }
                .map { "the tenants '\($0.name)' and '\(entry.name)' have the same token" }
        }
    }

    /// The tenant there is when none is configured.
    package static let defaultName = "default"

    private static func entry(_ tenant: TenantConfiguration, _ salts: SaltStore) throws(HostFileError) -> Entry {
        var token: Secret?
        if let path = tenant.tokenFile { token = try TokenFile.read(path) }
        return Entry(
            name: tenant.name,
            userIDs: Set(tenant.userIDs),
            token: token,
            salt: try salts.salt(ofTenant: tenant.name)
        )
    }
}
