import Foundation
import KVStoreTestSupport
import Testing

@Suite struct `kvstore.h` {
    static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().path

    @Test(arguments: [
        ["-x", "c", "-std=c11"], ["-x", "c", "-std=c17"], ["-x", "c++", "-std=c++17"], ["-x", "c++", "-std=c++20"],
    ])
    func `The header is clean C and C++`(_ language: [String]) throws {
        let directory = TemporaryDirectory("header")
        let source = directory.path + "/source"
        // Twice: it guards itself. The structs' sizes are the ABI: a field that moved breaks programs that were built.
        let text = """
            #include "kvstore.h"
            #include "kvstore.h"
            #define SIZE(type, size) extern char type##_size[sizeof(type) == size ? 1 : -1];
            SIZE(kvstore_options, 56)
            SIZE(kvstore_connect_options, 56)
            SIZE(kvstore_identity, 128)
            SIZE(kvstore_field, 40)
            SIZE(kvstore_namespace_info, 48)
            SIZE(kvstore_block_extra, 24)
            SIZE(kvstore_prefix, 64)
            SIZE(kvstore_match, 32)
            SIZE(kvstore_flush_result, 24)
            int main(void) {
                kvstore_prefix tokens = kvstore_prefix_of_tokens(NULL, 0), keys = kvstore_prefix_of_keys(NULL, 0, 32);
                return (int)(tokens.key_count + keys.token_count) + KVSTORE_OK;
            }
            """
        try text.write(toFile: source, atomically: true, encoding: .utf8)
        for compiler in ["clang", "cc"] {
            let flags = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-I", Self.root + "/Sources/CKVStore/include"]
            let arguments = [compiler] + flags + language + ["-c", source, "-o", "/dev/null"]
            let outcome = try BuiltPrograms.run("/usr/bin/env", arguments)
            // clang comes with Swift; a compiler besides it is not required.
            if outcome.status == 127, compiler == "cc" { continue }
            #expect(outcome.status == 0, "\(compiler) \(language): \(outcome.text)")
        }
    }

    @Test func `Every function of the header is implemented and the daemon has the same version`() throws {
        func text(_ path: String) throws -> String {
            try String(contentsOfFile: Self.root + "/" + path, encoding: .utf8)
        }
        let header = try text("Sources/CKVStore/include/kvstore.h")
        let folder = Self.root + "/Sources/KVStoreC"
        var sources = try text("Sources/CKVStore/text.c")
        for name in try FileManager.default.contentsOfDirectory(atPath: folder) {
            sources += try text("Sources/KVStoreC/" + name)
        }
        let declared = header.matches(of: /\n(?:kvstore_status|uint32_t|const char \*) ?(kvstore_[a-z_]+)\(/)
        #expect(declared.count > 25)
        for name in declared.map(\.output.1) {
            #expect(sources.contains("\(name)("), "\(name) is declared and not implemented")
        }
        let version = try #require(sources.firstMatch(of: /kvstore_version\(void\) \{ return "([0-9.]+)"/)).output.1
        let daemon = try text("Sources/KVStoreServer/Daemon/ServerContext+Health.swift")
        #expect(daemon.contains("static let text = \"\(version)\""))
    }
}
