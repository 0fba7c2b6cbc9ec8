import Glibc

// SwiftPM renames an executable's main after its module and wants it to be there, so libFuzzer's own cannot be used.

@_silgen_name("LLVMFuzzerRunDriver")
private func runFuzzer(
    _ count: UnsafeMutablePointer<CInt>,
    _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ body: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

/// Runs libFuzzer, or writes the corpus it starts from.
@_cdecl("CodecFuzz_main")
public func main(_ count: CInt, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> CInt {
    if count == 3, let option = arguments[1], let folder = arguments[2], strcmp(option, "--write-corpus") == 0 {
        writeCorpus(String(cString: folder))
        return 0
    }
    var count = count
    var arguments = arguments
    return runFuzzer(&count, &arguments, fuzzOneInput)
}

/// The inputs to start from: a record of each codec, and a block to be stored for each codec and type.
private func writeCorpus(_ folder: String) {
    func write(_ name: String, _ bytes: [UInt8]) {
        guard let file = fopen(folder + "/" + name, "w") else { fatalError("cannot write to \(folder)") }
        fwrite(bytes, 1, bytes.count, file)
        fclose(file)
    }
    // Exponents of which each is half as frequent as the next.
    let kv = (0..<1_024).flatMap { index -> [UInt8] in
        let noise = UInt32(truncatingIfNeeded: index) &* 2_654_435_761
        let exponent = UInt16(127 - min(12, (noise | 1 << 12).trailingZeroBitCount))
        let rest = UInt16(truncatingIfNeeded: noise >> 16)
        let word = exponent << 7 | (rest & 0x7F) | (rest & 0x80) << 8
        return [UInt8(truncatingIfNeeded: word), UInt8(word >> 8)]
    }
    // One channel of eight far above the others, for bases per channel.
    let loud = kv.indices.map { $0 % 16 == 7 ? kv[$0] &+ 20 : kv[$0] }
    let text = Array(String(repeating: "the quick brown fox; ", count: 20).utf8)
    let key = BlockKey(word0: 1, word1: 2, word2: 3, word3: 4)
    for (name, raw) in [("kv", kv), ("loud", loud), ("text", text), ("zero", [UInt8](repeating: 0, count: 500))] {
        for (number, codec) in CodecChoice.allCases.enumerated() {
            let isShaped = raw.count == 2_048
            let geometry = FrameGeometry(
                elementType: isShaped ? .bf16 : .opaque,
                tokens: 64,
                layers: 1,
                keyHeads: 1,
                headDimension: 8,
                layout: isShaped ? .layerKindTokenHeadDimension : .opaque,
                storage: codec == .int8 && isShaped ? .int8 : .lossless
            )
            let most = BlockRecord.maximumByteCount(rawByteCount: raw.count, geometry: geometry)
            let record = [UInt8](unsafeUninitializedCapacity: most) { room, count in
                count = raw.withUnsafeBytes { raw in
                    BlockRecord.encode(
                        RecordIdentity(key: key, parent: key, fingerprint: key, sequence: 1),
                        geometry: geometry,
                        codec: codec,
                        raw: raw,
                        rawDigest: nil,
                        into: UnsafeMutableRawBufferPointer(room)
                    )
                }
            }
            if isShaped || codec == .lz4 { write("record-\(name)-\(codec)", [2] + record) }
            for shape in [1, 33, 97] as [UInt8] where isShaped && name == "kv" {
                write("block-\(name)-\(codec)-\(shape)", [shape | UInt8(number) << 2] + raw.prefix(512))
            }
        }
    }
}
