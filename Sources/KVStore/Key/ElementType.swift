/// How one number of a KV block is stored.
///
/// The raw value is the code in stored frames and in fingerprints, so it never changes.
public enum ElementType: UInt8, Hashable, Sendable, CaseIterable {
    /// Bytes whose meaning only the engine knows.
    case opaque = 0
    /// bfloat16.
    case bf16 = 1
    /// IEEE half precision.
    case fp16 = 2
    /// 8-bit float with 4 exponent bits.
    case fp8e4m3 = 3
    /// 8-bit integer.
    case int8 = 4
    /// IEEE single precision.
    case fp32 = 5
    /// 8-bit float with 5 exponent bits.
    case fp8e5m2 = 6

    /// The bytes of one element; 1 for ``opaque``.
    public var byteCount: Int {
        switch self {
        case .opaque, .fp8e4m3, .int8, .fp8e5m2: 1
        case .bf16, .fp16: 2
        case .fp32: 4
        }
    }
}
