import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStoreServer

/// Whether somebody accepts connections at a path.
private func isLive(_ path: String) -> Bool {
    guard let socket = try? LinuxCalls.makeUnixSocket() else { return false }
    defer { close(socket) }
    return LinuxCalls.connect(socket, to: path) == 0
}

/// Leaves a socket behind as a process does that was killed.
private func leaveDeadSocket(_ path: String) throws {
    let socket = try LinuxCalls.makeUnixSocket()
    #expect(LinuxCalls.bind(socket, to: path) == 0)
    close(socket)
}

@Suite struct SocketListenerTests {
    private let directory = TemporaryDirectory("socket")
    private var path: String { directory.path + "/run/kvstore.sock" }

    @Test func `a fresh path gets a socket of the asked mode in a directory that others cannot enter`() throws {
        let listener = try SocketListener(path: path, mode: 0o660)
        #expect(isLive(path))
        #expect(try permissions(path) == 0o660)
        #expect(try permissions(directory.path + "/run") == 0o750)
        let names = try FileManager.default.contentsOfDirectory(atPath: directory.path + "/run").sorted()
        #expect(names == ["kvstore.sock", "kvstore.sock.lock"])
        listener.close()
        #expect(!FileManager.default.fileExists(atPath: path))
        // The path is free again.
        let next = try SocketListener(path: path, mode: 0o600)
        #expect(try permissions(path) == 0o600)
        next.close()
        next.close()
    }

    @Test func `a path is free once its listener closed though a child was just forked`() throws {
        let listener = try SocketListener(path: path, mode: 0o600)
        try withInheritedDescriptor(of: path + ".lock") {
            listener.close()
            try SocketListener(path: path, mode: 0o600).close()
        }
    }

    @Test func `a path that a daemon holds is refused and its socket stays`() throws {
        let listener = try SocketListener(path: path, mode: 0o660)
        #expect(message { try SocketListener(path: path, mode: 0o660) }.contains("a daemon already holds"))
        #expect(isLive(path))
        listener.close()
    }

    @Test func `a live socket of somebody without our lock is never unlinked`() throws {
        try FileManager.default.createDirectory(atPath: directory.path + "/run", withIntermediateDirectories: true)
        let socket = try LinuxCalls.makeUnixSocket()
        defer { close(socket) }
        #expect(LinuxCalls.bind(socket, to: path) == 0 && listen(socket, 1) == 0)
        #expect(message { try SocketListener(path: path, mode: 0o660) }.contains("a live process listens on"))
        #expect(isLive(path))
        // Its backlog of 1 is full now; that still is a live process.
        let second = try LinuxCalls.makeUnixSocket()
        let third = try LinuxCalls.makeUnixSocket()
        defer {
            close(second)
            close(third)
        }
        _ = LinuxCalls.connect(second, to: path)
        _ = LinuxCalls.connect(third, to: path)
        #expect(message { try SocketListener(path: path, mode: 0o660) }.contains("a live process listens on"))
    }

    @Test func `a dead socket is replaced`() throws {
        try FileManager.default.createDirectory(atPath: directory.path + "/run", withIntermediateDirectories: true)
        try leaveDeadSocket(path)
        #expect(!isLive(path))
        let listener = try SocketListener(path: path, mode: 0o660)
        #expect(isLive(path))
        listener.close()
    }

    @Test func `a file or a link in the place of the socket is refused and left alone`() throws {
        let run = directory.path + "/run"
        try FileManager.default.createDirectory(atPath: run, withIntermediateDirectories: true)
        try "precious".write(toFile: path, atomically: true, encoding: .utf8)
        #expect(message { try SocketListener(path: path, mode: 0o660) }.contains("is not a socket"))
        #expect(try String(contentsOfFile: path, encoding: .utf8) == "precious")
        try FileManager.default.removeItem(atPath: path)
        try leaveDeadSocket(directory.path + "/elsewhere")
        try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: directory.path + "/elsewhere")
        #expect(message { try SocketListener(path: path, mode: 0o660) }.contains("is a symbolic link"))
        #expect(FileManager.default.fileExists(atPath: directory.path + "/elsewhere"))
    }

    @Test func `a directory that others can write or that is a link is refused`() throws {
        let run = directory.path + "/run"
        try FileManager.default.createDirectory(atPath: run, withIntermediateDirectories: true)
        for mode in [0o770, 0o757, 0o1777] {
            try setPermissions(mode, run)
            #expect(message { try SocketListener(path: path, mode: 0o660) }.contains("other users could reach into it"))
        }
        try setPermissions(0o750, run)
        try FileManager.default.createSymbolicLink(atPath: directory.path + "/link", withDestinationPath: run)
        let linked = directory.path + "/link/kvstore.sock"
        #expect(message { try SocketListener(path: linked, mode: 0o660) }.contains("is a symbolic link"))
        let file = directory.path + "/file"
        try "".write(toFile: file, atomically: true, encoding: .utf8)
        #expect(
            message { try SocketListener(path: file + "/kvstore.sock", mode: 0o660) }.contains("is not a directory"))
    }

    @Test func `sockets and directories of another user are refused`() throws {
        guard geteuid() == 0 else {
            print("SKIPPED: only root can make files of another user")
            return
        }
        let run = directory.path + "/run"
        try FileManager.default.createDirectory(atPath: run, withIntermediateDirectories: true)
        try leaveDeadSocket(path)
        #expect(lchown(path, 12345, 12345) == 0)
        #expect(message { try SocketListener(path: path, mode: 0o660) }.contains("is a socket of uid 12345"))
        #expect(FileManager.default.fileExists(atPath: path))
        #expect(chown(run, 12345, 12345) == 0)
        #expect(message { try SocketListener(path: path, mode: 0o660) }.contains("belongs to uid 12345"))
    }

    @Test func `a path that does not fit is refused`() {
        let long = "/tmp/" + String(repeating: "x", count: 120)
        #expect(message { try SocketListener(path: long, mode: 0o660) }.contains("at most 100 fit"))
    }

    @Test func `closing leaves a socket alone that somebody put in our place`() throws {
        let listener = try SocketListener(path: path, mode: 0o660)
        try FileManager.default.removeItem(atPath: path)
        try leaveDeadSocket(path)
        listener.close()
        #expect(FileManager.default.fileExists(atPath: path))
    }

    @Test func `without systemd there is no activated socket`() throws {
        #expect(try SocketListener.activated(environment: [:]) == nil)
        // Variables that were inherited from somebody else.
        #expect(try SocketListener.activated(environment: ["LISTEN_PID": "1", "LISTEN_FDS": "1"]) == nil)
    }
}
