import Foundation
import KVStore
import KVStoreIPC
import KVStoreTestSupport

/// A client of a daemon that stores, reads and holds what comes to its mind, until somebody kills it.
///
/// ```
/// did VERIFIED STORED STALE MISSED     blocks compared, blocks stored, leases that were stale, lookups without a hit
/// wrong PROMPT BLOCK                   bytes that do not belong there under a lease that says it is current
/// ```
/// Blocks are written in two halves with a pause between, so that a kill finds some half written.
final class ClientSession {
    private let store: RemoteBlockStore
    private var random: SeededRandom
    private var held: [LeaseBox] = []
    private var (verified, stored, stale, missed) = (0, 0, 0, 0)

    private final class LeaseBox {
        let number: Int
        let prefix: Prefix
        let lease: BlockLease
        init(_ number: Int, _ prefix: Prefix, _ lease: consuming BlockLease) {
            self.number = number
            self.prefix = prefix
            self.lease = lease
        }
    }

    init(arguments: [String]) throws {
        var options = ClientOptions()
        options.name = "worker"
        if arguments.count > 2 { options.token = Array(try Data(contentsOf: URL(filePath: arguments[2]))) }
        store = RemoteBlockStore(socketPath: arguments[0], options: options)
        random = SeededRandom(seed: UInt64(arguments[1])!)
    }

    func run() throws {
        // Ends with its parent, should that be killed itself.
        Thread {
            while readLine() != nil {}
            exit(0)
        }.start()
        var prompts: SharedPrompts?
        while prompts == nil {
            prompts = try? SharedPrompts(store)
            if prompts == nil { usleep(20_000) }
        }
        var lastSaid = nanosecondsNow()
        while true {
            step(prompts!)
            if nanosecondsNow() - lastSaid > 50_000_000 {
                say("did \(verified) \(stored) \(stale) \(missed)")
                lastSaid = nanosecondsNow()
            }
        }
    }

    private func step(_ prompts: SharedPrompts) {
        let number = Int.random(in: 0..<SharedPrompts.count, using: &random)
        let prefix = prompts.prefix(number)
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<40: put(prefix)
        case 40..<80:
            guard let lease = store.acquire(prefix) else {
                missed += 1
                return
            }
            let box = LeaseBox(number, prefix, lease)
            verify(box)
            if Int.random(in: 0..<3, using: &random) == 0 { held.append(box) }
        case 80..<90:
            if let box = held.randomElement(using: &random) { verify(box) }
        case 90..<96:
            if !held.isEmpty { held.remove(at: Int.random(in: 0..<held.count, using: &random)) }
        case 96..<97: store.remove(prefix, from: SharedPrompts.headCount + 1)
        case 97..<98: store.prefetch(prefix)
        default: usleep(UInt32.random(in: 0..<5000, using: &random))
        }
        while held.count > 12 { held.removeFirst() }
    }

    private func put(_ prefix: Prefix) {
        guard var reservation = store.reserve(prefix) else { return }
        for slot in 0..<reservation.count {
            let key = prefix.keys[reservation.blockIndex(at: slot)]
            let pause = Int.random(in: 0..<8, using: &random) == 0
            reservation.withMutableBytes(at: slot) { span in
                if pause {
                    for offset in 0..<span.byteCount / 2 {
                        span.storeBytes(of: 0xEE, toByteOffset: offset, as: UInt8.self)
                    }
                    usleep(3000)
                }
                Payload.fill(&span, key: key)
            }
        }
        if Int.random(in: 0..<8, using: &random) == 0 { return }
        stored += reservation.commit()
    }

    private func verify(_ box: LeaseBox) {
        for number in 0..<box.lease.count {
            let key = box.prefix.keys[number]
            let isRight = box.lease.withBytes(at: number) { Payload.matches($0, key: key) }
            guard !isRight else {
                verified += 1
                continue
            }
            if box.lease.isCurrent {
                say("wrong \(box.number) \(number)")
            } else {
                stale += 1
                return
            }
        }
    }
}
