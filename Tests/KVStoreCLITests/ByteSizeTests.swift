import ArgumentParser
import Testing

@testable import KVStoreCLI

@Suite("Sizes as people write them")
struct ByteSizeTests {
    @Test(
        "are read in powers of 1024, in powers of 1000, and as plain bytes",
        arguments: [
            ("64KiB", 65_536), ("512MiB", 536_870_912), ("4GiB", 4_294_967_296), ("1TiB", 1_099_511_627_776),
            ("4GB", 4_000_000_000), ("1.5GiB", 1_610_612_736), ("4096", 4096), ("0", 0), ("100 MiB", 104_857_600),
            ("64kib", 65_536), ("1_000B", 1000), ("9223372036854775807", Int.max),
        ]
    )
    func areRead(text: String, byteCount: Int) throws {
        #expect(try ByteSize(parsing: text).byteCount == byteCount)
    }

    @Test(
        "that mean nothing get an error that says what to write",
        arguments: [
            ("4X", "unknown unit 'X'"), ("4G", "write GiB (powers of 1024) or GB"), ("GiB", "is not a size"),
            ("", "is not a size"), ("-1KiB", "is not a size"), ("1.2.3MB", "is not a size"),
            ("1e3", "unknown unit 'e3'"),
            ("99999999TiB", "larger than this machine"), ("1.0001KiB", "whole number of bytes"),
            ("٣KiB", "is not a size"),
        ]
    )
    func areRefused(text: String, message: String) {
        let error = #expect(throws: ValidationError.self) { try ByteSize(parsing: text) }
        #expect(error?.message.contains(message) == true, "\(error?.message ?? "")")
    }

    @Test(
        "are shown with at most two decimals",
        arguments: [(65_536, "64 KiB"), (500, "500 B"), (1_428_076_625, "1.33 GiB"), (0, "0 B")]
    )
    func areShown(byteCount: Int, text: String) {
        #expect(String(describing: ByteSize(byteCount)) == text)
    }
}

@Suite("Numbers as text")
struct NumberTextTests {
    @Test func groupThousands() {
        #expect(grouped(0) == "0")
        #expect(grouped(999) == "999")
        #expect(grouped(12_031) == "12,031")
        #expect(grouped(-1_234_567) == "-1,234,567")
    }

    @Test func roundToTheDecimalsAskedFor() {
        #expect(decimal(0.36636, digits: 4) == "0.3664")
        #expect(decimal(1.005, digits: 0) == "1")
        #expect(decimal(-0.04, digits: 1) == "0.0")
        #expect(decimal(.nan, digits: 2) == "nan")
        #expect(trimmedDecimal(1.50, digits: 2) == "1.5")
        #expect(trimmedDecimal(10, digits: 2) == "10")
    }

    @Test func chooseTheUnitOfADuration() {
        #expect(durationText(microseconds: 2.14) == "2.1 µs")
        #expect(durationText(microseconds: 3400) == "3.40 ms")
        #expect(durationText(microseconds: 200_000_000) == "3 min 20 s")
    }
}
