import Testing

@testable import KVStore

@Suite("The choice of a codec")
struct CodecChoiceTests {
    private static let slow = WriteConditions(diskBytesPerSecond: 140e6)
    private static let middling = WriteConditions(diskBytesPerSecond: 290e6)
    private static let fast = WriteConditions(diskBytesPerSecond: 3e9)
    private static let unknown = WriteConditions()

    struct Row: Sendable {
        var type: ElementType
        /// On a disk of unknown speed, of 3000, 290 and 140 MB/s, and of 140 MB/s with a backlog.
        var expected: [UnitCodec]
    }

    private static let automatic = [
        Row(type: .bf16, expected: [.nib4, .nib4, .nib4h, .nib4h, .nib4]),
        Row(type: .fp16, expected: [.constant, .constant, .constant, .hsplit, .constant]),
        Row(type: .fp8e4m3, expected: [.constant, .constant, .constant, .hsplit, .constant]),
        Row(type: .fp8e5m2, expected: [.constant, .constant, .constant, .hsplit, .constant]),
        Row(type: .fp32, expected: [.constant, .constant, .constant, .constant, .constant]),
        Row(type: .int8, expected: [.lz4, .lz4, .lz4, .lz4, .lz4]),
        Row(type: .opaque, expected: [.lz4, .lz4, .lz4, .lz4, .lz4]),
    ]

    @Test func `Automatic by element type disk and backlog`() {
        #expect(Set(Self.automatic.map(\.type)) == Set(ElementType.allCases))
        var backlog = Self.slow
        backlog.isBacklogged = true
        for row in Self.automatic {
            for geometry in [CodecTests.shape(row.type), RecordSample.opaque(row.type)] {
                let found = [Self.unknown, Self.fast, Self.middling, Self.slow, backlog].map {
                    CodecChoice.automatic.target(for: geometry, conditions: $0)
                }
                #expect(found == row.expected, "\(row.type)")
            }
        }
    }

    @Test func `A namespace that allows loss gets it unless another codec is forced`() {
        for type in [ElementType.bf16, .fp16] {
            var geometry = CodecTests.shape(type)
            #expect(CodecChoice.int8.target(for: geometry) == CodecChoice.automatic.target(for: geometry))
            geometry.storage = .int8
            for choice in [CodecChoice.automatic, .int8] { #expect(choice.target(for: geometry) == .int8) }
            #expect(CodecChoice.raw.target(for: geometry) == .raw)
            #expect(CodecChoice.hsplit.target(for: geometry) == .hsplit)
        }
    }

    @Test func `What is forced is taken where it fits the element type`() {
        let fits: [CodecChoice: Set<ElementType>] = [
            .nib4: [.bf16], .nib4h: [.bf16], .hsplit: [.bf16, .fp16, .fp8e4m3, .fp8e5m2],
            .lz4: Set(ElementType.allCases), .raw: Set(ElementType.allCases),
        ]
        for (choice, types) in fits {
            for type in ElementType.allCases {
                let geometry = RecordSample.opaque(type)
                let own = UnitCodec.allCases.first { "\($0)" == choice.rawValue }
                let expected = types.contains(type) ? own : CodecChoice.automatic.target(for: geometry)
                #expect(choice.target(for: geometry, conditions: Self.fast) == expected, "\(choice) for \(type)")
            }
        }
    }

    @Test func `The disk's speed is the median of recent large segments`() {
        var speed = WriteSpeed()
        func note(megabytesPerSecond: Int, byteCount: Int = 8 << 20) {
            speed.note(byteCount: byteCount, nanoseconds: UInt64(byteCount) * 1_000 / UInt64(megabytesPerSecond))
        }
        #expect(speed.bytesPerSecond == nil)
        for _ in 0..<20 { note(megabytesPerSecond: 10, byteCount: (4 << 20) - 1) }
        #expect(speed.bytesPerSecond == nil, "small segments say nothing")
        note(megabytesPerSecond: 500)
        note(megabytesPerSecond: 500)
        #expect(speed.bytesPerSecond == nil)
        note(megabytesPerSecond: 9_000)
        #expect(abs(speed.bytesPerSecond! - 5e8) < 1e6, "one burst into a cache does not count")
        for _ in 0..<5 { note(megabytesPerSecond: 3_000) }
        #expect(abs(speed.bytesPerSecond! - 3e9) < 1e7)
        for _ in 0..<5 { note(megabytesPerSecond: 100) }
        #expect(abs(speed.bytesPerSecond! - 1e8) < 1e6, "what is long past is forgotten")
        let before = speed
        speed.note(byteCount: 8 << 20, nanoseconds: 0)
        #expect(speed == before)
    }

    @Test func `Lossy storage needs a shape and 16-bit floats`() throws {
        var identity = NamespaceIdentity(
            model: "m",
            layers: 2,
            keyHeads: 2,
            keyHeadDimension: 64,
            tokensPerBlock: 16,
            storage: .int8
        )
        #expect(throws: Never.self) { try identity.validate() }
        #expect(FrameGeometry(identity).storage == .int8)
        #expect("\(identity)".contains("storage: int8"))
        for type in ElementType.allCases where type != .opaque {
            identity.elementType = type
            let isAllowed = type == .bf16 || type == .fp16
            #expect(((try? identity.validate()) != nil) == isAllowed, "\(type)")
        }
        identity.elementType = .bf16
        let changes: [(inout NamespaceIdentity) -> Void] = [
            { $0.opaqueBlockByteCount = 4_096 }, { $0.layoutTag = "LTKHD" }, { $0.valueHeads = 1 },
        ]
        for change in changes {
            var changed = identity
            change(&changed)
            let error = try #require(throws: KVStoreError.self) { try changed.validate() }
            #expect(error.code == .invalidArgument && error.message.contains("storage is int8, which needs the layout"))
            changed.storage = .lossless
            #expect(throws: Never.self) { try changed.validate() }
        }
        identity.valueHeads = 0
        identity.valueHeadDimension = 0
        #expect(throws: Never.self) { try identity.validate() }
    }

    @Test func `A store that is forced to int8 refuses namespaces that do not allow it`() throws {
        let directory = DiskScratch()
        var disk = DiskConfiguration(path: directory.store, capacityBytes: 64 << 20)
        disk.codec = .int8
        let store = try BlockStore(Configuration(memoryCapacityBytes: 64 << 20, disk: disk))
        defer { store.close() }
        var identity = NamespaceIdentity(
            model: "m",
            layers: 2,
            keyHeads: 2,
            keyHeadDimension: 64,
            tokensPerBlock: 16
        )
        let error = try #require(throws: KVStoreError.self) { try store.namespace(identity) }
        #expect(error.code == .invalidArgument && error.message.contains("set its storage to int8"))
        identity.storage = .int8
        #expect(throws: Never.self) { try store.namespace(identity) }
    }
}
