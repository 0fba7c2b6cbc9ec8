import Foundation
import KVStoreIPC
import KVStoreTestSupport
import Testing

/// The `kvstore` program against a running daemon, as people and scripts use it.
@Suite("The command line")
struct CommandLineTests {
    private struct Outcome {
        var code: Int32
        var text: String
        var errors: String
    }

    /// Runs a command to its end.
    private static func kvstore(_ arguments: [String], environment: [String: String] = [:]) throws -> Outcome {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: DaemonProcess.executable)
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        let files = TemporaryDirectory("o")
        for name in ["out", "err"] {
            _ = FileManager.default.createFile(atPath: "\(files.path)/\(name)", contents: nil)
        }
        process.standardOutput = try FileHandle(forWritingTo: URL(fileURLWithPath: files.path + "/out"))
        process.standardError = try FileHandle(forWritingTo: URL(fileURLWithPath: files.path + "/err"))
        process.standardInput = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        return Outcome(
            code: process.terminationStatus,
            text: try String(contentsOfFile: files.path + "/out", encoding: .utf8),
            errors: try String(contentsOfFile: files.path + "/err", encoding: .utf8)
        )
    }

    @Test func `lets a tenant that has a token do all that its tenant may`() throws {
        let files = TemporaryDirectory("f")
        let token = files.path + "/chat.token"
        try (String(repeating: "t", count: 40) + "\n").write(toFile: token, atomically: true, encoding: .utf8)
        chmod(token, 0o600)
        let daemon = try DaemonProcess(
            ["--memory", "64MiB", "--disk-capacity", "64MiB"],
            configuration: "tenants: [{name: chat, tokenFile: \(token)}]"
        )
        let socket = ["--socket", daemon.socketPath]
        func run(_ words: [String], withToken: Bool = true) throws -> Outcome {
            try Self.kvstore(words + socket + (withToken ? ["--token-file", token] : []))
        }
        // Without the token this user is an operator who belongs to no tenant.
        let stranger = try run(["request", "--system-tokens", "64"], withToken: false)
        #expect(stranger.code == 2 && stranger.errors.contains("tenant"), "\(stranger)")
        for user in ["1", "2"] {
            let request = try run(["request", "--system-tokens", "64", "--question-tokens", "32", "--user", user])
            #expect(request.code == 0, "\(request)")
        }
        let named = try Self.kvstore(
            ["request", "--system-tokens", "64", "--question-tokens", "32", "--user", "1", "--json"] + socket,
            environment: ["KVSTORE_TOKEN_FILE": token]
        )
        #expect(named.code == 0 && named.text.contains("\"memoryHitBlocks\" : 6"), "\(named)")

        let identity = files.path + "/identity.json"
        try #"{"model": "kvstore request", "elementType": "bf16", "opaqueBlockByteCount": 65536, "tokensPerBlock": 16}"#
            .write(toFile: identity, atomically: true, encoding: .utf8)
        let tokens = files.path + "/tokens.txt"
        try (0..<64).map(String.init).joined(separator: " ").write(toFile: tokens, atomically: true, encoding: .utf8)
        let blocks = ["--identity", identity, "--tokens", tokens]
        let pinned = try run(["pin"] + blocks)
        #expect(pinned.code == 0 && pinned.text.contains("4 of 4 blocks"), "\(pinned)")
        let unpinned = try run(["unpin"] + blocks)
        #expect(unpinned.code == 0 && unpinned.text.contains("4 blocks unpinned"), "\(unpinned)")
        let removed = try run(["remove", "--from", "3"] + blocks)
        #expect(removed.code == 0 && removed.text.contains("blocks removed"), "\(removed)")
        let nothing = try run(["pin", "--identity", identity, "--key", String(repeating: "ab", count: 32)])
        #expect(nothing.code == 1 && nothing.text.contains("not stored"), "\(nothing)")

        #expect(try run(["ping", "--count", "3"]).text.hasPrefix("3 round trips"))
        #expect(try run(["namespaces"]).text.contains("kvstore request"))
        #expect(try run(["stats", "--json"]).text.contains("\"name\" : \"chat\""))
        #expect(try run(["stats"], withToken: false).text.contains("chat"), "an operator sees every tenant")
        #expect(try run(["top", "--interval", "0.1"]).text.contains("hit ratio"))
        #expect(try run(["flush"]).code == 0)
        #expect(try run(["health"]).code == 0)
        #expect(try run(["purge"]).code == 64, "purge without --yes")
        let purged = try run(["purge", "--yes"])
        #expect(purged.code == 0 && purged.text.contains("blocks removed"), "\(purged)")
        let other = try run(["purge", "somebody", "--yes"])
        #expect(other.code == 0 || other.code == 2)
        #expect(
            try run(["request", "--system-tokens", "64", "--question-tokens", "32", "--json"]).text
                .contains("\"memoryHitBlocks\" : 0"))
    }

    @Test func `says what is wrong and ends with 2 where nobody answers`() throws {
        let files = TemporaryDirectory("f")
        let socket = files.path + "/nobody.sock"
        for command in [["ping"], ["stats"], ["top"], ["namespaces"], ["flush"], ["purge", "--yes"], ["request"]] {
            let outcome = try Self.kvstore(command + ["--socket", socket])
            #expect(outcome.code == 2, "\(command): \(outcome)")
            #expect(outcome.errors.contains("no daemon listens at \(socket)"), "\(command): \(outcome)")
        }
        let health = try Self.kvstore(["health", "--socket", socket])
        #expect(health.code == 2 && health.text.contains("no answer"), "\(health)")
        for (content, complaint) in [("", "has 0 bytes"), (String(repeating: "x", count: 2000), "has 2000 bytes")] {
            try content.write(toFile: files.path + "/token", atomically: true, encoding: .utf8)
            let bad = try Self.kvstore(["ping", "--socket", socket, "--token-file", files.path + "/token"])
            #expect(bad.code == 2 && bad.errors.contains(complaint) && !bad.errors.contains("xxx"), "\(bad)")
        }
        let missing = try Self.kvstore(["ping", "--socket", socket, "--token-file", files.path + "/none"])
        #expect(missing.code == 2 && missing.errors.contains("check the path"), "\(missing)")
    }

    @Test func `checks and prints a configuration without starting`() throws {
        let files = TemporaryDirectory("f")
        let path = files.path + "/kvstore.yaml"
        func serve(_ text: String, _ flags: [String]) throws -> Outcome {
            try text.write(toFile: path, atomically: true, encoding: .utf8)
            return try Self.kvstore(
                ["serve", "--config", path, "--state-directory", files.path + "/state"] + flags,
                environment: ["KVSTORE_MEMORY_AHEAD": "1MiB"]
            )
        }
        let good = try serve("memory: 64MiB\n", ["--check-config"])
        #expect(good.code == 0 && good.text == "the configuration is good\n", "\(good)")
        let printed = try serve("memory: 64MiB\n", ["--print-config", "--lease-ttl", "7s"])
        #expect(printed.code == 0)
        for line in ["memory: 64MiB", "memoryAhead: 1MiB", "leaseTTL: 7s"] {
            #expect(printed.text.contains(line), "\(line) is not in \(printed.text)")
        }
        let bad = try serve("memory: 64MiB\nmemry: 1\n", ["--check-config"])
        #expect(bad.code == 2 && bad.errors.contains("memry"), "\(bad)")
        let token = files.path + "/token"
        try String(repeating: "t", count: 40).write(toFile: token, atomically: true, encoding: .utf8)
        chmod(token, 0o600)
        let twice = try serve(
            "tenants: [{name: a, tokenFile: \(token)}, {name: b, tokenFile: \(token)}]\n", ["--check-config"])
        #expect(twice.code == 2 && twice.errors.contains("same token"), "\(twice)")
        #expect(!FileManager.default.fileExists(atPath: files.path + "/state"), "checking made something")
    }
}
