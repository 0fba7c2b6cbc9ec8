import Testing

@testable import KVStoreC

private final class Apple: HandleObject {
    static let kind: UInt64 = 14
    static let kindName = "apple"
}

private final class Pear: HandleObject {
    static let kind: UInt64 = 15
    static let kindName = "pear"
}

@Suite struct `Handle table` {
    @Test func `A handle finds its object until it is closed and never another one`() throws {
        let table = HandleTable.current
        let apple = Apple()
        let handle = try table.open(apple)
        #expect(try table.find(handle, as: Apple.self) === apple)
        #expect(throws: CallError.self) { try table.find(handle, as: Pear.self) }
        #expect(throws: CallError.self) { try table.close(handle, as: Pear.self) }
        #expect(try table.close(handle, as: Apple.self) === apple)
        var seen: Set<UInt64> = [handle]
        for _ in 0..<10_000 {
            let next = try table.open(Apple())
            #expect(seen.insert(next).inserted)
            #expect(throws: CallError.self) { try table.find(handle, as: Apple.self) }
            _ = try table.close(next, as: Apple.self)
        }
    }

    @Test func `An object lives as long as its handle or a call that found it`() throws {
        let table = HandleTable.current
        weak var alive: Pear?
        var handle: UInt64 = 0
        do {
            let pear = Pear()
            alive = pear
            handle = try table.open(pear)
        }
        #expect(alive != nil)
        do {
            let found = try table.find(handle, as: Pear.self)
            _ = try table.close(handle, as: Pear.self)
            #expect(alive === found)
        }
        #expect(alive == nil)
    }
}
