import ArgumentParser
import FoundationEssentials
import KVStoreIPC

/// Where the daemon is: options of every command that asks it.
struct DaemonOptions: ParsableArguments {
    @Option(
        help: """
            The daemon's socket. (default: $KVSTORE_SOCKET, else $XDG_RUNTIME_DIR/kvstore/kvstore.sock, else \
            /run/kvstore/kvstore.sock)
            """
    )
    var socket: String?
    @Option(help: "Seconds to wait for an answer; commands that wait for the disk wait ten times as long. (default: 3)")
    var timeout: Double?
    @Option(
        help: """
            File with the token that binds you to a tenant, where the daemon has its tenants by token. (default: \
            $KVSTORE_TOKEN_FILE, else no token)
            """
    )
    var tokenFile: String?

    var path: String { socket ?? DaemonSocket.standardPath }

    func validate() throws {
        if let timeout, !(timeout > 0 && timeout <= 3600) {
            throw ValidationError("--timeout is \(timeout); it must be above 0 and at most 3600 seconds")
        }
    }

    func clientOptions() throws(StartError) -> ClientOptions {
        var options = ClientOptions()
        let environment = ProcessInfo.processInfo.environment["KVSTORE_TOKEN_FILE"]
        if let file = tokenFile ?? environment, !file.isEmpty { options.token = try Self.token(in: file) }
        options.timeoutSeconds = timeout ?? 3
        options.slowTimeoutSeconds = 10 * options.timeoutSeconds
        options.name = "kvstore command line"
        return options
    }

    /// The options for a command that does not `run`; errors end it as they do there.
    func clientOptions(of command: String) throws(ExitCode) -> ClientOptions {
        do throws(StartError) {
            return try clientOptions()
        } catch {
            Terminal.printError("kvstore \(command): \(error)\n")
            throw ExitCode(2)
        }
    }

    /// The first line of the file; never shown in an error.
    private static func token(in path: String) throws(StartError) -> [UInt8] {
        let bytes = try InputFile(path: path).readAll(limit: 64 << 10)
        let line = bytes.prefix { $0 != UInt8(ascii: "\n") && $0 != UInt8(ascii: "\r") }
        guard (1...WireLimits.tokenByteCount).contains(line.count) else {
            throw StartError(
                "the first line of token file '\(path)' has \(line.count) bytes; a token has 1 to "
                    + "\(WireLimits.tokenByteCount). It is the file that the daemon's configuration names as tokenFile"
            )
        }
        return Array(line)
    }

    /// Runs a command against the daemon. What goes wrong between them ends in a sentence that says what to do, and
    /// exit code 2.
    func run(_ command: String, _ body: (DaemonClient) throws -> Void) throws {
        try run(command) { client, _ in try body(client) }
    }

    /// As above, with the options: a token may come from a pipe, which is read once.
    func run(_ command: String, _ body: (DaemonClient, ClientOptions) throws -> Void) throws {
        do {
            let options = try clientOptions()
            try body(try DaemonClient(socketPath: path, options: options), options)
        } catch let error as ClientError {
            Terminal.printError("kvstore \(command): \(error.message)\n")
            throw ExitCode(2)
        } catch let error as StartError {
            Terminal.printError("kvstore \(command): \(error)\n")
            throw ExitCode(2)
        }
    }
}
