@testable import KVStore

/// The codecs once more, as plainly as their formats read: what the kernels are compared with, at every level.
enum CodecReference {
    static func words(_ raw: [UInt8]) -> [UInt16] {
        stride(from: 0, to: raw.count - 1, by: 2).map { UInt16(raw[$0]) | UInt16(raw[$0 + 1]) << 8 }
    }

    static func bytes(_ words: [UInt16]) -> [UInt8] {
        words.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] }
    }

    static func rotatedLeft(_ word: UInt16) -> UInt16 { word << 1 | word >> 15 }

    // MARK: nib4

    /// A payload with one base for all (`channels` 0), or with the largest exponent of each channel as its base.
    static func nib4(_ raw: [UInt8], base: UInt8, channels: Int = 0, slabs: Int = 1) -> [UInt8] {
        let all = words(raw)
        let count = all.count / 64 * 64
        let exponents = all[..<count].map { UInt8(truncatingIfNeeded: rotatedLeft($0) >> 8) }
        var bases: [UInt8] = []
        func slab(_ index: Int) -> Int { index / (count / slabs) }
        if channels > 0 {
            bases = [UInt8](repeating: 0, count: channels * slabs)
            for (index, exponent) in exponents.enumerated() {
                let place = slab(index) * channels + index % (count / slabs) % channels
                bases[place] = max(bases[place], exponent)
            }
        }
        let codes = exponents.enumerated().map { index, exponent in
            let own = channels == 0 ? base : bases[slab(index) * channels + index % (count / slabs) % channels]
            return min(own &- exponent, 15)
        }
        let escapes = codes.indices.filter { codes[$0] == 15 }
        var payload = littleEndian(UInt32(escapes.count))
        payload += channels == 0 ? [0, base] : [1, UInt8(slabs)]
        payload += [UInt8(channels & 255), UInt8(channels >> 8)] + bases
        payload += all[..<count].map { UInt8(truncatingIfNeeded: rotatedLeft($0)) }
        for group in stride(from: 0, to: count, by: 64) {
            payload += (0..<32).map { codes[group + $0] | codes[group + $0 + 32] << 4 }
        }
        for index in escapes { payload += littleEndian(UInt32(index) | UInt32(exponents[index]) << 24) }
        return payload + raw[(2 * count)...]
    }

    static func littleEndian(_ number: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) }
    }

    // MARK: int8

    static func float(_ word: UInt16, _ type: ElementType) -> Float {
        type == .bf16 ? Float(bitPattern: UInt32(word) << 16) : Float(Float16(bitPattern: word))
    }

    static func word(_ number: Float, _ type: ElementType) -> UInt16 {
        guard type == .bf16 else { return Float16(number).bitPattern }
        let bits = number.bitPattern
        return UInt16(truncatingIfNeeded: (bits &+ 0x7FFF &+ (bits >> 16 & 1)) >> 16)
    }

    /// The payload and what it decodes to.
    static func int8(_ raw: [UInt8], _ geometry: FrameGeometry) -> (payload: [UInt8], decoded: [UInt8]) {
        let type = geometry.elementType
        let numbers = words(raw).map { float($0, type) }
        var (payload, decoded, start) = ([UInt8](), [Float](repeating: 0, count: numbers.count), 0)
        let place = UnitPlace(geometry: geometry, offset: 0, byteCount: raw.count)
        for part in place.parts {
            var group = part.headDimension
            while group < 64 { group += part.headDimension }
            group = min(group, part.channels)
            // The numbers that share a scale, scale by scale.
            var sharers: [[Int]] = []
            if part.isValue {
                for row in 0..<part.rows {
                    for first in stride(from: 0, to: part.channels, by: group) {
                        let end = min(first + group, part.channels)
                        sharers.append((first..<end).map { start + row * part.channels + $0 })
                    }
                }
            } else {
                sharers = (0..<part.channels).map { channel in
                    (0..<part.rows).map { start + $0 * part.channels + channel }
                }
            }
            var codes = [UInt8](repeating: 0, count: part.rows * part.channels)
            for places in sharers {
                let largest = places.map { numbers[$0].magnitude }.max()!
                // Rounded up to bf16.
                let scale = Float(bitPattern: ((largest / 127).bitPattern &+ 0xFFFF) & 0xFFFF_0000)
                payload += [UInt8(truncatingIfNeeded: scale.bitPattern >> 16), UInt8(scale.bitPattern >> 24)]
                for place in places {
                    let factor: Float = scale == 0 ? 0 : 1 / scale
                    let code = Int8((numbers[place] * factor).rounded(.toNearestOrEven))
                    codes[place - start] = UInt8(bitPattern: code)
                    decoded[place] = Float(code) * scale
                }
            }
            payload += codes
            start += part.rows * part.channels
        }
        return (payload, bytes(decoded.map { word($0, type) }))
    }

    /// ‖decoded - raw‖ / ‖raw‖.
    static func relativeError(_ decoded: [UInt8], of raw: [UInt8], _ type: ElementType) -> Double {
        var (error, norm) = (0.0, 0.0)
        for (found, wanted) in zip(words(decoded), words(raw)) {
            let (found, wanted) = (Double(float(found, type)), Double(float(wanted, type)))
            error += (found - wanted) * (found - wanted)
            norm += wanted * wanted
        }
        return (error / norm).squareRoot()
    }
}
