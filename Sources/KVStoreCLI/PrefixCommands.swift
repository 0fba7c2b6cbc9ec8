import ArgumentParser
import KVStore
import KVStoreIPC

/// Which blocks a command is about: the blocks of one prompt in one namespace.
struct PrefixOptions: ParsableArguments {
    static let discussion = """
        --identity names a JSON file with the model's identity, as the engine gives it to the store (without tenant and \
        salt, which the daemon knows):
          {"model": "Llama-3-8B", "revision": "8cde5ca8", "layers": 32, "keyHeads": 8,
           "keyHeadDimension": 128, "tokensPerBlock": 16}
        The prompt is given as token ids, or block by block as keys of 64 hex digits.
        """

    @Option(help: "JSON file with the namespace's identity.")
    var identity: String
    @Option(help: "File with the prompt's token ids, separated by blanks, commas or lines; - for standard input.")
    var tokens: String?
    @Option(help: "Key of a block, 64 hex digits; once for each block, from the head on.")
    var key: [String] = []

    func validate() throws {
        if (tokens == nil) == key.isEmpty {
            throw ValidationError("say which blocks: either --tokens FILE or --key HEX")
        }
        _ = try key.map(Self.blockKey)
    }

    /// The prefix, in a namespace of the daemon.
    func prefix(in store: RemoteBlockStore) throws -> Prefix {
        let file = try InputFile(path: identity).readAll(limit: 1 << 20)
        let namespace = try store.namespace(try IdentityFile.parse(file, name: identity))
        guard let tokens else {
            let keys = try key.map(Self.blockKey)
            let tokenCount = keys.count * namespace.identity.tokensPerBlock
            return Prefix(namespace: namespace, keys: keys, tokenCount: tokenCount)
        }
        let input = tokens == "-" ? InputFile(descriptor: 0, name: "standard input") : try InputFile(path: tokens)
        let prefix = namespace.prefix(tokens: try Self.tokenIDs(try input.readAll(limit: 256 << 20), name: input.path))
        guard !prefix.keys.isEmpty else {
            throw StartError(
                "\(input.path) holds no whole block; a block is \(namespace.identity.tokensPerBlock) tokens"
            )
        }
        return prefix
    }

    /// Numbers from 0 to 2^32 - 1, separated by blanks, commas or lines; brackets around them are ignored.
    static func tokenIDs(_ bytes: [UInt8], name: String) throws(StartError) -> [UInt32] {
        var ids: [UInt32] = []
        for word in bytes.split(whereSeparator: { " \t\r\n,[]".utf8.contains($0) }) {
            guard let id = UInt32(String(decoding: word, as: UTF8.self)) else {
                // Not the word itself: it may be part of a prompt.
                throw StartError("\(name): number \(ids.count + 1) is not a token id from 0 to 4294967295")
            }
            ids.append(id)
        }
        return ids
    }

    static func blockKey(_ hex: String) throws(ValidationError) -> BlockKey {
        let digits = hex.utf8.compactMap { Character(UnicodeScalar($0)).hexDigitValue.map(UInt8.init) }
        guard digits.count == hex.utf8.count, digits.count == 2 * BlockKey.byteCount,
            let key = BlockKey(bytes: stride(from: 0, to: 64, by: 2).map { digits[$0] << 4 | digits[$0 + 1] })
        else { throw ValidationError("a --key is not 64 hex digits") }
        return key
    }
}

extension DaemonOptions {
    /// Runs a command on a prefix; errors as for `run`.
    fileprivate func run(
        _ command: String,
        on options: PrefixOptions,
        _ body: (RemoteBlockStore, Prefix) throws -> Void
    ) throws {
        // First by itself: a daemon that is not there is an error here, while the store would call it a miss.
        try run(command) { client, clientOptions in
            _ = try client.ping()
            let store = RemoteBlockStore(socketPath: path, options: clientOptions)
            defer { store.close() }
            do {
                try body(store, try options.prefix(in: store))
            } catch let error as KVStoreError {
                throw StartError(error.message)
            }
        }
    }
}

/// `kvstore pin`: blocks that must stay in memory for a while.
struct PinCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pin",
        abstract: "Keep the stored blocks of a prompt in memory for a time: a system prompt, say.",
        discussion: PrefixOptions.discussion + """


            Example:
              kvstore pin --identity llama.json --tokens system-prompt.txt --seconds 3600

            Exit codes: 0 blocks stay; 1 none does; 2 no answer, or refused.
            """
    )

    @OptionGroup var daemon: DaemonOptions
    @OptionGroup var blocks: PrefixOptions
    @Option(help: "For how long. (default: 600)")
    var seconds = 600

    func validate() throws {
        if !(1...604_800).contains(seconds) { throw ValidationError("--seconds is \(seconds); it must be 1 to 604800") }
    }

    func run() throws {
        try daemon.run("pin", on: blocks) { store, prefix in
            let count = try store.count(.pin, prefix, argument: seconds)
            let missing = prefix.keys.count - count
            Terminal.print(
                "\(grouped(count)) of \(grouped(prefix.keys.count)) blocks stay in memory for "
                    + secondsText(Double(seconds)) + "\n"
                    + (missing == 0
                        ? ""
                        : "\(grouped(missing)) are not stored, or beyond what a tenant may pin: a quarter of its memory\n")
            )
            if count == 0 { throw ExitCode(1) }
        }
    }
}

/// `kvstore unpin`: ends what `pin` began.
struct UnpinCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unpin",
        abstract: "End a pin before its time.",
        discussion: PrefixOptions.discussion + "\n\nExit codes: 0 done; 2 no answer, or refused."
    )

    @OptionGroup var daemon: DaemonOptions
    @OptionGroup var blocks: PrefixOptions

    func run() throws {
        try daemon.run("unpin", on: blocks) { store, prefix in
            Terminal.print("\(grouped(try store.count(.unpin, prefix))) blocks unpinned\n")
        }
    }
}

/// `kvstore remove`: blocks of a prompt go.
struct RemoveCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Remove blocks of a prompt and all that builds on them, from memory and disk, for good.",
        discussion: PrefixOptions.discussion + """


            Example:
              kvstore remove --identity llama.json --tokens prompt.txt --from 4

            Exit codes: 0 done, also when there was nothing to remove; 2 no answer, or refused.
            """
    )

    @OptionGroup var daemon: DaemonOptions
    @OptionGroup var blocks: PrefixOptions
    @Option(help: "Number of the first block to remove; blocks before it stay. (default: 0)")
    var from = 0

    func validate() throws {
        if !(0...Int(UInt32.max)).contains(from) { throw ValidationError("--from is \(from); it must be 0 or more") }
    }

    func run() throws {
        try daemon.run("remove", on: blocks) { store, prefix in
            Terminal.print("\(grouped(try store.count(.remove, prefix, argument: from))) blocks removed\n")
        }
    }
}
