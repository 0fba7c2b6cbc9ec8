import ArgumentParser

/// `kvstore`: the commands, and nothing else.
@main
struct KVStoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kvstore",
        abstract: "A KV cache store for LLM inference: hot blocks in memory, cold ones on disk, found by prefix.",
        discussion: """
            Start here, nothing to install or configure:
              kvstore replay                        made-up chats through the real store
              kvstore replay TRACE --memory 2GiB    a recorded request trace
              kvstore plan --model Llama-3-8B       how large its KV cache is
              kvstore verify /var/lib/kvstore       check every record on disk
              kvstore serve --memory 4GiB           one cache for every process of this node
              kvstore request                       one prompt over it, as an engine would ask
              kvstore stats                         what a running daemon did and holds

            Sizes are written 64KiB, 512MiB, 4GiB (powers of 1024), 4GB (powers of 1000) or as plain \
            bytes.

            Exit codes: 0 all is well; 1 wrong bytes or bad records were found; 2 could not start (file, path, \
            permission, space); 64 the command line is wrong.
            """,
        subcommands: [
            ServeCommand.self, RequestCommand.self, ReplayCommand.self, VerifyCommand.self, PlanCommand.self,
            StatsCommand.self, TopCommand.self, HealthCommand.self, PingCommand.self, NamespacesCommand.self,
            FlushCommand.self, PinCommand.self, UnpinCommand.self, RemoveCommand.self, PurgeCommand.self,
        ]
    )
}
