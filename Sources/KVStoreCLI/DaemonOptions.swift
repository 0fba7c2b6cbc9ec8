import ArgumentParser
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

    var path: String { socket ?? DaemonSocket.standardPath }

    func validate() throws {
        if let timeout, !(timeout > 0 && timeout <= 3600) {
            throw ValidationError("--timeout is \(timeout); it must be above 0 and at most 3600 seconds")
        }
    }

    var clientOptions: ClientOptions {
        var options = ClientOptions()
        options.timeoutSeconds = timeout ?? 3
        options.slowTimeoutSeconds = 10 * options.timeoutSeconds
        options.name = "kvstore command line"
        return options
    }

    /// Runs a command against the daemon. What goes wrong between them ends in a sentence that says what to do, and
    /// exit code 2.
    func run(_ command: String, _ body: (DaemonClient) throws -> Void) throws {
        do {
            try body(try DaemonClient(socketPath: path, options: clientOptions))
        } catch let error as ClientError {
            Terminal.printError("kvstore \(command): \(error.message)\n")
            throw ExitCode(2)
        } catch let error as StartError {
            Terminal.printError("kvstore \(command): \(error)\n")
            throw ExitCode(2)
        }
    }
}
