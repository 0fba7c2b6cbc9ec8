import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStoreServer

@Suite struct SystemdUnitTests {
    private var units: String {
        URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("../../examples/systemd")
            .standardized.path
    }

    @Test func `systemd accepts the units`() throws {
        guard FileManager.default.isExecutableFile(atPath: "/usr/bin/systemd-analyze") else {
            print("SKIPPED: no systemd-analyze here; the units are not verified")
            return
        }
        // It wants the binary to exist, so the units are looked at with one that does.
        let directory = TemporaryDirectory("units")
        for name in ["kvstore.service", "kvstore.socket"] {
            let text = try String(contentsOfFile: "\(units)/\(name)", encoding: .utf8)
            try text.replacingOccurrences(of: "/usr/local/bin/kvstore", with: "/bin/true")
                .write(toFile: "\(directory.path)/\(name)", atomically: true, encoding: .utf8)
        }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/systemd-analyze")
        process.arguments = ["verify", "\(directory.path)/kvstore.service", "\(directory.path)/kvstore.socket"]
        let output = Pipe()
        process.standardError = output
        process.standardOutput = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        // Complaints about other units of the machine are not ours.
        let ours = text.split(separator: "\n").filter { $0.contains("kvstore") && !$0.contains("User kvstore") }
        #expect(process.terminationStatus == 0, "\(text)")
        #expect(ours.isEmpty, "\(text)")
    }

    @Test func `the units name the socket that the daemon and its clients use by default`() throws {
        let socket = try String(contentsOfFile: "\(units)/kvstore.socket", encoding: .utf8)
        #expect(socket.contains("ListenStream=\(ServerConfiguration().socketPath)\n"))
        #expect(socket.contains("SocketMode=0660\n"))
        let service = try String(contentsOfFile: "\(units)/kvstore.service", encoding: .utf8)
        #expect(service.contains("Type=notify\n") && service.contains("WatchdogSec="))
        #expect(!service.contains("\nPrivateUsers="))
    }
}
