/// The sum of all comparisons of a replay, and the first few faults in words.
struct PayloadVerification: Hashable, Sendable {
    private(set) var verifiedBytes = 0
    private(set) var wrongBytes = 0
    private(set) var wrongBlocks = 0
    private(set) var examples: [String] = []
    private static let exampleLimit = 5

    /// Counts one block; `place` is only made for a fault.
    mutating func record(_ fault: PayloadFault?, byteCount: Int, place: () -> String) {
        verifiedBytes += byteCount
        guard let fault else { return }
        wrongBytes += fault.wrongBytes
        wrongBlocks += 1
        guard examples.count < Self.exampleLimit else { return }
        let other = fault.foundBlock.map { "; the bytes say they are block id \($0)" } ?? ""
        examples.append("\(place()): \(fault.wrongBytes) wrong bytes from offset \(fault.firstOffset)\(other)")
    }
}
