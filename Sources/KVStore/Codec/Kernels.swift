import CKernels

// The only file that imports CKernels. Each wrapper checks the lengths that its kernel takes for granted.

/// The instructions that the kernels use. All levels give the same bytes.
enum KernelLevel: Int32, CaseIterable, Comparable, Sendable {
    case portable = 0
    case avx2 = 1
    case avx512 = 2

    /// The highest that this processor has.
    static let best = KernelLevel(rawValue: ckernels_best_level()) ?? .portable

    /// All that this processor has.
    static var available: [KernelLevel] { allCases.filter { $0 <= best } }

    static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
}

/// The inner loops of nib4, hsplit and int8, and of taking blocks over from clients.
enum Kernels {
    /// Words that nib4 codes together.
    static let groupWords = 64

    // MARK: Planes

    /// Rotates each word left by one bit; its low byte goes to `low`, its high byte to `high`.
    static func split(
        _ words: UnsafeRawBufferPointer,
        low: UnsafeMutableRawBufferPointer,
        high: UnsafeMutableRawBufferPointer,
        level: KernelLevel
    ) {
        let count = words.count / 2
        precondition(low.count >= count && high.count >= count, "the planes are too small")
        guard let source = words.baseAddress, let low = low.baseAddress, let high = high.baseAddress else { return }
        // Safe: the kernel reads 2 · count bytes and writes count to each plane, as was checked.
        unsafe ckernels_split(
            level.rawValue,
            source,
            count,
            low.assumingMemoryBound(to: UInt8.self),
            high.assumingMemoryBound(to: UInt8.self)
        )
    }

    /// The inverse of ``split(_:low:high:level:)``; `words` says how many.
    static func merge(
        low: UnsafeRawBufferPointer,
        high: UnsafeRawBufferPointer,
        into words: UnsafeMutableRawBufferPointer,
        level: KernelLevel
    ) {
        let count = words.count / 2
        precondition(low.count >= count && high.count >= count, "the planes are too small")
        guard let target = words.baseAddress, let low = low.baseAddress, let high = high.baseAddress else { return }
        // Safe: the kernel reads count bytes of each plane and writes 2 · count, as was checked.
        unsafe ckernels_merge(
            level.rawValue,
            low.assumingMemoryBound(to: UInt8.self),
            high.assumingMemoryBound(to: UInt8.self),
            count,
            target
        )
    }

    // MARK: Copies

    /// Copies `source`, which others may be writing, to `cached` and the same bytes to `streamed`, past the caches.
    /// `copiesAreDone` comes before anybody else is told of them.
    static func copyTwice(
        _ source: UnsafeRawBufferPointer,
        cached: UnsafeMutableRawBufferPointer,
        streamed: UnsafeMutableRawBufferPointer,
        level: KernelLevel
    ) {
        precondition(cached.count >= source.count && streamed.count >= source.count, "a target is too small")
        guard let from = source.baseAddress, let near = cached.baseAddress, let far = streamed.baseAddress else {
            return
        }
        // Safe: the kernel reads source.count bytes and writes as many to each target, as was checked.
        unsafe ckernels_copy_twice(level.rawValue, from, near, far, source.count)
    }

    static func copiesAreDone() { ckernels_copies_done() }

    // MARK: nib4

    /// Where exponents are counted from: one base, or one for each channel of each slab.
    @safe
    struct Bases {
        let bytes: UnsafeRawBufferPointer
        /// 0 for one base.
        let channels: Int
        /// Words of one slab, a multiple of 64; 0 for one base.
        let slabWords: Int

