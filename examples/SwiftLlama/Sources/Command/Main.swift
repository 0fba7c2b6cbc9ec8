internal import ArgumentParser

/// `swift-llama`: the commands, and nothing else.
@main
struct SwiftLlamaCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "swift-llama",
        abstract: "A small Llama engine whose prefix cache is kvstore.",
        subcommands: [GenerateCommand.self, DemoCommand.self, MakeModelCommand.self, DemoPhaseCommand.self]
    )
}
