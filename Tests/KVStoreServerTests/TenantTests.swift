import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStoreServer

private func entry(_ name: String, uids: Set<UInt32> = [], token: String? = nil) -> TenantTable.Entry {
    TenantTable.Entry(name: name, userIDs: uids, token: token.map { Secret(Array($0.utf8)) }, salt: Secret([1, 2, 3]))
}

private func peer(_ uid: UInt32, gid: UInt32 = 100, groups: [UInt32] = []) -> PeerCredentials {
    PeerCredentials(processID: 1, userID: uid, groupID: gid, groupIDs: groups)
}

/// Who the peer is: tenant's name, or what was refused; with a star for operators.
private func verdict(_ table: TenantTable, _ peer: PeerCredentials, _ token: String?) -> String {
    do {
        let admission = try table.admit(peer, token: token.map { Array($0.utf8) })
        return (admission.tenant?.name ?? "none") + (admission.isOperator ? "*" : "")
    } catch {
        return error == .unknownToken ? "wrong token" : "no tenant"
    }
}

private let rightToken = String(repeating: "s", count: 40)

private let admissions: [(UInt32, [UInt32], String?, String, String)] = [
    // uid, its groups, token, what it is without and with a public tenant
    (1001, [], nil, "research", "research"),
    (1002, [], nil, "research", "research"),
    (1003, [], nil, "no tenant", "public"),
    (1003, [50], nil, "none*", "public*"),
    (1001, [50], nil, "research*", "research*"),
    (1003, [], rightToken, "serving", "serving"),
    (1001, [], rightToken, "serving", "serving"),
    (1003, [50], rightToken, "serving*", "serving*"),
    (1001, [], "wrong", "wrong token", "wrong token"),
    (0, [], "wrong", "wrong token", "wrong token"),
    (1001, [], "", "research", "research"),
    (0, [], nil, "none*", "public*"),
    (77, [], nil, "none*", "public*"),
    (1003, [], rightToken + "s", "wrong token", "wrong token"),
    (1003, [], String(rightToken.dropLast()), "wrong token", "wrong token"),
    (1003, [], rightToken + rightToken, "wrong token", "wrong token"),
]

@Suite struct TenantTests {
    @Test(arguments: admissions)
    func `uid and token and group decide who a peer is`(
        uid: UInt32,
        groups: [UInt32],
        token: String?,
        closed: String,
        open: String
    ) {
        var table = TenantTable(
            entries: [entry("research", uids: [1001, 1002]), entry("serving", token: rightToken)],
            operatorUserIDs: [0, 77],
            operatorGroupID: 50
        )
        #expect(verdict(table, peer(uid, groups: groups), token) == closed)
        table.publicEntry = entry("public")
        #expect(verdict(table, peer(uid, groups: groups), token) == open)
    }

    @Test func `the primary group makes an operator too`() {
        let table = TenantTable(entries: [], operatorUserIDs: [], operatorGroupID: 50)
        #expect(verdict(table, peer(5, gid: 50), nil) == "none*")
        #expect(verdict(table, peer(5, gid: 51), nil) == "no tenant")
    }

    @Test func `an empty secret equals nothing and secrets are not printed`() {
        #expect(!Secret([]).isEqual(to: []))
        let secret = Secret(Array("canary".utf8))
        var dumped = ""
        dump(secret, to: &dumped)
        #expect(!"\(secret) \(String(reflecting: secret)) \(dumped) \(entry("a", token: "canary"))".contains("canary"))
        #expect(!dumped.contains("99"))
    }

    @Test func `a salt is made once and kept and nobody else can read it`() throws {
        let directory = TemporaryDirectory()
        let state = directory.path + "/state"
        let first = try SaltStore(stateDirectory: state).salt(ofTenant: "a")
        let again = try SaltStore(stateDirectory: state).salt(ofTenant: "a")
        let other = try SaltStore(stateDirectory: state).salt(ofTenant: "b")
        #expect(first.bytes.count == 32 && first.bytes == again.bytes && first.bytes != other.bytes)
        let names = try FileManager.default.contentsOfDirectory(atPath: state + "/salts").sorted()
        #expect(names == ["a", "b"])
        #expect(try permissions(state) == 0o700)
        #expect(try permissions(state + "/salts") == 0o700)
        #expect(try permissions(state + "/salts/a") == 0o600)
    }

