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
        .executable(name: "kvstore", targets: ["KVStoreCLI"]),
        .executable(name: "kvstore-bench", targets: ["KVStoreBench"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
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
        .executableTarget(
            name: "KVStoreCLI",
            dependencies: [
                "KVStore", "CZlib",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: sourceSettings
        ),
        .executableTarget(
            name: "KVStoreBench",
            dependencies: [
                "KVStore", "CRocksDB",
                .product(name: "Crypto", package: "swift-crypto"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "bench/KVStoreBench"
        ),
        .target(name: "KVStoreTestSupport", dependencies: ["KVStore"], path: "Tests/KVStoreTestSupport"),
        .testTarget(name: "KVStoreTests", dependencies: ["KVStore", "KVStoreTestSupport", "CRocksDB"]),
        .testTarget(name: "KVStoreCLITests", dependencies: ["KVStoreCLI"], exclude: ["Golden"]),
        .testTarget(name: "KVStoreBenchTests", dependencies: ["KVStoreBench"], exclude: ["Golden"]),
        .executableTarget(
            name: "CrashWorker",
            dependencies: ["KVStore", "KVStoreTestSupport"],
            path: "Tests/CrashWorker"
        ),
        .testTarget(name: "IntegrationTests", dependencies: ["KVStore", "KVStoreTestSupport", "CrashWorker"]),
    ],
    swiftLanguageModes: [.v6]
)
