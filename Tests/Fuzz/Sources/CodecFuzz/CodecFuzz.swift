// What libFuzzer calls, once per input. The first byte says what is done with the rest:
//
//   bit 0     0: the rest is a record as it lies on disk. 1: the rest is a block to be stored and read back.
//   bit 1     records: digests are made right first, or nothing would ever get past them
//   bits 2-4  blocks: the codec
//   bit 5     blocks: with a shape, else opaque
//   bits 6-7  blocks: the element type
//
// A crash is a finding, and so is a block that comes back different. Memory is as long as it has to be, so that the
// address sanitizer of the other build (run.sh --address) sees every byte too far.

/// Reads or stores one input; a finding is a crash.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 1 else { return 0 }
    let input = UnsafeRawBufferPointer(start: start + 1, count: count - 1)
    if start[0] & 1 == 0 {
        readRecord(input, resealing: start[0] & 2 != 0)
    } else {
        storeBlock(input, mode: start[0])
    }
    return 0
}

// MARK: Records

private func readRecord(_ input: UnsafeRawBufferPointer, resealing: Bool) {
    let record = UnsafeMutableRawBufferPointer.allocate(byteCount: input.count, alignment: 16)
    defer { record.deallocate() }
    record.copyMemory(from: input)
    if resealing { reseal(record) }
    let bytes = UnsafeRawBufferPointer(record)
    _ = try? BlockRecord.verify(bytes)
    // What a reader expects is in the index; take it from the record, or nothing gets further.
    guard let found = try? BlockRecord.inspect(bytes), found.rawByteCount <= 1 << 24 else { return }
    let slot = UnsafeMutableRawBufferPointer.allocate(byteCount: found.rawByteCount, alignment: 16)
    defer { slot.deallocate() }
    let digest = try? BlockRecord.decode(
        bytes,
        expectingKey: found.identity.key,
        fingerprint: found.identity.fingerprint,
        into: slot
    )
    if let digest { precondition(digest == XXH3.digest(UnsafeRawBufferPointer(slot)), "a block nobody vouches for") }
}

/// As somebody would who wants a bad record to be believed. The digest of the raw bytes stays wrong: by then every codec
/// has run.
private func reseal(_ record: UnsafeMutableRawBufferPointer) {
    guard record.count >= 224 else { return }
    func digest(_ range: Range<Int>) -> UInt64 { XXH3.digest(UnsafeRawBufferPointer(rebasing: record[range])) }
    record.copyBytes(from: Array("KVR1".utf8) + [1, 0])
    for (offset, byte) in zip(128..., Array("KVF1".utf8) + [1]) { record[offset] = byte }
    LittleEndian.store(digest(224..<record.count), to: record, at: 128 + 48)
    LittleEndian.store(UInt32(truncatingIfNeeded: digest(128..<220)), to: record, at: 128 + 92)
    let rawDigest: UInt64 = LittleEndian.load(UnsafeRawBufferPointer(record), at: 128 + 40)
    LittleEndian.store(rawDigest, to: record, at: 112)
    LittleEndian.store(digest(0..<120), to: record, at: 120)
}

// MARK: Blocks

private func storeBlock(_ input: UnsafeRawBufferPointer, mode: UInt8) {
    let codecs = CodecChoice.allCases
    let codec = codecs[Int(mode >> 2 & 7) % codecs.count]
    let types: [ElementType] = [.bf16, .fp16, .fp8e4m3, .fp32]
    let type = types[Int(mode >> 6)]
    var geometry = FrameGeometry(
        elementType: type,
        tokens: 16,
        layers: 0,
        keyHeads: 0,
        headDimension: 0,
        layout: .opaque
    )
    var byteCount = input.count
    if mode & 32 != 0 {
        // As many rows as the input fills, of a width that its length decides.
        let dimension = UInt16(1 + input.count % 37)
        let tokens = input.count / (2 * 2 * Int(dimension) * type.byteCount)
        guard tokens > 0, tokens <= 65_535 else { return }
        geometry = FrameGeometry(
            elementType: type,
            tokens: UInt16(tokens),
            layers: 1,
            keyHeads: 2,
            headDimension: dimension,
            storage: codec == .int8 && type.byteCount == 2 ? .int8 : .lossless
        )
        byteCount = geometry.rawByteCount!
    }
    let raw = UnsafeRawBufferPointer(rebasing: input[..<byteCount])
    let key = BlockKey(word0: 1, word1: 2, word2: 3, word3: 4)
    let most = BlockRecord.maximumByteCount(rawByteCount: byteCount, geometry: geometry)
    let room = UnsafeMutableRawBufferPointer.allocate(byteCount: most, alignment: 16)
    let slot = UnsafeMutableRawBufferPointer.allocate(byteCount: byteCount, alignment: 16)
    defer {
        room.deallocate()
        slot.deallocate()
    }
    let written = BlockRecord.encode(
        RecordIdentity(key: key, parent: key, fingerprint: key, sequence: 1),
        geometry: geometry,
        codec: codec,
        // A slow disk, on which `automatic` has the most choices.
        conditions: WriteConditions(diskBytesPerSecond: 5e8),
        raw: raw,
        rawDigest: nil,
        into: room
    )
    let record = UnsafeRawBufferPointer(rebasing: room[..<written])
    do {
        _ = try BlockRecord.decode(record, expectingKey: key, fingerprint: key, into: slot)
        try BlockRecord.verify(record)
    } catch {
        fatalError("what was stored cannot be read: \(error)")
    }
    let isLossy = room[128 + 7] & 1 == 1
    precondition(isLossy || slot.elementsEqual(raw), "another block came back")
}