    @Test func `many that make the same salt at once all get the same one`() async throws {
        let directory = TemporaryDirectory()
        let store = try SaltStore(stateDirectory: directory.path + "/state")
        let salts = await withTaskGroup(of: [UInt8]?.self) { group in
            for _ in 0..<16 { group.addTask { try? store.salt(ofTenant: "a").bytes } }
            return await group.reduce(into: [[UInt8]?]()) { $0.append($1) }
        }
        #expect(salts.count == 16 && Set(salts).count == 1 && salts[0] != nil)
    }

    @Test func `a salt that was opened to others or cut short is refused and not made anew`() throws {
        let directory = TemporaryDirectory()
        let store = try SaltStore(stateDirectory: directory.path + "/state")
        let path = directory.path + "/state/salts/a"
        _ = try store.salt(ofTenant: "a")
        try setPermissions(0o644, path)
        #expect(message { try store.salt(ofTenant: "a") }.contains("others may have read"))
        try setPermissions(0o600, path)
        try Data([1, 2, 3]).write(to: URL(fileURLWithPath: path))
        #expect(message { try store.salt(ofTenant: "a") }.contains("holds 3 bytes instead of 32"))
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == Data([1, 2, 3]))
        try FileManager.default.removeItem(atPath: path)
        try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: "/dev/zero")
        #expect(message { try store.salt(ofTenant: "a") }.contains("symbolic link"))
    }

    @Test func `a state directory that others can change is refused`() throws {
        let directory = TemporaryDirectory()
        let state = directory.path + "/state"
        _ = try SaltStore(stateDirectory: state)
        try setPermissions(0o755, state + "/salts")
        #expect(message { try SaltStore(stateDirectory: state) }.contains("chmod 0700"))
        try setPermissions(0o770, state)
        #expect(message { try SaltStore(stateDirectory: state) }.contains("chmod 0750"))
    }

    @Test func `token files must be private and long enough`() throws {
        let directory = TemporaryDirectory()
        let path = directory.path + "/token"
        try (rightToken + "\n").write(toFile: path, atomically: true, encoding: .utf8)
        try setPermissions(0o600, path)
        #expect(try TokenFile.read(path).isEqual(to: Array(rightToken.utf8)))
        try setPermissions(0o640, path)
        #expect(try TokenFile.read(path).isEqual(to: Array(rightToken.utf8)))
        for mode in [0o644, 0o660, 0o604] {
            try setPermissions(mode, path)
            #expect(message { try TokenFile.read(path) }.contains("chmod 0600"))
        }
        try setPermissions(0o600, path)
        try "short".write(toFile: path, atomically: false, encoding: .utf8)
        #expect(message { try TokenFile.read(path) }.contains("holds 5 bytes"))
        let link = directory.path + "/link"
        try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: path)
        #expect(message { try TokenFile.read(link) }.contains("symbolic link"))
        #expect(message { try TokenFile.read(directory.path + "/none") }.contains("cannot open"))
        #expect(message { try TokenFile.read(directory.path) }.contains("is not a file"))
    }

    @Test func `two tenants with one token are refused and no tenants means one for this user`() throws {
        let directory = TemporaryDirectory()
        let token = directory.path + "/token"
        try rightToken.write(toFile: token, atomically: true, encoding: .utf8)
        try setPermissions(0o600, token)
        var configuration = ServerConfiguration()
        configuration.stateDirectory = directory.path + "/state"
        let alone = try TenantTable(configuration)
        #expect(verdict(alone, peer(geteuid()), nil) == "default*")
        configuration.tenants = [
            TenantConfiguration(name: "a", tokenFile: token), TenantConfiguration(name: "b", tokenFile: token),
        ]
        #expect(message { try TenantTable(configuration) }.contains("the tenants 'a' and 'b' have the same token"))
        configuration.tenants = []
        configuration.operatorGroup = "no-such-group-here"
        #expect(message { try TenantTable(configuration) }.contains("no group 'no-such-group-here'"))
    }
}

func permissions(_ path: String) throws -> Int {
    try #require(try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int)
}

func setPermissions(_ mode: Int, _ path: String) throws {
    try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: path)
}

/// What a call that must fail says.
func message<Result>(_ body: () throws -> Result) -> String {
    do {
        _ = try body()
        return "nothing was thrown"
    } catch {
        return "\(error)"
    }
}
