internal import ArgumentParser
internal import Foundation

/// Which model: a directory, or one that is made up.
struct ModelOptions: ParsableArguments {
    @Option(name: .customLong("model"), help: "A Hugging Face directory of a Llama (bf16 safetensors).")
    var directory: String?
    @Option(help: "Without --model: the shape of the model with random weights (tiny, small, medium).")
    var preset = "small"
    @Option(help: "Without --model: the seed of its weights.") var seed: UInt64 = 1

    func validate() throws {
        if directory == nil, RandomModel.presets[preset] == nil {
            throw ValidationError("there is no preset \(preset)")
        }
    }

    /// The directory; a made-up model is written into `scratch` first.
    func resolve(scratch: String) throws -> String {
        if let directory { return directory }
        let made = "\(scratch)/model-\(preset)-\(seed)"
        if !FileManager.default.fileExists(atPath: "\(made)/model.safetensors") {
            try RandomModel(configuration: RandomModel.presets[preset]!, seed: seed).write(to: made)
        }
        return made
    }

    /// What was used, for people.
    var sentence: String {
        directory.map { "model \($0)" }
            ?? "model made with random weights (--preset \(preset) --seed \(seed)): its text is noise"
    }
}

/// A directory for one run.
final class ScratchDirectory {
    let path: String

    init() throws {
        path = FileManager.default.temporaryDirectory.path + "/swift-llama-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}
