internal import KVStore
internal import KVStoreIPC
internal import Synchronization

/// A store of this process, or a client of a daemon.
final class StoreObject: HandleObject {
    enum Kind {
        case embedded(BlockStore)
        case remote(RemoteBlockStore, socketPath: String, options: ClientOptions)
    }

    static let kind: UInt64 = 1
    static let kindName = "store"
    let store: Kind
    private let isClosed = Atomic(false)

    init(_ store: Kind) { self.store = store }

    var cache: any BlockCache {
        switch store {
        case .embedded(let store): store
        case .remote(let store, _, _): store
        }
    }

    func close() {
        isClosed.store(true, ordering: .releasing)
        cache.close()
    }

    func checkOpen() throws(CallError) {
        guard !isClosed.load(ordering: .acquiring) else { throw CallError(KVSTORE_CLOSED, "the store was closed") }
    }
}

/// A namespace, and the store that it belongs to.
final class NamespaceObject: HandleObject {
    static let kind: UInt64 = 2
    static let kindName = "namespace"
    let store: StoreObject
    let namespace: Namespace

    init(_ store: StoreObject, _ namespace: Namespace) {
        self.store = store
        self.namespace = namespace
    }

    /// The namespace of a handle, if its store is open.
    static func find(_ handle: UInt64) throws(CallError) -> NamespaceObject {
        let object = try HandleTable.current.find(handle, as: NamespaceObject.self)
        try object.store.checkOpen()
        return object
    }
}

/// A lease; it ends with the object, so never during a call that found it.
final class LeaseObject: HandleObject {
    static let kind: UInt64 = 3
    static let kindName = "lease"
    let lease: BlockLease

    init(_ lease: consuming BlockLease) { self.lease = lease }

    /// Where a block is. Good while the lease lives; the header says so to whoever gets it.
    func address(of index: Int) -> UnsafeRawPointer? {
        unsafe lease.withBytes(at: index) { bytes in unsafe bytes.withUnsafeBytes { $0.baseAddress } }
    }
}

/// A reservation until it is committed or abandoned; what is left at the end of the object is abandoned.
final class ReservationObject: HandleObject {
    static let kind: UInt64 = 4
    static let kindName = "reservation"
    private let reservation: Mutex<BlockReservation?>
    let count: Int

    init(_ reservation: consuming sending BlockReservation) {
        count = reservation.count
        self.reservation = Mutex(reservation)
    }

    /// The number and the place of block `index`; nil when another thread has ended the reservation.
    func place(_ index: Int) -> (blockNumber: UInt32, address: UnsafeMutableRawPointer?)? {
        unsafe reservation.withLock { reservation in
            guard reservation != nil else { return nil }
            let number = UInt32(reservation!.blockIndex(at: index))
            // Good until commit or abandon; the header says so to whoever gets it.
            let address = unsafe reservation!.withMutableBytes(at: index) { bytes in
                unsafe bytes.withUnsafeMutableBytes { $0.baseAddress }
            }
            return unsafe (number, address)
        }
    }

    func commit() -> Int {
        guard let reservation = take() else { return 0 }
        return reservation.commit()
    }

    func take() -> BlockReservation? { reservation.withLock { $0.take() } }
}
