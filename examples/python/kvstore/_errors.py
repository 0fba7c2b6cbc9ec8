"""What can go wrong, as exceptions. A miss is none."""

from __future__ import annotations

from typing import Dict, Type


class KVStoreError(Exception):
    """A call of the library failed. ``status`` is the number of kvstore.h, the text its sentence about it."""

    status: int = -17


class LibraryNotFound(KVStoreError, ImportError):
    """libkvstore_c.so cannot be found or loaded."""


class InvalidArgument(KVStoreError, ValueError):
    """An argument is outside what is allowed."""

    status = -1


class InvalidHandle(KVStoreError):
    """The object was closed, released or committed already."""

    status = -2


class Forked(KVStoreError):
    """The object was made before this process was forked; a child opens a store of its own."""

    status = -3


class Closed(KVStoreError):
    """The store that the object belongs to was closed."""

    status = -4


class OutOfMemory(KVStoreError, MemoryError):
    """There is no memory for a region or a table."""

    status = -5


class PermissionDenied(KVStoreError, PermissionError):
    """A directory, socket or token file cannot be used with this process's rights."""

    status = -6


class Locked(KVStoreError):
    """Another store holds the directory."""

    status = -7


class ForeignDirectory(KVStoreError):
    """The directory holds something that kvstore did not write."""

    status = -8


class FutureFormat(KVStoreError):
    """The directory was written by a later version."""

    status = -9


class DiskFull(KVStoreError):
    """The file system has no room left."""

    status = -10


class Corrupt(KVStoreError):
    """Stored bytes are not what was written."""

    status = -11


class Unavailable(KVStoreError):
    """The daemon cannot be reached, or refuses."""

    status = -12


class InputOutputError(KVStoreError, OSError):
    """Any other input/output failure."""

    status = -13


class TooManyHandles(KVStoreError):
    """More than a million leases and reservations are open."""

    status = -15


class Unsupported(KVStoreError):
    """This kind of store does not do that."""

    status = -16


_BY_STATUS: Dict[int, Type[KVStoreError]] = {
    kind.status: kind
    for kind in (
        InvalidArgument,
        InvalidHandle,
        Forked,
        Closed,
        OutOfMemory,
        PermissionDenied,
        Locked,
        ForeignDirectory,
        FutureFormat,
        DiskFull,
        Corrupt,
        Unavailable,
        InputOutputError,
        TooManyHandles,
        Unsupported,
    )
}


def error_of(status: int, message: str) -> KVStoreError:
    """The exception of a status below 0."""
    error = _BY_STATUS.get(status, KVStoreError)(message)
    error.status = status
    return error
