import ArgumentParser
import KVStore
import Testing

@testable import KVStoreCLI

@Suite("The options of replay")
struct ReplayCommandTests {
    private func settings(_ arguments: String...) throws -> ReplaySettings {
        try ReplayCommand.parse(arguments).settings()
    }

    @Test func haveDefaultsThatJustWork() throws {
        let settings = try settings()
        #expect(settings.traces.isEmpty)
        #expect(settings.memory == .bytes(256 << 20))
        #expect(settings.disk == .bytes(4 << 30))
        #expect(settings.blockByteCount == 65_536)
        #expect(settings.waitsForSpill)
        #expect(settings.codec == .automatic)
    }

    @Test func `Codecs are taken by name`() throws {
        for codec in CodecChoice.allCases where codec != .int8 {
            #expect(try settings("--codec", codec.rawValue).codec == codec)
        }
    }

    @Test func takeCapacitiesInBytesOrBlocks() throws {
        #expect(try settings("--memory", "512MiB", "--disk", "40GB").disk == .bytes(40_000_000_000))
        #expect(try settings("--memory-blocks", "3000").memory == .blocks(3000))
        #expect(try settings("--disk-blocks", "10000").disk == .blocks(10_000))
        #expect(try settings("--disk", "0").disk == nil)
        #expect(try settings("--disk-blocks", "0").disk == nil)
        #expect(try !settings("--no-wait").waitsForSpill)
        #expect(try settings("--policy", "leaf-lru").policy == .leafLRU)
    }

    @Test(
        "that cannot be meant are refused before anything is opened",
        arguments: [
            (["--memory", "64MiB", "--memory-blocks", "5"], "either --memory or --memory-blocks"),
            (["--disk", "1GiB", "--disk-blocks", "5"], "either --disk or --disk-blocks"),
            (["--synthetic", "a.jsonl"], "either TRACE files or --synthetic"),
            (["--disk", "0", "--verify-restart"], "--verify-restart needs a disk tier"),
            (["--disk-blocks", "0", "--disk-path", "/x"], "--disk-path needs a disk tier"),
            (["--memory", "4Gib2"], "unknown unit"), (["--memory", "1MiB"], "give at least 16 MiB"),
            (["--disk", "1MiB"], "give at least 32MiB"), (["--block-bytes", "63"], "--block-bytes is 63"),
            (["--block-bytes", "2GiB"], "--block-bytes"), (["--limit", "0"], "--limit is 0"),
            (["--block-tokens", "70000"], "--block-tokens is 70000"),
            (["--memory-blocks", "0"], "--memory-blocks is 0"),
            (["--write-back", "0"], "--write-back is 0"), (["--write-back", "nan"], "--write-back"),
            (["--codec", "zip"], "choose one of: automatic, raw, lz4, nib4, nib4h, hsplit"),
            (["--codec", "int8"], "int8 is lossy, and a replay compares every byte"),
            (["--codec", "raw", "--disk", "0"], "--codec needs a disk tier"),
            (["--policy", "fifo"], "choose one of: leaf-lru, default"), (["--seed", "x"], "--seed"),
            (["--block-bytes", "8MiB", "--memory", "64MiB"], "too small for blocks of 8 MiB; give at least 288 MiB"),
        ]
    )
    func refused(arguments: [String], message: String) {
        do {
            _ = try ReplayCommand.parse(arguments)
            Issue.record("accepted \(arguments)")
        } catch {
            #expect(ReplayCommand.fullMessage(for: error).contains(message))
            #expect(ReplayCommand.exitCode(for: error).rawValue == 64)
        }
    }

    @Test func areHandedToTheChildThatWillBeKilled() {
        #expect(
            RestartTrial.childArguments(["kvstore", "replay", "--seed", "3", "--", "t.gz"], diskPath: "/d")
                == ["replay", "--restart-child", "/d", "--seed", "3", "--", "t.gz"]
        )
    }

    @Test func childMessagesAreReadOrIgnored() {
        #expect(ChildMessage("done 12 0")?.request == 12)
        #expect(ChildMessage("done 3 7")?.wrongBytes == 7)
        for noise in ["", "done", "done 1", "done -1 0", "done x 0", "undone 1 0", "done 1 0 0"] {
            #expect(ChildMessage(noise) == nil)
        }
    }

    @Test func helpTeachesByExample() {
        for command in ["kvstore replay", "kvstore plan --model", "kvstore verify", "Exit codes: 0"] {
            #expect(KVStoreCommand.helpMessage().contains(command))
        }
        let help = KVStoreCommand.helpMessage(for: ReplayCommand.self)
        #expect(help.contains("--memory-blocks 3000 --disk-blocks 10000"))
        #expect(!help.contains("restart-child"))
        // Examples stay on one line of a terminal with 80 columns.
        let examples = help.split(separator: "\n").filter { $0.hasPrefix("  kvstore ") }
        #expect(examples.count == 5)
    }
}
