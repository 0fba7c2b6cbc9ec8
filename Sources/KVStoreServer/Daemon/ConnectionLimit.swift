internal import Glibc
package import NIOCore
internal import Synchronization

/// Counts open connections and closes those that are too many.
package final class ConnectionLimit: Sendable {
    private struct Counts {
        var limit: Int
        var open = 0
        var accepted = 0
        var refused = 0
        var openByUser: [UInt32: Int] = [:]
    }

    private let counts: Mutex<Counts>

    package init(_ limit: Int) { counts = Mutex(Counts(limit: limit)) }

    /// Connections at the same time; those that are open stay.
    package var limit: Int {
        get { counts.withLock { $0.limit } }
        set { counts.withLock { $0.limit = newValue } }
    }

    /// Open now.
    package var open: Int { counts.withLock { $0.open } }
    /// Accepted since the start, refused ones included.
    package var accepted: Int { counts.withLock { $0.accepted } }
    /// Closed because there were too many.
    package var refused: Int { counts.withLock { $0.refused } }

    /// Counts a connection until it closes. False when it is one too many: then it is being closed.
    package func enter(_ channel: any Channel) -> Bool {
        let isWelcome = counts.withLock { counts -> Bool in
            counts.accepted += 1
            guard counts.open < counts.limit else {
                counts.refused += 1
                return false
            }
            counts.open += 1
            return true
        }
        guard isWelcome else {
            channel.close(promise: nil)
            return false
        }
        channel.closeFuture.whenComplete { _ in self.counts.withLock { $0.open -= 1 } }
        return true
    }

    /// Counts a connection of a user who is known now. False when he has his share: half of the limit for everybody but
    /// the daemon's own user and root, so that nobody can keep them out.
    package func admit(_ peer: PeerCredentials, _ channel: any Channel) -> Bool {
        let user = peer.userID
        let isAdmitted = counts.withLock { counts -> Bool in
            let own = counts.openByUser[user] ?? 0
            guard user == 0 || user == geteuid() || own < max(1, counts.limit / 2) else {
                counts.refused += 1
                return false
            }
            counts.openByUser[user] = own + 1
            return true
        }
        guard isAdmitted else { return false }
        channel.closeFuture.whenComplete { _ in
            self.counts.withLock { counts in
                let left = (counts.openByUser[user] ?? 1) - 1
                counts.openByUser[user] = left == 0 ? nil : left
            }
        }
        return true
    }
}