        /// - Precondition: with channels, `bytes` holds them for every slab of `wordCount` words.
        fileprivate func checked(for wordCount: Int) -> ckernels_bases {
            unsafe precondition(wordCount % groupWords == 0 && bytes.count >= 1, "not whole groups")
            if channels > 0 {
                precondition(slabWords > 0 && slabWords % groupWords == 0, "a slab must be whole groups")
                unsafe precondition(bytes.count / channels >= (wordCount + slabWords - 1) / slabWords, "too few bases")
            }
            // Safe: `bytes` is not empty, and long enough for all that the kernels look up.
            return unsafe ckernels_bases(
                bases: bytes.baseAddress!.assumingMemoryBound(to: UInt8.self),
                channels: channels,
                slab_words: slabWords
            )
        }
    }

    /// The largest exponent of some bf16 words.
    static func largestExponent(of words: UnsafeRawBufferPointer, level: KernelLevel) -> UInt8 {
        guard let source = words.baseAddress else { return 0 }
        // Safe: reads 2 · count bytes.
        return unsafe ckernels_nib4_largest_exponent(level.rawValue, source, words.count / 2)
    }

    /// The base, at most `largest`, that leaves the fewest of a sample of the words outside its 15 exponents.
    static func commonBase(of words: UnsafeRawBufferPointer, largest: UInt8) -> UInt8 {
        guard let source = words.baseAddress, words.count >= 2 else { return largest }
        // Safe: samples lie among 2 · count bytes.
        return unsafe ckernels_nib4_common_base(source, words.count / 2, largest)
    }

    /// The largest exponent of each channel: `bases.count` channels, rows as `words` has.
    static func channelBases(
        of words: UnsafeRawBufferPointer,
        into bases: UnsafeMutableRawBufferPointer,
        level: KernelLevel
    ) {
        precondition(bases.count > 0 && words.count % (2 * bases.count) == 0, "not whole rows")
        guard let source = words.baseAddress, let target = bases.baseAddress else { return }
        // Safe: rows · channels words are all of `words`; one base is written per channel.
        unsafe ckernels_nib4_channel_bases(
            level.rawValue,
            source,
            words.count / (2 * bases.count),
            bases.count,
            target.assumingMemoryBound(to: UInt8.self)
        )
    }

    /// Codes whole groups of words.
    ///
    /// - Parameters:
    ///   - low: a byte for each word.
    ///   - codes: half a byte for each word.
    ///   - escapes: 4 bytes for each escape that is allowed.
    /// - Returns: the escapes, or nil when there are more; what was written is then of no use.
    static func encodeNib4(
        _ words: UnsafeRawBufferPointer,
        bases: Bases,
        low: UnsafeMutableRawBufferPointer,
        codes: UnsafeMutableRawBufferPointer,
        escapes: UnsafeMutableRawBufferPointer,
        level: KernelLevel
    ) -> Int? {
        let count = words.count / 2
        precondition(low.count >= count && codes.count >= count / 2, "the planes are too small")
        let checked = unsafe bases.checked(for: count)
        guard let source = words.baseAddress, let low = low.baseAddress, let codes = codes.baseAddress else { return 0 }
        let capacity = escapes.count / 4
        // An empty buffer may have no address; nothing is written to it then.
        let escapeTarget = unsafe escapes.baseAddress ?? low
        // Safe: count words are read, and written are at most what was checked and `capacity` escapes.
        let found = unsafe ckernels_nib4_encode(
            level.rawValue,
            source,
            count,
            checked,
            low.assumingMemoryBound(to: UInt8.self),
            codes.assumingMemoryBound(to: UInt8.self),
            escapeTarget.assumingMemoryBound(to: UInt8.self),
            capacity
        )
        return found > capacity ? nil : found
    }

