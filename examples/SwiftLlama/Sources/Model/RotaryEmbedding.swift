internal import Foundation

/// Rotary position embedding, the half-split form of Hugging Face's Llama: pair i of a head is (x[i], x[i + d/2]).
struct RotaryEmbedding: Sendable {
    /// The rotation of one position.
    struct Angles: Sendable {
        let cosines: [Float]
        let sines: [Float]
    }

    private let frequencies: [Double]

    init(_ configuration: ModelConfiguration) {
        let half = configuration.headDimension / 2
        frequencies = (0..<half).map { pair in
            let plain = pow(configuration.ropeTheta, -Double(pair) / Double(half))
            return Self.scaled(plain, configuration.ropeScaling)
        }
    }

    /// The angles of a position; from doubles, so that they do not depend on the kernels.
    func angles(at position: Int) -> Angles {
        let angles = frequencies.map { $0 * Double(position) }
        return Angles(cosines: angles.map { Float(cos($0)) }, sines: angles.map { Float(sin($0)) })
    }

    /// A frequency, changed as in Hugging Face's `modeling_rope_utils`.
    private static func scaled(_ frequency: Double, _ scaling: ModelConfiguration.RopeScaling) -> Double {
        switch scaling {
        case .none: return frequency
        case .linear(let factor): return frequency / factor
        case .llama3(let factor, let low, let high, let original):
            // Turns over the original context decide: few, divide; many, keep; between, blend.
            let turns = original * frequency / (2 * .pi)
            if turns < low { return frequency / factor }
            if turns > high { return frequency }
            let share = (turns - low) / (high - low)
            return (1 - share) * frequency / factor + share * frequency
        }
    }
}
