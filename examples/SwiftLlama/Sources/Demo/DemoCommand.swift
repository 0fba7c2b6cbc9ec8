internal import ArgumentParser
internal import Foundation

/// `swift-llama demo`
struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Show that answers are the same with and without the cache, and what it saves.",
        discussion: """
            Three processes, one after the other: the first computes prompts without a cache, with an empty one and from \
            memory, and is killed with SIGKILL while it works; the second answers from what was left on disk, and runs \
            several users as one batch; then bytes of a stored file are turned around, and the third computes again what \
            is damaged. At last blocks are replaced under their keys, which has to be noticed. Tokens, logits (bit by \
            bit) and a digest of every block's K and V are compared with those of a run without a cache. Exits with 1 \
            when anything differs that must not, or a forged block goes unnoticed.
            """
    )

    @OptionGroup var model: ModelOptions
    @OptionGroup var settings: DemoSettings
    @Flag(help: "Print the figures as JSON.") var json = false

    func run() throws {
        let scratch = try ScratchDirectory()
        let directory = try model.resolve(scratch: scratch.path)
        let store = scratch.path + "/store"
        say(model.sentence)
        say("without, with an empty and with a filled cache; \(settings.prefixTokens) shared tokens …")
        let first = try DemoProcess(.measure, model: directory, store: store, settings)
        let measured = try first.report()
        // In the middle of the next prompt.
        Thread.sleep(forTimeInterval: 0.3)
        first.kill()
        say("killed with SIGKILL; a new process over what it left …")
        let second = try DemoProcess(.restart, model: directory, store: store, settings)
        let restarted = try second.report()
        second.wait()
        if settings.socket == nil {
            let name = try StoredFiles(store).damageLargestSegment(at: 0.5)
            say("64 bytes of \(name) turned around; a new process …")
        } else {
            say("with a daemon its files are not ours to damage; forged blocks only …")
        }
        let third = try DemoProcess(.damaged, model: directory, store: store, settings)
        let damaged = try third.report()
        third.wait()
        let summary = DemoSummary([measured, restarted, damaged])
        if json {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
            print(String(decoding: try encoder.encode(summary), as: UTF8.self))
        } else {
            print("\n" + DemoTable(summary: summary).text)
        }
        if !summary.isRight { throw ExitCode(1) }
    }

    private func say(_ line: String) {
        if !json { print(line) }
    }
}
