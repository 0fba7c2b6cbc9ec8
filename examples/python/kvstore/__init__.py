"""kvstore: a cache of the KV blocks of LLM inference.

    import kvstore

    with kvstore.Store.open(memory_bytes=1 << 30, disk_path="/var/cache/kv", disk_bytes=8 << 30) as store:
        space = store.namespace(kvstore.Identity(
            "Llama-3-8B", dtype="bf16", layers=32, key_heads=8, key_head_dimension=128, tokens_per_block=16))
        prefix = space.prefix(tokens=prompt)
        with space.acquire(prefix) as lease:          # what is stored, from the front, in place
            for number, block in enumerate(lease.blocks):
                load(number, block)
        with space.reserve(prefix) as places:         # what is missing, filled in place
            for number, block in zip(places.block_numbers, places.blocks):
                block[:] = computed(number)

Blocks are read in place, without a copy, under a lease. A block that is not stored, a daemon that is dead, hung or not
there yet: all of it is a miss, never an exception. Exceptions are for wrong arguments, closed objects and, when a store
is opened, for what the machine does not allow. Every call releases the interpreter's lock; any thread may call.
"""

from ._errors import (
    Closed,
    Corrupt,
    DiskFull,
    ForeignDirectory,
    Forked,
    FutureFormat,
    InputOutputError,
    InvalidArgument,
    InvalidHandle,
    KVStoreError,
    LibraryNotFound,
    Locked,
    OutOfMemory,
    PermissionDenied,
    TooManyHandles,
    Unavailable,
    Unsupported,
)
from ._identity import Identity
from ._lease import Lease
from ._library import library_path, version
from ._namespace import Match, Namespace, PrefixLike
from ._prefix import Prefix
from ._reservation import Reservation
from ._store import FlushResult, Store

__all__ = [
    "Closed",
    "Corrupt",
    "DiskFull",
    "FlushResult",
    "ForeignDirectory",
    "Forked",
    "FutureFormat",
    "Identity",
    "InputOutputError",
    "InvalidArgument",
    "InvalidHandle",
    "KVStoreError",
    "Lease",
    "LibraryNotFound",
    "Locked",
    "Match",
    "Namespace",
    "OutOfMemory",
    "PermissionDenied",
    "Prefix",
    "PrefixLike",
    "Reservation",
    "Store",
    "TooManyHandles",
    "Unavailable",
    "Unsupported",
    "library_path",
    "version",
]
