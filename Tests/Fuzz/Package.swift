// swift-tools-version: 6.2
import PackageDescription

// The codecs' and the protocol's own source files, by symbolic links, so that what is fuzzed is what is shipped, without RocksDB and
// BoringSSL. Apart from the root package because its flags are not for anybody else. See run.sh.
let findsBadAddresses = Context.environment["KVSTORE_FUZZ_ADDRESS"] == "1"
let sanitizers = findsBadAddresses ? ["-sanitize=fuzzer,address"] : ["-sanitize=fuzzer"]
let sanitizersOfC = findsBadAddresses ? "-fsanitize=fuzzer-no-link,address" : "-fsanitize=fuzzer-no-link"

let coverage: [SwiftSetting] = [
    .unsafeFlags(sanitizers + ["-parse-as-library"]),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableExperimentalFeature("Lifetimes"),
]

let package = Package(
    name: "kvstore-fuzz",
    targets: [
        .systemLibrary(name: "CLZ4", pkgConfig: "liblz4"),
        .systemLibrary(name: "CXXHash", pkgConfig: "libxxhash"),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd"),
        .target(name: "Crypto"),
        .target(name: "CKernels", cSettings: [.unsafeFlags([sanitizersOfC])]),
        .executableTarget(
            name: "CodecFuzz",
            dependencies: ["CLZ4", "CXXHash", "CZstd", "CKernels", "Crypto"],
            swiftSettings: coverage,
            linkerSettings: [.unsafeFlags(sanitizers)]
        ),
        // The keys and identities that frames carry, as a module of the name that their users import.
        .target(name: "KVStore", dependencies: ["Crypto"], swiftSettings: coverage),
        .executableTarget(
            name: "FrameFuzz",
            dependencies: ["KVStore"],
            swiftSettings: coverage,
            linkerSettings: [.unsafeFlags(sanitizers)]
        ),
    ],
    swiftLanguageModes: [.v6]
)
