import Foundation
import KVStoreTestSupport
import Testing

@testable import KVStore

@Suite("A region's memory is sealed")
struct RegionTests {
    @Test func `Who gets the descriptor can read and nothing else`() throws {
        let region = try Region(slotByteCount: 4096, slotCount: 3)
        region.address(ofSlot: 1).storeBytes(of: 0x1234_5678, as: UInt32.self)
        // Opened anew by path, as another process would after it received the descriptor.
        let path = "/proc/self/fd/\(region.fileDescriptor)"
        let descriptor = open(path, O_RDWR)
        let client = descriptor >= 0 ? descriptor : dup(region.fileDescriptor)
        defer { close(client) }
        #expect(ftruncate(client, 0) == -1)
        #expect(errno == EPERM)
        #expect(ftruncate(client, off_t(region.byteCount) * 2) == -1)
        #expect(errno == EPERM)
        #expect(mmap(nil, region.byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, client, 0) == MAP_FAILED)
        #expect(errno == EPERM)
        var byte: UInt8 = 1
        #expect(pwrite(client, &byte, 1, 0) == -1)
        #expect(errno == EPERM)
        let addSeals: Int32 = 1033  // F_ADD_SEALS, which Glibc does not show
        #expect(fcntl(client, addSeals, 1) == -1, "the seals are final")
        let view = mmap(nil, region.byteCount, PROT_READ, MAP_SHARED, client, 0)
        #expect(view != MAP_FAILED)
        if let view, view != MAP_FAILED {
            #expect(view.loadUnaligned(fromByteOffset: 4096, as: UInt32.self) == 0x1234_5678)
            #expect(mprotect(view, region.byteCount, PROT_READ | PROT_WRITE) == -1, "a read mapping stays one")
            munmap(view, region.byteCount)
        }
        // The owner's own mapping still writes.
        region.address(ofSlot: 0).storeBytes(of: 9, as: UInt8.self)
    }

    @Test func `Large regions start on a huge page and end where the budget says`() throws {
        let region = try Region(slotByteCount: 1 << 20, slotCount: 4)
        #expect(UInt(bitPattern: region.address(ofSlot: 0)) % (2 << 20) == 0)
        #expect(region.byteCount == Region.byteCount(slotByteCount: 1 << 20, slotCount: 4))
        #expect(region.byteCount == (4 << 20) + 4096)
    }

    @Test func `The descriptor closes with the region`() throws {
        var number: UInt64 = 0
        do {
            let region = try Region(slotByteCount: 4096, slotCount: 1)
            number = inode(of: region.fileDescriptor)
            #expect(openRegionInodes().contains(number))
            #expect(mappedRegionInodes().contains(number))
        }
        #expect(!openRegionInodes().contains(number))
        #expect(!mappedRegionInodes().contains(number))
    }
}
