extension NamespaceIdentity {
    /// The bounds of every field. Shape fields are 16 bits wide in a stored frame.
    package enum Limits {
        package static let shapeField = 65_535
        package static let blockBytes = 1 << 30
        package static let stringBytes = 4_096
        package static let saltBytes = 1_024
        package static let additionalFields = 256
    }

    /// Checks every field.
    ///
    /// - Throws: ``KVStoreError`` with the code `invalidArgument` and all problems in its message, not just the first.
    public func validate() throws(KVStoreError) {
        let problems =
            textProblems + shapeProblems + parallelProblems + additionalProblems + sizeProblems
            + storageProblems
        guard problems.isEmpty else {
            throw KVStoreError(.invalidArgument, "namespace identity: " + problems.joined(separator: "; "))
        }
    }

    private var textProblems: [String] {
        var problems: [String] = []
        if model.isEmpty { problems.append("model is empty") }
        if layoutTag.isEmpty { problems.append("layoutTag is empty") }
        let texts = [
            ("model", model), ("revision", revision), ("layoutTag", layoutTag), ("adapter", adapter),
            ("tenant", tenant),
        ]
        for (name, text) in texts where text.utf8.count > Limits.stringBytes {
            problems.append("\(name) has \(text.utf8.count) bytes, at most \(Limits.stringBytes) are allowed")
        }
        if salt.count > Limits.saltBytes {
            problems.append("salt has \(salt.count) bytes, at most \(Limits.saltBytes) are allowed")
        }
        return problems
    }

    private var shapeProblems: [String] {
        // Of an opaque block the shape is only part of the identity, so it may be left out.
        let least = opaqueBlockByteCount == nil ? 1 : 0
        let bounds = [
            ("layers", layers, least), ("keyHeads", keyHeads, least), ("valueHeads", valueHeads, 0),
            ("keyHeadDimension", keyHeadDimension, least), ("valueHeadDimension", valueHeadDimension, 0),
            ("tokensPerBlock", tokensPerBlock, 1),
        ]
        var problems: [String] = []
        for (name, value, lowest) in bounds where value < lowest || value > Limits.shapeField {
            problems.append("\(name) is \(value), must be \(lowest)...\(Limits.shapeField)")
        }
        if valueHeads == 0, valueHeadDimension != 0 {
            problems.append(
                "valueHeads is 0 but valueHeadDimension is \(valueHeadDimension); set both to 0 for keys only"
            )
        }
        return problems
    }

    private var parallelProblems: [String] {
        var problems: [String] = []
        let groups = [
            ("tensorParallel", tensorParallelRank, tensorParallelSize),
            ("pipelineParallel", pipelineParallelRank, pipelineParallelSize),
        ]
        for (name, rank, size) in groups {
            if size < 1 || size > Limits.shapeField {
                problems.append("\(name)Size is \(size), must be 1...\(Limits.shapeField)")
            }
            if rank < 0 || rank >= max(size, 1) {
                problems.append("\(name)Rank is \(rank), must be at least 0 and less than \(name)Size (\(size))")
            }
        }
        return problems
    }

    private var additionalProblems: [String] {
        var problems: [String] = []
        if additional.count > Limits.additionalFields {
            problems.append("additional has \(additional.count) fields, at most \(Limits.additionalFields) are allowed")
        }
        for (name, field) in additional.sorted(by: { $0.key < $1.key }) {
            let shown = name.prefix(32)
            if name.isEmpty { problems.append("additional has a field without a name") }
            if name.utf8.count > Limits.stringBytes {
                problems.append("the name of additional[\"\(shown)…\"] is longer than \(Limits.stringBytes) bytes")
            }
            let byteCount =
                switch field {
                case .string(let text): text.utf8.count
                case .bytes(let bytes): bytes.count
                case .integer, .boolean: 0
                }
            if byteCount > Limits.stringBytes {
                problems.append(
                    "additional[\"\(shown)\"] has \(byteCount) bytes, at most \(Limits.stringBytes) are allowed"
                )
            }
        }
        return problems
    }

    // Quantising needs to know where channels and tokens are.
    private var storageProblems: [String] {
        guard storage == .int8 else { return [] }
        var problems: [String] = []
        if elementType != .bf16, elementType != .fp16 {
            problems.append("storage is int8, which is for bf16 and fp16 only; elementType is \(elementType)")
        }
        let hasValues = valueHeads > 0 && valueHeadDimension > 0
        if opaqueBlockByteCount != nil || layoutTag != Self.defaultLayoutTag || (hasValues && valueHeads != keyHeads) {
            problems.append(
                "storage is int8, which needs the layout \(Self.defaultLayoutTag) with as many value heads as key heads "
                    + "and no opaqueBlockByteCount"
            )
        }
        return problems
    }

    private var sizeProblems: [String] {
        if elementType == .opaque, opaqueBlockByteCount == nil {
            return ["elementType is opaque, so opaqueBlockByteCount must be given"]
        }
        guard (1...Limits.blockBytes).contains(blockByteCount) else {
            let size = blockByteCount == Int.max ? "more than an Int holds" : "\(blockByteCount)"
            return ["a block is \(size) bytes, must be 1...\(Limits.blockBytes)"]
        }
        return []
    }
}
