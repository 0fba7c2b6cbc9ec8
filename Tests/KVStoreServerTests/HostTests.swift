import Foundation
import KVStoreTestSupport
import Logging
import Synchronization
import Testing

@testable import KVStoreServer

/// Values that other threads put in, and a wait for them.
final class Inbox<Value: Sendable>: Sendable {
    private let values = Mutex<[Value]>([])
    func put(_ value: Value) { values.withLock { $0.append(value) } }
    var all: [Value] { values.withLock { $0 } }

    /// Waits until `isEnough` holds; the generous limit only turns a hang into a failure.
    func wait(until isEnough: ([Value]) -> Bool) async -> [Value] {
        for _ in 0..<3000 {
            if isEnough(all) { return all }
            try? await Task.sleep(for: .milliseconds(10))
        }
        return all
    }
}

@Suite struct ClientWatchTests {
    private func startSleeper() throws -> Process {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sleep")
        process.arguments = ["1000"]
        try process.run()
        return process
    }

    private func descriptor(of process: Process) throws -> Int32 {
        // No socket: the number is used, as on kernels without SO_PEERPIDFD.
        try #require(LinuxCalls.processDescriptor(ofPeer: -1, processID: process.processIdentifier))
    }

    @Test func `the death of a process is told once and only of those that are watched`() async throws {
        let watch = try ClientWatch()
        let died = Inbox<String>()
        let sleepers = try (0..<3).map { _ in try startSleeper() }
        var tokens: [UInt64] = []
        for (index, sleeper) in sleepers.enumerated() {
            let token = watch.watch(processDescriptor: try descriptor(of: sleeper)) { died.put("\(index)") }
            tokens.append(try #require(token))
        }
        #expect(watch.count == 3)
        watch.forget(tokens[1])
        watch.forget(tokens[1])
        kill(sleepers[1].processIdentifier, SIGKILL)
        kill(sleepers[0].processIdentifier, SIGKILL)
        #expect(await died.wait { $0.count == 1 } == ["0"])
        kill(sleepers[2].processIdentifier, SIGKILL)
        #expect(await died.wait { $0.count == 2 } == ["0", "2"])
        #expect(watch.count == 0)
        watch.stop()
        watch.stop()
        for sleeper in sleepers { sleeper.waitUntilExit() }
    }

    @Test func `a process that ended before it was watched is told as well`() async throws {
        let watch = try ClientWatch()
        let died = Inbox<Int>()
        let sleeper = try startSleeper()
        let descriptor = try descriptor(of: sleeper)
        kill(sleeper.processIdentifier, SIGKILL)
        sleeper.waitUntilExit()
        _ = watch.watch(processDescriptor: descriptor) { died.put(1) }
        #expect(await died.wait { !$0.isEmpty } == [1])
    }

    /// In a child: tests that run beside this one open descriptors, too.
    @Test func `a stopped watch takes nobody and leaks no descriptor`() async {
        await #expect(processExitsWith: .success) {
            let tests = ClientWatchTests()
            let before = try ClientWatchTests.openDescriptors()
            for _ in 0..<20 {
                let watch = try ClientWatch()
                let sleeper = try tests.startSleeper()
                _ = watch.watch(processDescriptor: try tests.descriptor(of: sleeper)) {}
                kill(sleeper.processIdentifier, SIGKILL)
                sleeper.waitUntilExit()
                watch.stop()
                #expect(watch.watch(processDescriptor: dup(0)) {} == nil)
            }
            let after = try ClientWatchTests.openDescriptors()
            // Foundation closes what it has for a process only later; a watch has three.
            #expect(after < before + 2 * 20, "\(before) descriptors before, \(after) after")
        }
    }

    private static func openDescriptors() throws -> Int {
        try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count
    }

    @Test func `the kernel tells who is at the other end of a socket`() throws {
        var ends: [Int32] = [-1, -1]
        #expect(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0)
        defer { ends.forEach { close($0) } }
        let peer = try #require(PeerCredentials(socket: ends[0]))
        #expect(peer.processID == getpid() && peer.userID == geteuid() && peer.groupID == getegid())
        #expect(PeerCredentials(socket: -1) == nil)
        let descriptor = try #require(LinuxCalls.processDescriptor(ofPeer: ends[0], processID: peer.processID))
        close(descriptor)
    }
}

@Suite struct SystemdNotifierTests {
    /// A socket as systemd's, and what it received.
    private func receive(from socket: Int32) -> String {
        var bytes = [UInt8](repeating: 0, count: 1024)
        let count = recv(socket, &bytes, bytes.count, 0)
        return count < 0 ? "nothing" : String(decoding: bytes.prefix(count), as: UTF8.self)
    }

    @Test(arguments: [false, true])
    func `states go to the socket that systemd named`(isAbstract: Bool) throws {
        let directory = TemporaryDirectory()
        let address = isAbstract ? "@kvstore-test-\(getpid())" : directory.path + "/notify"
        let socket = try LinuxCalls.makeUnixSocket(isDatagram: true)
        defer { close(socket) }
        #expect(LinuxCalls.bind(socket, to: address) == 0)
        let notifier = SystemdNotifier(environment: [
            "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "\(getpid())",
        ])
        #expect(notifier.isConnected && notifier.watchdogMicroseconds == 20_000_000)
        notifier.ready(status: "serving\nREADY=0")
        #expect(receive(from: socket) == "READY=1\nSTATUS=serving READY=0")
        notifier.watchdog()
        #expect(receive(from: socket) == "WATCHDOG=1")
        notifier.stopping()
        #expect(receive(from: socket).hasPrefix("STOPPING=1\n"))
    }

    @Test func `without systemd nothing is sent and nobody watches`() {
        let notifier = SystemdNotifier(environment: ["WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"])
        #expect(!notifier.isConnected && notifier.watchdogMicroseconds == nil)
        notifier.ready(status: "x")
    }
}

@Suite struct LogTests {
    @Test func `a place in the code logs at most ten lines a second and says how many it left out`() {
        let lines = Inbox<String>()
        let second = Mutex(0)
        let sink = StandardErrorLog.Sink(level: .info, seconds: { second.withLock { $0 } }, write: { lines.put($0) })
        let logger = Logger(label: "test") { _ in StandardErrorLog(sink) }
        for now in 0...1 {
            second.withLock { $0 = now }
            for number in 0..<(now == 0 ? 100 : 1) {
                logger.warning("often", metadata: ["number": "\(number)"])
            }
            logger.info("another place")
        }
        #expect(lines.all.filter { $0.contains("often") }.count == 11)
        #expect(lines.all.last { $0.contains("often") } == "warning: often number=0 (90 like it were left out)")
        #expect(lines.all.filter { $0.contains("another place") }.count == 2)
    }

    @Test func `the level can change while a logger is in use`() {
        let lines = Inbox<String>()
        let sink = StandardErrorLog.Sink(level: .warning, write: { lines.put($0) })
        let logger = Logger(label: "test") { _ in StandardErrorLog(sink) }
        logger.info("first")
        sink.level = .debug
        logger.info("second")
        #expect(lines.all == ["info: second"])
    }
}
