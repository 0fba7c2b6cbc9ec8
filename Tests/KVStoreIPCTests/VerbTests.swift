@testable import KVStoreIPC
