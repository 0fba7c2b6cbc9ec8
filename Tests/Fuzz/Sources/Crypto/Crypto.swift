/// Stands in for swift-crypto, which takes minutes to build: the files under test need the type to compile, but nothing
/// that is fuzzed computes a key.
public struct SHA256 {
    /// Nothing to prepare.
    public init() {}

    /// Does nothing.
    public mutating func update(bufferPointer: UnsafeRawBufferPointer) {}

    /// 32 zeros.
    public func finalize() -> [UInt8] { [UInt8](repeating: 0, count: 32) }
}
