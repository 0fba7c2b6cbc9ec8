import ArgumentParser

/// Measures the store beside what it is compared with, in one run, and prints both and their ratio.
@main
struct KVStoreBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kvstore-bench",
        abstract: "Measure kvstore and a reference in the same run.",
        discussion: """
            Machines differ and are rarely idle, so a number alone says little. Every subcommand measures us and a \
            reference in turn, round after round, and compares within each round; what is printed is the median of the \
            rounds and their spread. Goals stand beside the comparisons they are for. Run with nothing else going on, and \
            look at the spread before you believe a median.

              kvstore-bench lookup     hash and look up a long prompt
              kvstore-bench memory     hits, and memory beside the payload
              kvstore-bench disk       against O_DIRECT and plain RocksDB
              kvstore-bench reclaim    a full disk, overwritten while read
              kvstore-bench recovery   reopen, after close and after kill -9
              kvstore-bench codec      every codec against memcpy
              kvstore-bench daemon     the daemon against redis-server and memcached
              kvstore-bench chart      runs in one picture

            'disk', 'reclaim' and 'recovery' write gigabytes into a directory of their own, made in the working directory \
            or in --path and removed at the end.
            """,
        subcommands: [
            Lookup.self, Memory.self, Disk.self, Reclaim.self, Recovery.self, RecoveryChild.self, Codec.self,
            Daemon.self, ChartOfRuns.self,
        ]
    )
}
