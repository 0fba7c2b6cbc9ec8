import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

/// Counts calls of malloc and its relatives in a process of its own, through a library that is preloaded there.
@Suite("Allocations", .serialized)
struct AllocationTests {
    /// Wraps glibc's allocator and counts the calls of the thread that asks.
    private static let source = """
        #include <stddef.h>
        extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
        extern void *__libc_memalign(size_t, size_t);
        static __thread unsigned long count __attribute__((tls_model("initial-exec")));
        void *malloc(size_t size) { count++; return __libc_malloc(size); }
        void *calloc(size_t number, size_t size) { count++; return __libc_calloc(number, size); }
        void *realloc(void *old, size_t size) { count++; return __libc_realloc(old, size); }
        void *aligned_alloc(size_t alignment, size_t size) { count++; return __libc_memalign(alignment, size); }
        int posix_memalign(void **out, size_t alignment, size_t size) {
            count++;
            *out = __libc_memalign(alignment, size);
            return *out ? 0 : 12;
        }
        unsigned long kvstore_test_allocations(void) { return count; }
        """

    private static func buildCounter(in directory: TemporaryDirectory) -> String? {
        let (code, library) = ("\(directory.path)/count.c", "\(directory.path)/libcount.so")
        try? source.write(toFile: code, atomically: true, encoding: .utf8)
        for compiler in ["cc", "clang", "gcc"] {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
            process.arguments = [compiler, "-shared", "-fPIC", "-O1", "-o", library, code]
            process.standardError = FileHandle.nullDevice
            guard (try? process.run()) != nil else { continue }
            process.waitUntilExit()
            if process.terminationStatus == 0 { return library }
        }
        return nil
    }

    @Test func `A memory hit of 64 keys allocates once and a look beforehand once more`() async {
        let directory = TemporaryDirectory("allocations")
        guard let library = Self.buildCounter(in: directory) else {
            print("SKIPPED allocations: no C compiler to build the counter with")
            return
        }
        // The child inherits the environment; other children started meanwhile only get their calls counted too.
        setenv("LD_PRELOAD", library, 1)
        defer { unsetenv("LD_PRELOAD") }
        await #expect(processExitsWith: .success) { try Self.measure() }
    }

    private static func measure() throws {
        typealias Count = @convention(c) () -> UInt
        let symbol = try #require(dlsym(nil, "kvstore_test_allocations"), "the counter is not loaded")
        let count = unsafeBitCast(symbol, to: Count.self)
        let store = try BlockStore(Configuration(memoryCapacityBytes: 16 << 20))
        let prefix = try store.namespace(.test()).prefix((0..<64).map { $0 })
        #expect(BlockStoreTests.put(store, prefix) == 64)
        let rounds = 1000
        func perRound(_ body: () -> Void) -> Double {
            for _ in 0..<20 { body() }
            let before = count()
            for _ in 0..<rounds { body() }
            return Double(count() - before) / Double(rounds)
        }
        var served = 0
        let matches = perRound { served += store.match(prefix).count }
        let acquires = perRound { if let lease = store.acquire(prefix) { served += lease.count } }
        let both = perRound {
            served += store.match(prefix).count
            if let lease = store.acquire(prefix) { served += lease.count }
        }
        print("allocations per call: match \(matches), acquire and release \(acquires), together \(both)")
        #expect(served == 64 * 4 * (rounds + 20))
        #expect(acquires <= 1)
        // `match` returns the tier of every block, which is an array.
        #expect(matches <= 1)
        #expect(both <= 2)
    }
}
