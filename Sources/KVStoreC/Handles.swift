internal import KVStore
internal import Synchronization

// Handles are numbers, so that no number a caller can pass is ever followed as a pointer:
//
//     63  60 59    52 51                   20 19                  0
//     | kind | epoch |      generation       |        slot        |
//
// A slot's generation rises whenever its handle is closed, so a handle names one object for ever. The epoch rises with
// every fork that a child notices: the child begins with a new table and never touches the parent's objects, whose locks
// may be held by threads that do not exist in the child.

/// What a handle names.
protocol HandleObject: AnyObject, Sendable {
    /// 1 to 15; the same number means the same type.
    static var kind: UInt64 { get }
    /// What people call it.
    static var kindName: String { get }
}

/// The open handles of this process.
final class HandleTable: Sendable {
    private struct Slot {
        var generation: UInt32 = 1
        var kind: UInt64 = 0
        var object: (any HandleObject)?
    }
    private struct Slots {
        var all: [Slot] = []
        var free: [Int] = []
    }

    private static let slotLimit = 1 << 20
    /// Never released: a process has one, and a child of `fork` leaves its parent's alone.
    private static let shared = unsafe Atomic<Unmanaged<HandleTable>?>(nil)

    private let processID: Int32
    private let epoch: UInt64
    private let slots = Mutex(Slots())

    private init(processID: Int32, epoch: UInt64) {
        self.processID = processID
        self.epoch = epoch
    }

    /// The table of the calling process.
    static var current: HandleTable {
        let processID = currentProcessID()
        let known = unsafe shared.load(ordering: .acquiring)
        // Safe: tables are never released.
        let table = unsafe known?.takeUnretainedValue()
        if let table, table.processID == processID { return table }
        let fresh = HandleTable(processID: processID, epoch: table.map { ($0.epoch + 1) & 0xFF } ?? 0)
        let made = unsafe Unmanaged.passRetained(fresh)
        let (isOurs, original) = unsafe shared.compareExchange(
            expected: known,
            desired: made,
            ordering: .acquiringAndReleasing
        )
        if isOurs { return fresh }
        unsafe made.release()
        return unsafe original?.takeUnretainedValue() ?? fresh
    }

    /// Gives an object a handle.
    func open<Object: HandleObject>(_ object: Object) throws(CallError) -> UInt64 {
        let handle = slots.withLock { slots -> UInt64? in
            let index: Int
            if let free = slots.free.popLast() {
                index = free
            } else {
                guard slots.all.count < Self.slotLimit else { return nil }
                index = slots.all.count
                slots.all.append(Slot())
            }
            slots.all[index].kind = Object.kind
            slots.all[index].object = object
            return Object.kind << 60 | epoch << 52 | UInt64(slots.all[index].generation) << 20 | UInt64(index)
        }
        guard let handle else {
            throw CallError(KVSTORE_TOO_MANY_HANDLES, "more than \(Self.slotLimit) handles are open; close some")
        }
        return handle
    }

    /// The object of a handle, held for as long as the caller keeps it, whoever closes the handle meanwhile.
    func find<Object: HandleObject>(_ handle: UInt64, as type: Object.Type) throws(CallError) -> Object {
        let index = Int(handle & 0xF_FFFF)
        let found = slots.withLock { slots -> (any HandleObject)? in
            Self.isOpen(handle, epoch, Object.kind, slots, index) ? slots.all[index].object : nil
        }
        guard let object = found as? Object else { throw refusal(handle, Object.kindName) }
        return object
    }

    /// Closes a handle and returns its object.
    func close<Object: HandleObject>(_ handle: UInt64, as type: Object.Type) throws(CallError) -> Object {
        let index = Int(handle & 0xF_FFFF)
        let found = slots.withLock { slots -> (any HandleObject)? in
            guard Self.isOpen(handle, epoch, Object.kind, slots, index) else { return nil }
            defer { slots.all[index].object = nil }
            // A slot whose generations are used up is not used again.
            if slots.all[index].generation < UInt32.max {
                slots.all[index].generation += 1
                slots.free.append(index)
            }
            return slots.all[index].object
        }
        guard let object = found as? Object else { throw refusal(handle, Object.kindName) }
        return object
    }

    private static func isOpen(
        _ handle: UInt64,
        _ epoch: UInt64,
        _ kind: UInt64,
        _ slots: borrowing Slots,
        _ index: Int
    ) -> Bool {
        guard handle >> 60 == kind, (handle >> 52) & 0xFF == epoch, index < slots.all.count else { return false }
        let slot = slots.all[index]
        return slot.kind == kind && UInt64(slot.generation) == (handle >> 20) & 0xFFFF_FFFF && slot.object != nil
    }

    private func refusal(_ handle: UInt64, _ kindName: String) -> CallError {
        if (1...4).contains(handle >> 60), (handle >> 52) & 0xFF < epoch {
            return CallError(
                KVSTORE_FORKED,
                "the \(kindName) was opened before this process was forked; open a store of its own in the child"
            )
        }
        if handle == 0 { return CallError(KVSTORE_INVALID_HANDLE, "the \(kindName) handle is 0") }
        return CallError(
            KVSTORE_INVALID_HANDLE,
            "this is no open \(kindName): it was closed already, or the number is of something else"
        )
    }
}
