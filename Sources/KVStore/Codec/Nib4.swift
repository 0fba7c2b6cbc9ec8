/// The codecs nib4 and nib4h for bf16: the exponent as a 4-bit distance from a base, sign and mantissa as they are.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | escapes, e |
/// | 4 | 1 | base mode: 0 one base, 1 a base for each channel of each slab |
/// | 5 | 1 | mode 0: the base; mode 1: slabs in the unit, s |
/// | 6 | 2 | mode 0: 0; mode 1: channels of a slab's row, c |
/// | 8 | c·s | mode 1: the bases, slab by slab |
/// | | n | low plane: mantissa and sign of each word rotated left by one |
/// | | n/2 | code plane (nib4), or 4 bytes length z and a zstd frame of z bytes with the code plane (nib4h) |
/// | | 4·e | escapes: index in the unit, in 24 bits, and the exponent in the upper 8; indexes rise |
/// | | | tail: the raw bytes after the last whole group |
///
/// n is the unit's words, rounded down to whole groups of 64. A code is `min(base - exponent, 15)` in 8 bits without
/// sign; 15 means that an escape has the exponent. Byte k of a group's 32 holds the codes of words k and k + 32, the
/// first in its low half. Design and figures: SplitZip (arXiv 2605.01708) is the same idea for GPUs.
enum Nib4 {
    static let headerByteCount = 8
    /// Escapes name their word in 24 bits.
    static let wordLimit = 1 << 24
    /// Fewer rows do not pay for a base per channel.
    static let leastRowsForChannels = 64
    static let channelLimit = 65_535
    static let slabLimit = 255

    struct Coded: Equatable {
        var codec: UnitCodec
        var baseMode: UInt8
        var byteCount: Int
    }

    /// The parts of a payload, from its lengths.
    struct Layout: Equatable {
        var channels: Int
        var slabs: Int
        /// Words in groups.
        var words: Int
        /// Bytes after the last group.
        var tailByteCount: Int

        init(rawByteCount: Int, channels: Int = 0, slabs: Int = 0) {
            self.channels = channels
            self.slabs = slabs
            words = rawByteCount / 2 / Kernels.groupWords * Kernels.groupWords
            tailByteCount = rawByteCount - 2 * words
        }

        var baseMode: UInt8 { channels == 0 ? 0 : 1 }
        var slabWords: Int { channels == 0 ? 0 : words / slabs }
        var lowOffset: Int { headerByteCount + channels * slabs }
        var codesOffset: Int { lowOffset + words }
        var codesByteCount: Int { words / 2 }
        /// Everything but the escapes, as nib4.
        var fixedByteCount: Int { codesOffset + codesByteCount + tailByteCount }
    }
}

// MARK: Coding

extension Nib4 {
    /// Codes a unit into the start of `output`, if the result fits there and pays.
    ///
    /// - Parameters:
    ///   - wantsHuffman: nib4h; falls back to nib4 where Huffman codes save less than a sixteenth of the code plane.
    ///   - output: as many bytes as the result may have.
    static func encode(
        _ raw: UnsafeRawBufferPointer,
        place: UnitPlace,
        wantsHuffman: Bool,
        scratch: CodecScratch?,
        into output: UnsafeMutableRawBufferPointer,
        level: KernelLevel = .best
    ) -> Coded? {
        guard raw.count / 2 >= Kernels.groupWords, raw.count / 2 <= wordLimit else { return nil }
        var coder = unsafe Coder(raw: raw, output: output, level: level)
        if wantsHuffman, let scratch { coder.useScratch(scratch) }
        let layout = Layout(rawByteCount: raw.count)
        var (best, base) = coder.tryOneBase(layout)
        if best.map({ $0 > layout.words / 256 }) ?? true, let perChannel = channelLayout(place, layout) {
            let withChannels = coder.tryChannels(perChannel)
            if let withChannels, perChannel.size(withChannels) < best.map(layout.size) ?? .max {
                return coder.finish(perChannel, field: UInt8(perChannel.slabs), escapes: withChannels, scratch)
            }
            // The planes now hold the other attempt.
            if best != nil { best = coder.attempt(layout, base: base, mostEscapes: layout.words / 16) }
        }
        guard let escapes = best else { return nil }
        return coder.finish(layout, field: base, escapes: escapes, scratch)
    }

