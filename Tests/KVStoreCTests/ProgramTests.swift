import Foundation
import KVStoreTestSupport
import Testing

// Each test is one part of Tests/CABIProgram, a C program that ends with 1 and a line where something did not hold.

@Suite struct `The C interface, from C` {
    @Test func `A store is opened and written and read in place and closed and found again on disk`() throws {
        let directory = TemporaryDirectory("cabi")
        try BuiltPrograms.expectOK(["lifecycle", directory.path + "/store"])
    }

    @Test func `Blocks are found by keys that the caller made`() throws { try BuiltPrograms.expectOK(["keys"]) }

    @Test func `Every bad argument is refused with its status`() throws {
        let directory = TemporaryDirectory("cabi")
        try BuiltPrograms.expectOK(["negative", directory.path])
    }

    @Test func `Closed and made up and foreign handles are refused by every function`() throws {
        try BuiltPrograms.expectOK(["handles"])
    }

    @Test func `A child of a fork is told so and works with a store of its own`() throws {
        try BuiltPrograms.expectOK(["fork"])
    }

    @Test func `A child of a process with a disk works on memory, says why, and does not hang`() throws {
        let directory = TemporaryDirectory("cabi")
        try BuiltPrograms.expectOK(["fork", directory.path])
    }

    @Test func `A handle that threads use and close at once is closed by exactly one of them`() throws {
        try BuiltPrograms.expectOK(["threads"])
    }

    @Test func `Random calls never trap`() throws {
        let calls = TestScale.pick(default: 200_000, full: 10_000_000)
        let directory = TemporaryDirectory("cabi")
        try BuiltPrograms.expectOK(["fuzz", "\(TestScale.seed)", "\(calls)", "4", directory.path + "/store"])
    }

    @Test func `A daemon is written to and read from`() throws {
        let daemon = try ServedDaemon()
        try BuiltPrograms.expectOK(["daemon", daemon.socketPath])
    }

    @Test func `A daemon that is not there or does not answer is unavailable and a miss`() throws {
        try BuiltPrograms.expectOK(["no-daemon", "/nonexistent/kvstore.sock"])
        let daemon = try ServedDaemon()
        daemon.signal(SIGSTOP)
        try BuiltPrograms.expectOK(["no-daemon", daemon.socketPath])
    }
}