    /// Decodes whole groups of words, as many as `words` holds.
    ///
    /// - Returns: false when an escape's place is impossible.
    static func decodeNib4(
        low: UnsafeRawBufferPointer,
        codes: UnsafeRawBufferPointer,
        escapes: UnsafeRawBufferPointer,
        bases: Bases,
        into words: UnsafeMutableRawBufferPointer,
        level: KernelLevel
    ) -> Bool {
        let count = words.count / 2
        precondition(low.count >= count && codes.count >= count / 2, "the planes are too small")
        let checked = unsafe bases.checked(for: count)
        guard let target = words.baseAddress, let low = low.baseAddress, let codes = codes.baseAddress else {
            return escapes.count == 0
        }
        let escapeSource = unsafe escapes.baseAddress ?? low
        // Safe: as in `encodeNib4`; the kernel checks the escapes' places.
        return unsafe ckernels_nib4_decode(
            level.rawValue,
            low.assumingMemoryBound(to: UInt8.self),
            codes.assumingMemoryBound(to: UInt8.self),
            count,
            checked,
            escapeSource.assumingMemoryBound(to: UInt8.self),
            escapes.count / 4,
            target
        )
    }
}

// MARK: int8

extension Kernels {
    /// The numbers of one slab, or of some rows of it.
    struct Int8Shape {
        var rows: Int
        /// Numbers of a row.
        var channels: Int
        /// 0: a scale for each channel (keys). Else one for so many numbers of each row (values).
        var group: Int
        var isFP16: Bool

        var scaleCount: Int { group == 0 ? channels : rows * ((channels + group - 1) / group) }
        var wordCount: Int { rows * channels }
        var scratchByteCount: Int { channels * MemoryLayout<Float>.stride }

        fileprivate var forKernel: ckernels_int8_shape {
            ckernels_int8_shape(rows: rows, channels: channels, group: group, is_fp16: isFP16)
        }
    }

    /// Quantises `words`, whose count is that of the shape.
    ///
    /// - Parameters:
    ///   - scales: 2 bytes for each scale.
    ///   - codes: a byte for each word.
    ///   - scratch: ``Int8Shape/scratchByteCount`` bytes, aligned for `Float`.
    /// - Returns: false when a scale would be out of range, as with NaN.
    static func encodeInt8(
        _ words: UnsafeRawBufferPointer,
        shape: Int8Shape,
        scales: UnsafeMutableRawBufferPointer,
        codes: UnsafeMutableRawBufferPointer,
        scratch: UnsafeMutableRawBufferPointer,
        level: KernelLevel
    ) -> Bool {
        precondition(words.count == 2 * shape.wordCount && shape.wordCount > 0, "another shape")
        precondition(scales.count >= 2 * shape.scaleCount && codes.count >= shape.wordCount, "no room for the codes")
        precondition(scratch.count >= shape.scratchByteCount, "no room for the factors")
        // Safe: all three lengths follow from the shape and were checked; none is 0.
        return unsafe ckernels_int8_encode(
            level.rawValue,
            words.baseAddress!,
            shape.forKernel,
            scales.baseAddress!.assumingMemoryBound(to: UInt8.self),
            codes.baseAddress!.assumingMemoryBound(to: Int8.self),
            scratch.baseAddress!.assumingMemoryBound(to: Float.self)
        )
    }

    /// The inverse of `encodeInt8`, for any scales and codes.
    static func decodeInt8(
        scales: UnsafeRawBufferPointer,
        codes: UnsafeRawBufferPointer,
        shape: Int8Shape,
        into words: UnsafeMutableRawBufferPointer,
        scratch: UnsafeMutableRawBufferPointer,
        level: KernelLevel
    ) {
        precondition(words.count == 2 * shape.wordCount && shape.wordCount > 0, "another shape")
        precondition(scales.count >= 2 * shape.scaleCount && codes.count >= shape.wordCount, "too few codes")
        precondition(scratch.count >= shape.scratchByteCount, "no room for the factors")
        // Safe: as in `encodeInt8`.
        unsafe ckernels_int8_decode(
            level.rawValue,
            scales.baseAddress!.assumingMemoryBound(to: UInt8.self),
            codes.baseAddress!.assumingMemoryBound(to: Int8.self),
            shape.forKernel,
            words.baseAddress!,
            scratch.baseAddress!.assumingMemoryBound(to: Float.self)
        )
    }
}