    /// The layout with a base per channel, if the unit is whole slabs, or rows, of one width that divide into groups.
    private static func channelLayout(_ place: UnitPlace, _ whole: Layout) -> Layout? {
        var parts = place.parts
        guard let first = parts.next(), first.rows >= leastRowsForChannels, first.channels <= channelLimit,
            first.rows * first.channels % Kernels.groupWords == 0
        else { return nil }
        var slabs = 1
        while let part = parts.next() {
            guard part.channels == first.channels, part.rows == first.rows, slabs < slabLimit else { return nil }
            slabs += 1
        }
        guard parts.isComplete else { return nil }
        return Layout(rawByteCount: place.byteCount, channels: first.channels, slabs: slabs)
    }

    /// One unit being coded: attempts overwrite each other's planes.
    @safe
    private struct Coder {
        let raw: UnsafeRawBufferPointer
        let output: UnsafeMutableRawBufferPointer
        let level: KernelLevel
        /// Code plane and escapes of nib4h, before they are coded further; else they go where they belong.
        private var staging: UnsafeMutableRawBufferPointer?

        init(raw: UnsafeRawBufferPointer, output: UnsafeMutableRawBufferPointer, level: KernelLevel) {
            unsafe self.raw = raw
            unsafe self.output = output
            self.level = level
            unsafe staging = nil
        }

        /// Without memory for it, the unit is coded without Huffman.
        mutating func useScratch(_ scratch: CodecScratch) {
            // A quarter of the raw bytes for the codes, at most an eighth for escapes, and twice the planes' rounding.
            unsafe staging = scratch.room(raw.count / 2)
        }

        private func groups(_ layout: Layout) -> UnsafeRawBufferPointer {
            // Safe: groups are the front of the unit.
            unsafe UnsafeRawBufferPointer(rebasing: raw[..<(2 * layout.words)])
        }

        /// Escapes with the best single base; nil when there are too many. The largest exponent is the best base unless
        /// there are outliers, and finding that out costs one pass.
        mutating func tryOneBase(_ layout: Layout) -> (escapes: Int?, base: UInt8) {
            let words = unsafe groups(layout)
            let largest = unsafe Kernels.largestExponent(of: words, level: level)
            if let few = attempt(layout, base: largest, mostEscapes: layout.words / 256) { return (few, largest) }
            let base = unsafe Kernels.commonBase(of: words, largest: largest)
            return (attempt(layout, base: base, mostEscapes: layout.words / 16), base)
        }

        func attempt(_ layout: Layout, base: UInt8, mostEscapes: Int) -> Int? {
            guard unsafe output.count >= layout.fixedByteCount else { return nil }
            unsafe output[5] = base
            // Safe: the byte stays where it is while the kernel reads it, and no plane lies over it.
            let bases = unsafe UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(output)[5..<6])
            return unsafe code(layout, Kernels.Bases(bytes: bases, channels: 0, slabWords: 0), mostEscapes)
        }

        func tryChannels(_ layout: Layout) -> Int? {
            guard unsafe output.count >= layout.fixedByteCount else { return nil }
            let slabByteCount = 2 * layout.slabWords
            // Safe: the bases' place was just checked; slabs are equal parts of the unit.
            for slab in 0..<layout.slabs {
                let first = headerByteCount + slab * layout.channels
                unsafe Kernels.channelBases(
                    of: UnsafeRawBufferPointer(rebasing: raw[slab * slabByteCount..<(slab + 1) * slabByteCount]),
                    into: UnsafeMutableRawBufferPointer(rebasing: output[first..<first + layout.channels]),
                    level: level
                )
            }
            let bases = unsafe UnsafeRawBufferPointer(rebasing: output[headerByteCount..<layout.lowOffset])
            return unsafe code(
                layout,
                Kernels.Bases(bytes: bases, channels: layout.channels, slabWords: layout.slabWords),
                layout.words / 16
            )
        }

