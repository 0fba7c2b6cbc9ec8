// swift-tools-version: 6.2
import PackageDescription

// Strict memory safety and warnings as errors hold for everything we ship; tests are left out of the first so that
// they stay readable (https://github.com/swiftlang/swift-evolution/blob/main/proposals/0458-strict-memory-safety.md).
let sourceSettings: [SwiftSetting] = [
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    // Spans that borrow from a noncopyable lease; the same flag swift-nio and swift-collections build with.
    .enableExperimentalFeature("Lifetimes"),
]

let package = Package(
    name: "kvstore",
    products: [
        .library(name: "KVStore", targets: ["KVStore"]),
        // Not `kvstore`: of two products with one name SwiftPM drops the second.
        .library(name: "kvstore_c", type: .dynamic, targets: ["KVStoreC"]),
        .executable(name: "kvstore", targets: ["KVStoreCLI"]),
        .executable(name: "kvstore-bench", targets: ["KVStoreBench"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        .systemLibrary(name: "CRocksDB", pkgConfig: "rocksdb", providers: [.apt(["librocksdb-dev"])]),
        .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        .systemLibrary(name: "CXXHash", pkgConfig: "libxxhash", providers: [.apt(["libxxhash-dev"])]),
        .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        .target(name: "CLinux"),
        .target(name: "CKernels"),
        .target(
            name: "KVStore",
            dependencies: [
                "CRocksDB", "CLZ4", "CZstd", "CXXHash", "CLinux", "CKernels",
                .product(name: "Crypto", package: "swift-crypto"),
                .product(name: "DequeModule", package: "swift-collections"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
            ],
            swiftSettings: sourceSettings
        ),
        .target(name: "KVStoreIPC", dependencies: ["KVStore", "CLinux"], swiftSettings: sourceSettings),
        .target(name: "CKVStore"),
        .target(name: "KVStoreC", dependencies: ["KVStore", "KVStoreIPC", "CKVStore"], swiftSettings: sourceSettings),
        .target(
            name: "KVStoreServer",
            dependencies: [
                "KVStore", "KVStoreIPC", "CLinux",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
                .product(name: "Yams", package: "Yams"),
            ],
            swiftSettings: sourceSettings
        ),
        .executableTarget(
            name: "KVStoreCLI",
            dependencies: [
                "KVStore", "KVStoreIPC", "KVStoreServer", "CZlib",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: sourceSettings
        ),
        .executableTarget(
            name: "KVStoreBench",
            dependencies: [
                "KVStore", "KVStoreIPC", "KVStoreServer", "CRocksDB",
                .product(name: "Crypto", package: "swift-crypto"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "bench/KVStoreBench"
        ),
        .target(name: "KVStoreTestSupport", dependencies: ["KVStore"], path: "Tests/KVStoreTestSupport"),
        .testTarget(name: "KVStoreTests", dependencies: ["KVStore", "KVStoreTestSupport", "CRocksDB"]),
        .testTarget(name: "KVStoreIPCTests", dependencies: ["KVStoreIPC", "KVStoreTestSupport"]),
        .testTarget(
            name: "KVStoreServerTests",
            dependencies: [
                "KVStoreServer", "KVStoreIPC", "KVStoreTestSupport",
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "Logging", package: "swift-log"),
            ]
        ),
        .executableTarget(name: "CABIProgram", dependencies: ["KVStoreC", "CKVStore"], path: "Tests/CABIProgram"),
        .testTarget(
            name: "KVStoreCTests",
            dependencies: ["KVStoreC", "KVStoreTestSupport", "CABIProgram", "KVStoreCLI"]
        ),
        .testTarget(name: "KVStoreCLITests", dependencies: ["KVStoreCLI"], exclude: ["Golden"]),
        .testTarget(name: "KVStoreBenchTests", dependencies: ["KVStoreBench"], exclude: ["Golden"]),
        .executableTarget(
            name: "CrashWorker",
            dependencies: ["KVStore", "KVStoreIPC", "KVStoreTestSupport"],
            path: "Tests/CrashWorker"
        ),
        .testTarget(
            name: "IntegrationTests",
            dependencies: ["KVStore", "KVStoreIPC", "KVStoreCLI", "KVStoreTestSupport", "CrashWorker", "CLinux"]
        ),
    ],
    swiftLanguageModes: [.v6]
)
