internal import ArgumentParser

/// `swift-llama make-model`
struct MakeModelCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "make-model",
        abstract: "Make a Hugging Face directory of a Llama with seeded random weights.",
        discussion: "Its text is noise; its speed and the size of its cache are those of a real model of that shape."
    )

    @Argument(help: "The directory to make.") var directory: String
    @Option(help: "Its shape: \(RandomModel.presets.keys.sorted().joined(separator: ", ")).") var preset = "small"
    @Option(help: "Start of the random numbers; the same seed makes the same bytes.") var seed: UInt64 = 1

    func run() throws {
        guard let shape = RandomModel.presets[preset] else { throw ValidationError("there is no preset \(preset)") }
        try RandomModel(configuration: shape, seed: seed).write(to: directory)
        print("made \(directory): \(preset), random weights, seed \(seed)")
    }
}
