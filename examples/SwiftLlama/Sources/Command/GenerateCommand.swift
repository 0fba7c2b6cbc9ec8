internal import ArgumentParser
internal import Foundation
internal import KVStore

/// `swift-llama generate`
struct GenerateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "generate",
        abstract: "Answer prompts, all at once; what the cache has of them is not computed again.",
        discussion: """
            swift-llama generate --prompt "Once upon a time" --store /tmp/llama-cache
            swift-llama generate --model DIR --prompt-file system.txt --prompt "One question" --prompt "Another" --json
            """
    )

    @OptionGroup var model: ModelOptions
    @OptionGroup var cache: CacheOptions
    @Option(help: "A prompt; give several to run them as one batch.") var prompt: [String] = []
    @Option(help: "A file whose text comes before every prompt.") var promptFile: String?
    @Option(help: "Tokens to generate.") var tokens = 32
    @Option(help: "Tokens in a block.") var blockTokens = 16
    @Option(help: "Tokens of a prompt computed in one pass.") var chunkTokens = 128
    @Flag(help: "Print one JSON object a prompt.") var json = false

    func validate() throws {
        if prompt.isEmpty, promptFile == nil { throw ValidationError("give --prompt or --prompt-file") }
        guard tokens > 0, chunkTokens > 0, (1...65_535).contains(blockTokens) else {
            throw ValidationError("--tokens, --chunk-tokens and --block-tokens must be positive")
        }
    }

    func run() throws {
        let scratch = try ScratchDirectory()
        let directory = try model.resolve(scratch: scratch.path)
        let llama = try LlamaModel(directory: directory)
        let tokenizer = try Tokenizer.load(directory: directory)
        let store = try cache.open()
        defer { store?.close() }
        var options = Engine.Options()
        options.tokensPerBlock = blockTokens
        options.chunkTokens = chunkTokens
        let prefixes = try store.map { try PrefixCache($0, model: llama, tokensPerBlock: blockTokens) }
        let engine = Engine(llama, cache: prefixes, options: options)
        if !json { print(model.sentence) }

        let head = try promptFile.map { try String(contentsOfFile: $0, encoding: .utf8) } ?? ""
        let texts = prompt.isEmpty ? [head] : prompt.map { head + $0 }
        var requests: [Generation] = []
        for text in texts {
            let encoded = tokenizer.encode(text)
            if let problem = engine.problem(with: encoded, maximumNewTokens: tokens) { throw ValidationError(problem) }
            requests.append(engine.submit(encoded, maximumNewTokens: tokens))
        }
        engine.run()
        for request in requests { try show(request, tokenizer) }
    }

    private struct Answer: Encodable {
        let text: String
        let promptTokens: Int
        let cachedTokens: Int
        let tokens: [UInt32]
        let logitsDigest: String
        let firstTokenSeconds: Double
    }

    private func show(_ request: Generation, _ tokenizer: Tokenizer) throws {
        let answer = Answer(
            text: tokenizer.decode(request.newTokens), promptTokens: request.promptCount,
            cachedTokens: request.loadedTiers.count * blockTokens, tokens: Array(request.newTokens),
            logitsDigest: request.logitsDigest, firstTokenSeconds: request.firstTokenSeconds ?? 0)
        if json {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
            print(String(decoding: try encoder.encode(answer), as: UTF8.self))
            return
        }
        let seconds = String(format: "%.3f", answer.firstTokenSeconds)
        print("\n\(answer.promptTokens) tokens, \(answer.cachedTokens) of them cached, first token after \(seconds) s:")
        print(answer.text)
    }
}