        private func code(_ layout: Layout, _ bases: Kernels.Bases, _ mostEscapes: Int) -> Int? {
            let capacity = unsafe min(mostEscapes, (output.count - layout.fixedByteCount) / 4)
            // Safe: `fixedByteCount` and the escapes fit into the output, and half the raw bytes into the staging.
            let low = unsafe UnsafeMutableRawBufferPointer(rebasing: output[layout.lowOffset..<layout.codesOffset])
            let target = unsafe staging ?? UnsafeMutableRawBufferPointer(rebasing: output[layout.codesOffset...])
            let escapesEnd = layout.codesByteCount + 4 * capacity
            return unsafe Kernels.encodeNib4(
                groups(layout),
                bases: bases,
                low: low,
                codes: UnsafeMutableRawBufferPointer(rebasing: target[..<layout.codesByteCount]),
                escapes: UnsafeMutableRawBufferPointer(rebasing: target[layout.codesByteCount..<escapesEnd]),
                level: level
            )
        }

        /// Writes what is left around the planes of the last attempt.
        func finish(_ layout: Layout, field: UInt8, escapes: Int, _ scratch: CodecScratch?) -> Coded {
            unsafe LittleEndian.store(UInt32(escapes), to: output, at: 0)
            unsafe LittleEndian.store(layout.baseMode, to: output, at: 4)
            unsafe LittleEndian.store(field, to: output, at: 5)
            unsafe LittleEndian.store(UInt16(layout.channels), to: output, at: 6)
            var codec = UnitCodec.nib4
            var end = layout.codesOffset + layout.codesByteCount
            // Safe: nib4's size was found to fit, and nib4h is only taken when it is smaller.
            if let staging = unsafe staging, let scratch {
                let codes = unsafe UnsafeRawBufferPointer(rebasing: staging[..<layout.codesByteCount])
                let first = layout.codesOffset + 4
                let room = unsafe UnsafeMutableRawBufferPointer(
                    rebasing: output[first..<max(first, layout.codesOffset + layout.codesByteCount * 15 / 16)]
                )
                if let byteCount = unsafe scratch.huffman.encode(codes, into: room) {
                    unsafe LittleEndian.store(UInt32(byteCount), to: output, at: layout.codesOffset)
                    codec = .nib4h
                    end = first + byteCount
                } else {
                    unsafe copy(codes, to: layout.codesOffset)
                }
                let rest = layout.codesByteCount..<layout.codesByteCount + 4 * escapes
                unsafe copy(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(staging)[rest]), to: end)
            }
            end += 4 * escapes
            unsafe copy(UnsafeRawBufferPointer(rebasing: raw[(2 * layout.words)...]), to: end)
            return Coded(codec: codec, baseMode: layout.baseMode, byteCount: end + layout.tailByteCount)
        }

        private func copy(_ bytes: UnsafeRawBufferPointer, to offset: Int) {
            // Safe: slicing checks that the bytes fit.
            let target = unsafe UnsafeMutableRawBufferPointer(rebasing: output[offset..<offset + bytes.count])
            unsafe target.copyMemory(from: bytes)
        }
    }
}

extension Nib4.Layout {
    /// The whole payload as nib4.
    fileprivate func size(_ escapes: Int) -> Int { fixedByteCount + 4 * escapes }
}

// MARK: Decoding

