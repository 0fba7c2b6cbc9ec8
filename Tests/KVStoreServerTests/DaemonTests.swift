@testable import KVStoreServer
