/// The lossy codec int8: numbers as 8-bit multiples of a scale; a scale per channel for keys, whose outliers sit in few
/// channels, and per token for values. (The choice of axes is that of KIVI, arXiv 2402.02750.)
///
/// A unit is coded part by part, a part being a slab, or the rows of one that are in the unit; for each part the scales,
/// 2 bytes each, then a byte for each number, in the order of the numbers.
///
/// - Keys have a scale for each channel of the row, over the part's rows.
/// - Values have one for each row and group; a group is the fewest whole heads that have 64 numbers, and the last of a row
///   may have fewer. With one head of 32 numbers a group the scales would take 3 % of the result, with whole rows the
///   error would be half as large again.
///
/// A scale is a bf16 number, rounded up from a 127th of the largest magnitude. A number decodes to code times scale,
/// rounded to nearest even. There are no codes for NaN and infinity: a unit with any, or with a scale out of range, is
/// coded without loss.
enum Int8Quantiser {
    /// Rows wider than this are not quantised, so that the scratch stays small.
    static let channelLimit = 65_536
    static let leastGroup = 64

    /// The bytes of a coded unit; nil when a unit of this place cannot be coded.
    static func byteCount(_ place: UnitPlace) -> Int? {
        guard place.geometry.elementType == .bf16 || place.geometry.elementType == .fp16 else { return nil }
        var sum = 0
        var parts = place.parts
        while let part = parts.next() {
            guard part.channels <= channelLimit else { return nil }
            let shape = shape(part, place.geometry.elementType)
            sum += 2 * shape.scaleCount + shape.wordCount
        }
        return parts.isComplete ? sum : nil
    }

    /// Codes a unit into the start of `output`.
    ///
    /// - Returns: the bytes written; nil when they do not fit, or when the unit must be coded without loss.
    static func encode(
        _ raw: UnsafeRawBufferPointer,
        place: UnitPlace,
        scratch: CodecScratch,
        into output: UnsafeMutableRawBufferPointer,
        level: KernelLevel = .best
    ) -> Int? {
        precondition(raw.count == place.byteCount, "another unit")
        guard let byteCount = byteCount(place), byteCount <= output.count else { return nil }
        guard let factors = unsafe scratch.room(scratchByteCount(place)) else { return nil }
        var (rawOffset, storedOffset) = (0, 0)
        // Safe: `byteCount` walked over the same parts, which are exactly the unit, and their sum fits.
        for part in place.parts {
            let shape = shape(part, place.geometry.elementType)
            let (rawEnd, scalesEnd) = (rawOffset + 2 * shape.wordCount, storedOffset + 2 * shape.scaleCount)
            let storedEnd = scalesEnd + shape.wordCount
            let isCoded = unsafe Kernels.encodeInt8(
                UnsafeRawBufferPointer(rebasing: raw[rawOffset..<rawEnd]),
                shape: shape,
                scales: UnsafeMutableRawBufferPointer(rebasing: output[storedOffset..<scalesEnd]),
                codes: UnsafeMutableRawBufferPointer(rebasing: output[scalesEnd..<storedEnd]),
                scratch: factors,
                level: level
            )
            guard isCoded else { return nil }
            (rawOffset, storedOffset) = (rawEnd, storedEnd)
        }
        return byteCount
    }

    /// Decodes a unit, filling `output`. Any bytes of the right length decode to something.
    ///
    /// - Throws: `undecodable`, or `noMemory`; `output` then holds anything.
    static func decode(
        _ stored: UnsafeRawBufferPointer,
        place: UnitPlace,
        scratch: CodecScratch,
        into output: UnsafeMutableRawBufferPointer,
        level: KernelLevel = .best
    ) throws(RecordDamage) {
        guard output.count == place.byteCount, byteCount(place) == stored.count else { throw .undecodable }
        guard let steps = unsafe scratch.room(stepsByteCount) else { throw .noMemory }
        unsafe decodeParts(stored, place: place, steps: steps, into: output, level: level)
    }

    private static func decodeParts(
        _ stored: UnsafeRawBufferPointer,
        place: UnitPlace,
        steps: UnsafeMutableRawBufferPointer,
        into output: UnsafeMutableRawBufferPointer,
        level: KernelLevel
    ) {
        var (rawOffset, storedOffset) = (0, 0)
        // Safe: as in `encode`; both callers checked the length, or made the unit themselves.
        for part in place.parts {
            let shape = shape(part, place.geometry.elementType)
            let (rawEnd, scalesEnd) = (rawOffset + 2 * shape.wordCount, storedOffset + 2 * shape.scaleCount)
            let storedEnd = scalesEnd + shape.wordCount
            unsafe Kernels.decodeInt8(
                scales: UnsafeRawBufferPointer(rebasing: stored[storedOffset..<scalesEnd]),
                codes: UnsafeRawBufferPointer(rebasing: stored[scalesEnd..<storedEnd]),
                shape: shape,
                into: UnsafeMutableRawBufferPointer(rebasing: output[rawOffset..<rawEnd]),
                scratch: steps,
                level: level
            )
            (rawOffset, storedOffset) = (rawEnd, storedEnd)
        }
    }

    /// What a unit decodes to that `encode` has just made with the same scratch; valid until the scratch's next use.
    static func decoded(
        _ stored: UnsafeRawBufferPointer,
        place: UnitPlace,
        scratch: CodecScratch,
        level: KernelLevel = .best
    ) -> UnsafeRawBufferPointer {
        // `encode` asked for as much, so it is there.
        guard let room = unsafe scratch.room(scratchByteCount(place)) else { preconditionFailure("no unit was coded") }
        // Safe: the room is for the steps and the unit, in this order.
        let output = unsafe UnsafeMutableRawBufferPointer(
            rebasing: room[stepsByteCount..<stepsByteCount + place.byteCount]
        )
        unsafe decodeParts(stored, place: place, steps: room, into: output, level: level)
        return UnsafeRawBufferPointer(output)
    }

    private static let stepsByteCount = channelLimit * MemoryLayout<Float>.stride

    private static func scratchByteCount(_ place: UnitPlace) -> Int { stepsByteCount + place.byteCount }

    private static func shape(_ part: UnitParts.Part, _ elementType: ElementType) -> Kernels.Int8Shape {
        let heads = (leastGroup + part.headDimension - 1) / part.headDimension
        return Kernels.Int8Shape(
            rows: part.rows,
            channels: part.channels,
            group: part.isValue ? min(part.channels, heads * part.headDimension) : 0,
            isFP16: elementType == .fp16
        )
    }
}