extension Nib4 {
    /// Decodes a unit, filling `output`. Whatever the bytes, nothing outside the buffers is touched.
    ///
    /// - Throws: `undecodable`, or `noMemory`; `output` then holds anything.
    static func decode(
        _ stored: UnsafeRawBufferPointer,
        isHuffman: Bool,
        baseMode: UInt8,
        scratch: CodecScratch?,
        into output: UnsafeMutableRawBufferPointer,
        level: KernelLevel = .best
    ) throws(RecordDamage) {
        let (layout, escapes) = try unsafe header(of: stored, rawByteCount: output.count, baseMode: baseMode)
        guard layout.codesOffset + 4 <= stored.count || !isHuffman else { throw .undecodable }
        let codesStart = isHuffman ? layout.codesOffset + 4 : layout.codesOffset
        let codesByteCount =
            isHuffman
            ? Int(unsafe LittleEndian.load(stored, at: layout.codesOffset, as: UInt32.self)) : layout.codesByteCount
        let codesEnd = codesStart + codesByteCount
        let escapesEnd = codesEnd + 4 * escapes
        guard stored.count == escapesEnd + layout.tailByteCount else { throw .undecodable }

        // Safe: all ranges end at or before `stored.count`, which was just checked to be the sum of all.
        var codes = unsafe UnsafeRawBufferPointer(rebasing: stored[codesStart..<codesEnd])
        if isHuffman {
            guard let room = unsafe scratch?.room(layout.codesByteCount) else { throw .noMemory }
            let plane = unsafe UnsafeMutableRawBufferPointer(rebasing: room[..<layout.codesByteCount])
            guard try unsafe scratch?.huffman.decode(codes, into: plane) == true else { throw .undecodable }
            unsafe codes = UnsafeRawBufferPointer(plane)
        }
        let basesRange = layout.channels == 0 ? 5..<6 : headerByteCount..<layout.lowOffset
        let isDecoded = unsafe Kernels.decodeNib4(
            low: UnsafeRawBufferPointer(rebasing: stored[layout.lowOffset..<layout.codesOffset]),
            codes: codes,
            escapes: UnsafeRawBufferPointer(rebasing: stored[codesEnd..<escapesEnd]),
            bases: Kernels.Bases(
                bytes: UnsafeRawBufferPointer(rebasing: stored[basesRange]),
                channels: layout.channels,
                slabWords: layout.slabWords
            ),
            into: UnsafeMutableRawBufferPointer(rebasing: output[..<(2 * layout.words)]),
            level: level
        )
        guard isDecoded else { throw .undecodable }
        let tail = unsafe UnsafeMutableRawBufferPointer(rebasing: output[(2 * layout.words)...])
        unsafe tail.copyMemory(from: UnsafeRawBufferPointer(rebasing: stored[escapesEnd...]))
    }

    private static func header(
        of stored: UnsafeRawBufferPointer,
        rawByteCount: Int,
        baseMode: UInt8
    ) throws(RecordDamage) -> (Layout, escapes: Int) {
        guard stored.count >= headerByteCount else { throw .undecodable }
        // Safe: each load checks its offset.
        let escapes = Int(unsafe LittleEndian.load(stored, at: 0, as: UInt32.self))
        let mode: UInt8 = unsafe LittleEndian.load(stored, at: 4)
        let slabs = Int(unsafe LittleEndian.load(stored, at: 5, as: UInt8.self))
        let channels = Int(unsafe LittleEndian.load(stored, at: 6, as: UInt16.self))
        guard mode == baseMode else { throw .undecodable }
        var layout = Layout(rawByteCount: rawByteCount)
        if mode == 0 {
            guard channels == 0 else { throw .undecodable }
        } else {
            // Slabs of whole groups, and nothing after them.
            guard channels > 0, slabs > 0, layout.tailByteCount == 0, layout.words % slabs == 0,
                layout.words / slabs % Kernels.groupWords == 0, layout.words / slabs % channels == 0
            else { throw .undecodable }
            layout = Layout(rawByteCount: rawByteCount, channels: channels, slabs: slabs)
        }
        guard layout.words > 0, layout.codesOffset <= stored.count else { throw .undecodable }
        return (layout, escapes)
    }
}
