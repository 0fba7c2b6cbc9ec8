// The YAML file. Read with Yams directly and not through a layer that unites configuration sources: tenants are a list of
// objects, which such layers do not have, and messages here name the line.
internal import Yams

/// What the YAML file says: scalars as text with their lines, and tenants. Never throws: everything that is wrong is
/// collected, so that one look at the messages is enough.
///
/// ```yaml
/// memory: 4GiB
/// diskCapacity: 64GiB
/// tenants:
///   - name: research
///     uids: [1001, alice]
///     memoryQuota: 1GiB
///   - name: serving
///     tokenFile: /etc/kvstore/serving.token
/// ```
struct ConfigurationFile {
    struct Value {
        var key: String
        var text: String
        var line: Int
    }

    let path: String
    private(set) var values: [Value] = []
    private(set) var tenants: [TenantConfiguration] = []
    private(set) var tenantsLine: Int?
    private(set) var problems: [String] = []

    private static let byteLimit = 1 << 20

    init(path: String) {
        self.path = path
        do {
            let text = try HostFile.readText(path, byteLimit: Self.byteLimit)
            guard let root = try compose(yaml: text) else { return }  // An empty file sets nothing.
            guard let mapping = root.mapping else {
                problems.append("\(path):\(root.mark?.line ?? 1): the file must be a list of 'key: value' lines")
                return
            }
            for (key, value) in mapping { read(key, value) }
        } catch let error as HostFileError {
            problems.append("cannot read the configuration: \(error)")
        } catch let error as YamlError {
            problems.append("\(path)\(Self.place(of: error))")
        } catch {
            problems.append("\(path): \(error)")
        }
    }

    private static func place(of error: YamlError) -> String {
        switch error {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            ":\(mark.line): \(problem)"
        case .duplicatedKeysInMapping(let duplicates, let context):
            ":\(context.mark.line): the key \(duplicates.map { "'\($0)'" }.joined(separator: ", ")) is there twice"
        default: ": not YAML"
        }
    }

    private mutating func read(_ key: Node, _ value: Node) {
        let line = key.mark?.line ?? 1
        guard let name = key.scalar?.string else {
            problems.append("\(path):\(line): a key must be a word")
            return
        }
        if name == "tenants" {
            tenantsLine = line
            readTenants(value, line: line)
            return
        }
        guard Setting.named(name) != nil else {
            let nearest = nearestWord(to: name, in: Setting.all.map(\.key) + ["tenants"])
            problems.append(
                "\(path):\(line): there is no setting '\(name)'" + (nearest.map { "; did you mean '\($0)'?" } ?? ""))
            return
        }
        guard let text = value.scalar?.string else {
            problems.append("\(path):\(line): \(name) takes one value")
            return
        }
        // A key without a value ("diskPath:") is YAML's null: as if it were not there.
        if text.isEmpty || text == "~" || text == "null" { return }
        values.append(Value(key: name, text: text, line: line))
    }

    private mutating func readTenants(_ node: Node, line: Int) {
        if let scalar = node.scalar, scalar.string.isEmpty { return }
        guard let list = node.sequence else {
            problems.append("\(path):\(line): tenants is a list; start each with '- name: NAME'")
            return
        }
        for item in list { readTenant(item) }
    }

    private mutating func readTenant(_ node: Node) {
        let line = node.mark?.line ?? 1
        guard let fields = node.mapping else {
            problems.append("\(path):\(line): a tenant is an object; write '- name: NAME' and its fields below")
            return
        }
        var tenant = TenantConfiguration(name: "")
        for (key, value) in fields {
            let line = key.mark?.line ?? line
            do throws(SettingProblem) {
                try Self.readField(key.scalar?.string ?? "", value, into: &tenant)
            } catch {
                problems.append("\(path):\(line): tenants: \(error)")
            }
        }
        if tenant.name.isEmpty {
            if fields["name"] == nil { problems.append("\(path):\(line): a tenant needs a name") }
            return
        }
        if tenant.userIDs.isEmpty, tenant.tokenFile == nil {
            problems.append("\(path):\(line): nobody can be the tenant '\(tenant.name)'; give it uids or a tokenFile")
        }
        tenants.append(tenant)
    }

    private static func readField(
        _ key: String,
        _ value: Node,
        into tenant: inout TenantConfiguration
    ) throws(SettingProblem) {
        switch key {
        case "name":
            let name = value.scalar?.string ?? ""
            try TenantConfiguration.checkName(name)
            tenant.name = name
        case "uids":
            guard let list = value.sequence else {
                throw SettingProblem("uids is a list; write for example [1001, alice]")
            }
            for item in list { tenant.userIDs.append(try userID(item.scalar?.string ?? "")) }
        case "tokenFile":
            guard let path = value.scalar?.string, path.hasPrefix("/") else {
                throw SettingProblem("tokenFile takes an absolute path")
            }
            tenant.tokenFile = path
        case "memoryQuota": tenant.memoryQuotaBytes = try ByteText.parse(value.scalar?.string ?? "")
        case "diskQuota": tenant.diskQuotaBytes = try ByteText.parse(value.scalar?.string ?? "")
        default:
            let fields = ["name", "uids", "tokenFile", "memoryQuota", "diskQuota"]
            let nearest = nearestWord(to: key, in: fields)
            throw SettingProblem(
                "there is no field '\(key)'; "
                    + (nearest.map { "did you mean '\($0)'?" } ?? "write \(fields.joined(separator: ", "))")
            )
        }
    }

    private static func userID(_ text: String) throws(SettingProblem) -> UInt32 {
        if let number = UInt32(text), number != .max { return number }
        guard let number = UserDatabase.userID(named: text) else {
            throw SettingProblem("there is no user '\(text)'; write a user's name or number")
        }
        return number
    }
}
