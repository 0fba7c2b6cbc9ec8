import Foundation
import KVStoreIPC
import KVStoreTestSupport
import Testing

/// Run by Tests/soak.sh, which says for how long.
@Suite("A soak")
struct SoakTests {
    static let seconds = ProcessInfo.processInfo.environment["KVSTORE_SOAK_SECONDS"].flatMap { Int($0) }
    private static let tenants = ["red", "green", "blue"]

    @Test(.enabled(if: seconds != nil, "a soak takes minutes: bash Tests/soak.sh"))
    func `of clients that are killed and stopped keeps every byte and grows nothing`() throws {
        let seconds = try #require(Self.seconds)
        let tokens = TemporaryDirectory("tokens")
        for tenant in Self.tenants {
            let path = "\(tokens.path)/\(tenant)"
            try Data("token-of-\(tenant)-0123456789abcdef0123456789abcdef".utf8).write(to: URL(filePath: path))
            chmod(path, 0o600)
        }
        let list = Self.tenants.map { "  - name: \($0)\n    tokenFile: \(tokens.path)/\($0)\n    memoryQuota: 16MiB\n" }
        let daemon = try DaemonProcess(
            ["--memory", "64MiB", "--disk-capacity", "512MiB", "--write-back-delay", "1s", "--lease-ttl", "2s"],
            configuration: "tenants:\n" + list.joined()
        )
        var random = SeededRandom(seed: TestScale.seed)
        func start(_ number: Int) throws -> WorkerProcess {
            let token = "\(tokens.path)/\(Self.tenants[number % 3])"
            return try WorkerProcess(["client", daemon.socketPath, "\(random.next() >> 16)", token])
        }
        var clients = try (0..<8).map { try start($0) }
        var reports = [ClientReport](repeating: ClientReport(), count: 8)
        var (verified, stored, kills, stops) = (0, 0, 0, 0)
        var samples: [Sample] = []
        // Clients that are stopped, and the second in which they go on.
        var sleeping: [Int: Int] = [:]
        for second in 0..<seconds {
            for index in clients.indices { clients[index].listenAndRead(&reports[index], milliseconds: 120) }
            let victim = Int.random(in: 0..<8, using: &random)
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<2:
                _ = clients[victim].killAndWait()
                sleeping[victim] = nil
                reports[victim].read(clients[victim].remainingLines())
                (verified, stored) = (verified + reports[victim].verified, stored + reports[victim].stored)
                (reports[victim].verified, reports[victim].stored) = (0, 0)
                clients[victim] = try start(victim)
                kills += 1
            case 2:
                guard sleeping[victim] == nil else { break }
                clients[victim].send(signal: SIGSTOP)
                stops += 1
                // Every other one sleeps for three lease times, while the others go on.
                if stops % 2 == 0 {
                    sleeping[victim] = second + 6
                } else {
                    usleep(100_000)
                    clients[victim].send(signal: SIGCONT)
                }
            default: break
            }
            for (index, end) in sleeping where second >= end {
                clients[index].send(signal: SIGCONT)
                sleeping[index] = nil
            }
            #expect(daemon.isRunning, "the daemon ended: \(daemon.logText.suffix(1000))")
            if !daemon.isRunning { break }
            samples.append(try Sample(daemon))
            if second % 60 == 59 { print("after \(second / 60 + 1) min: \(Sample.median(samples.suffix(20)))") }
        }
        let expired = try daemon.client().statistics().daemon.expiredLeases
        for index in clients.indices {
            _ = clients[index].killAndWait()
            reports[index].read(clients[index].remainingLines())
            (verified, stored) = (verified + reports[index].verified, stored + reports[index].stored)
            #expect(reports[index].complaints.isEmpty, "\(reports[index].complaints.prefix(3))")
        }
        // Minutes differ by three in a hundred either way: who was just killed is gone, who has just begun has no staging
        // yet, who sleeps keeps other blocks from being replaced. What grows shows between fifths of the time.
        let window = seconds / 5
        let before = Sample.median(samples.dropFirst(seconds / 5).prefix(window))
        let late = Sample.median(samples.suffix(window))
        print(
            "soak of \(seconds) s: \(verified) blocks verified, \(stored) stored, \(kills) clients killed, \(stops) stopped, "
                + "\(expired) leases expired; "
                + "first \(before), at the end \(late)"
        )
        #expect(verified > seconds * 10)
        #expect(expired > 0 || seconds < 60, "nobody slept through a lease")
        #expect(late.descriptors == before.descriptors)
        #expect(late.allocated <= before.allocated + before.allocated / 50)
    }

    /// What the daemon has at one moment.
    private struct Sample: CustomStringConvertible {
        var descriptors: Int
        /// Regions, staging and rings.
        var shared: Int
        /// The heap and other memory of its own.
        var anonymous: Int
        /// Pages of its program and libraries. They say nothing about growth: the kernel drops them when other processes
        /// read files, and they come back when they are run.
        var code: Int

        /// What the daemon asked for.
        var allocated: Int { shared + anonymous }

        init(_ daemon: DaemonProcess) throws {
            descriptors = try SoakTests.ownDescriptors(daemon)
            let resident = daemon.residentBytes
            (shared, code) = (daemon.sharedBytes, daemon.mappedFileBytes)
            anonymous = resident - shared - code
        }

        private init(_ samples: some Collection<Sample>) {
            func middle(_ value: KeyPath<Sample, Int>) -> Int {
                let values = samples.map { $0[keyPath: value] }.sorted()
                return values.isEmpty ? 0 : values[values.count / 2]
            }
            (descriptors, shared) = (middle(\.descriptors), middle(\.shared))
            (anonymous, code) = (middle(\.anonymous), middle(\.code))
        }

        /// Each number by itself.
        static func median(_ samples: some Collection<Sample>) -> Sample { Sample(samples) }

        var description: String {
            "\(descriptors) descriptors, \(allocated >> 10) KiB (\(shared >> 10) of regions and staging, "
                + "\(anonymous >> 10) of the heap), and \(code >> 10) KiB of code"
        }
    }

    /// Beside regions, whose number follows the sizes of blocks in use, and table files, which RocksDB keeps open.
    private static func ownDescriptors(_ daemon: DaemonProcess) throws -> Int {
        let path = "/proc/\(daemon.identifier)/fd"
        let names = try FileManager.default.contentsOfDirectory(atPath: path)
        return names.reduce(0) { count, name in
            let target = (try? FileManager.default.destinationOfSymbolicLink(atPath: "\(path)/\(name)")) ?? ""
            return target.contains("kvstore-region") || target.contains("/db/") || target.contains("/incoming/")
                ? count : count + 1
        }
    }
}
