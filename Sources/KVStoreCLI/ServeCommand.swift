import ArgumentParser
import Glibc
import KVStore
import KVStoreServer

/// `kvstore serve`: the daemon in the foreground.
struct ServeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Run the daemon: one cache for every engine process of this node.",
        discussion: """
            Every setting can be given as a flag, as an environment variable or in the YAML file that --config (or \
            KVSTORE_CONFIG) names; flags win over variables, those over the file. The file alone has tenants:
              tenants:
                - name: research
                  uids: [1001, alice]
                  memoryQuota: 1GiB
                - name: serving
                  tokenFile: /etc/kvstore/serving.token
            Without tenants there is one, for the user that runs the daemon.

            SIGTERM and SIGINT stop it: no new connections and no new blocks, leases run out, everything is written to \
            disk. SIGHUP reads the configuration again and takes over what can change while it runs.

            \(Self.settingsTable)
            Exit codes: 0 stopped when told to; 1 failed while running; 2 could not start (configuration, socket, \
            permission, memory); 64 the command line is wrong.

            Examples:
              kvstore serve --memory 4GiB --disk-capacity 64GiB
              kvstore serve --config /etc/kvstore/kvstore.yaml --check-config
              KVSTORE_MEMORY=4GiB kvstore serve --print-config
            """
    )

    @Option(help: "YAML file with settings and tenants. (default: none; KVSTORE_CONFIG)")
    var config: String?
    @Flag(help: "Check the configuration, tokens included, say what is wrong and where, and end.")
    var checkConfig = false
    @Flag(help: "Print the configuration that holds as YAML, with where each value came from, and end.")
    var printConfig = false

    @Option(help: help("socket")) var socket: String?
    @Option(help: help("socketMode")) var socketMode: String?
    @Option(help: help("socketGroup")) var socketGroup: String?
    @Option(help: help("stateDirectory")) var stateDirectory: String?
    @Option(help: help("memory")) var memory: String?
    @Option(help: help("memoryAhead")) var memoryAhead: String?
    @Option(help: help("diskPath")) var diskPath: String?
    @Option(help: help("diskCapacity")) var diskCapacity: String?
    @Option(help: help("writeBackDelay")) var writeBackDelay: String?
    @Option(help: help("warmUp")) var warmUp: String?
    @Option(help: help("codec")) var codec: String?
    @Option(help: help("verifyMemoryHits")) var verifyMemoryHits: String?
    @Option(help: help("stagingPerConnection")) var stagingPerConnection: String?
    @Option(name: .customLong("lease-ttl"), help: help("leaseTTL")) var leaseTTL: String?
    @Option(help: help("maximumConnections")) var maximumConnections: String?
    @Option(help: help("publicTenant")) var publicTenant: String?
    @Option(help: help("operatorGroup")) var operatorGroup: String?
    @Option(help: help("metricsListen")) var metricsListen: String?
    @Option(help: help("drainTimeout")) var drainTimeout: String?
    @Option(help: help("logLevel")) var logLevel: String?

    /// The flags that were given, by the key of their setting.
    var flags: [String: String] {
        let given: [String: String?] = [
            "socket": socket, "socketMode": socketMode, "socketGroup": socketGroup, "stateDirectory": stateDirectory,
            "memory": memory, "memoryAhead": memoryAhead, "diskPath": diskPath, "diskCapacity": diskCapacity,
            "writeBackDelay": writeBackDelay, "warmUp": warmUp, "codec": codec, "verifyMemoryHits": verifyMemoryHits,
            "stagingPerConnection": stagingPerConnection, "leaseTTL": leaseTTL,
            "maximumConnections": maximumConnections,
            "publicTenant": publicTenant, "operatorGroup": operatorGroup, "metricsListen": metricsListen,
            "drainTimeout": drainTimeout, "logLevel": logLevel,
        ]
        return given.compactMapValues { $0 }
    }

    /// What the table of settings says, as help of a flag.
    private static func help(_ key: String) -> ArgumentHelp {
        guard let setting = Setting.named(key) else { preconditionFailure("there is no setting '\(key)'") }
        return ArgumentHelp("\(setting.help) (default: \(setting.defaultText))", valueName: setting.valueName)
    }

    /// Names of all settings side by side.
    static var settingsTable: String {
        var table = TextTable(
            header: ["setting in YAML", "environment variable", "default", "SIGHUP"], leftColumns: [1, 2, 3])
        for setting in Setting.all {
            table.add(
                setting.key, setting.environmentName, setting.defaultText, setting.canReload ? "takes it over" : "no")
        }
        return table.text
    }

    func run() async throws {
        let sources = Daemon.ConfigurationSources(
            flags: flags,
            environment: ProcessEnvironment.variables,
            filePath: config
        )
        do {
            if checkConfig || printConfig {
                let loaded = try sources.load()
                for warning in loaded.warnings { Terminal.printError("kvstore serve: \(warning)\n") }
                if printConfig { Terminal.print(loaded.yamlText) }
                if checkConfig { try TenantTable.check(loaded.configuration) }
                if checkConfig && !printConfig { Terminal.print("the configuration is good\n") }
                return
            }
            ProcessSetup.ignoreSignals()
            ProcessSetup.hideMemory()
            ProcessSetup.boundAllocator()
            _ = ProcessSetup.raiseDescriptorLimit()
            let daemon = try await Daemon.start(sources)
            do {
                try await runUntilSignalled(daemon)
            } catch {
                Terminal.printError("kvstore serve: \(error)\n")
                throw ExitCode(1)
            }
        } catch let error as ConfigurationError {
            for problem in error.problems { Terminal.printError("kvstore serve: \(problem)\n") }
            throw ExitCode(2)
        } catch let error as KVStoreError {
            Terminal.printError("kvstore serve: \(error.message)\n")
            throw ExitCode(2)
        } catch let error as ExitCode {
            throw error
        } catch {
            Terminal.printError("kvstore serve: \(error)\n")
            throw ExitCode(2)
        }
    }
}

/// The variables of this process.
enum ProcessEnvironment {
    static var variables: [String: String] {
        var variables: [String: String] = [:]
        // `environ` ends with a null; its strings are copied. Nothing changes the environment while this runs.
        var next = unsafe environ
        while let entry = unsafe next.pointee {
            let text = unsafe String(cString: entry)
            if let equals = text.firstIndex(of: "=") {
                variables[String(text[..<equals])] = String(text[text.index(after: equals)...])
            }
            unsafe next += 1
        }
        return variables
    }
}
