internal import KVStore
