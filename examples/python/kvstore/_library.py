"""The C library: where it is, its structs and its functions. See kvstore.h for what each does."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
import threading
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from typing import Any, List, Optional

from ._errors import LibraryNotFound, error_of

OK = 0
MISS = 1
BUFFER_TOO_SMALL = -14
UNAVAILABLE = -12
ABI_VERSION = 1


class _Sized(ctypes.Structure):
    """A struct that begins with its own size."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(type(self)), **fields)


class Options(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("memory_bytes", c_uint64),
        ("disk_path", c_char_p),
        ("disk_bytes", c_uint64),
        ("codec", c_char_p),
        ("write_back_delay_seconds", c_double),
        ("reader_threads", c_uint32),
        ("reserved", c_uint32),
    ]


class ConnectOptions(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("timeout_milliseconds", c_uint32),
        ("slow_timeout_milliseconds", c_uint32),
        ("retry_milliseconds", c_uint32),
        ("socket_path", c_char_p),
        ("token_file", c_char_p),
        ("token", c_char_p),
        ("token_size", c_size_t),
        ("client_name", c_char_p),
    ]


class FlushFigures(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("durable_blocks", c_uint64),
        ("refused_blocks", c_uint64),
    ]


class Field(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("type", c_uint32),
        ("reserved", c_uint32),
        ("integer", c_int64),
        ("bytes", c_char_p),
        ("byte_count", c_size_t),
    ]


class IdentityFields(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("element_type", c_uint32),
        ("model", c_char_p),
        ("revision", c_char_p),
        ("layout_tag", c_char_p),
        ("adapter", c_char_p),
        ("tenant", c_char_p),
        ("salt", c_char_p),
        ("salt_size", c_size_t),
        ("layers", c_uint32),
        ("key_heads", c_uint32),
        ("value_heads", c_uint32),
        ("key_head_dimension", c_uint32),
        ("value_head_dimension", c_uint32),
        ("tokens_per_block", c_uint32),
        ("tensor_parallel_rank", c_uint32),
        ("tensor_parallel_size", c_uint32),
        ("pipeline_parallel_rank", c_uint32),
        ("pipeline_parallel_size", c_uint32),
        ("opaque_block_bytes", c_uint64),
        ("allows_lossy_int8", c_uint32),
        ("field_count", c_uint32),
        ("fields", POINTER(Field)),
    ]


class NamespaceInfo(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("tokens_per_block", c_uint32),
        ("block_bytes", c_uint64),
        ("fingerprint", c_uint8 * 32),
    ]


class BlockExtra(ctypes.Structure):
    _fields_ = [("block", c_uint64), ("bytes", c_char_p), ("byte_count", c_size_t)]


class PrefixFields(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("key_size", c_uint32),
        ("tokens", c_void_p),
        ("token_count", c_size_t),
        ("keys", c_char_p),
        ("key_sizes", POINTER(c_uint32)),
        ("key_count", c_size_t),
        ("extras", POINTER(BlockExtra)),
        ("extra_count", c_size_t),
    ]


class MatchFigures(_Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("is_warming", c_uint32),
        ("block_count", c_uint64),
        ("disk_block_count", c_uint64),
        ("prefix_block_count", c_uint64),
    ]


_PREFIX = POINTER(PrefixFields)
_SIZE = POINTER(c_size_t)
_HANDLE = POINTER(c_uint64)

_FUNCTIONS = {
    "kvstore_open": [POINTER(Options), _HANDLE],
    "kvstore_connect": [POINTER(ConnectOptions), _HANDLE],
    "kvstore_wait_until_warm": [c_uint64],
    "kvstore_ping": [c_uint64, _HANDLE],
    "kvstore_flush": [c_uint64, POINTER(FlushFigures)],
    "kvstore_statistics_json": [c_uint64, c_char_p, c_size_t, _SIZE],
    "kvstore_close": [c_uint64],
    "kvstore_namespace_open": [c_uint64, POINTER(IdentityFields), _HANDLE, POINTER(NamespaceInfo)],
    "kvstore_namespace_close": [c_uint64],
    "kvstore_lookup": [c_uint64, _PREFIX, POINTER(MatchFigures)],
    "kvstore_acquire": [c_uint64, _PREFIX, c_uint32, _HANDLE, c_void_p, c_size_t, _SIZE],
    "kvstore_lease_blocks": [c_uint64, c_size_t, c_size_t, c_void_p, c_void_p],
    "kvstore_lease_is_current": [c_uint64],
    "kvstore_release": [c_uint64],
    "kvstore_reserve": [c_uint64, _PREFIX, _HANDLE, c_void_p, c_void_p, c_size_t, _SIZE],
    "kvstore_commit": [c_uint64, _SIZE],
    "kvstore_abandon": [c_uint64],
    "kvstore_get": [c_uint64, _PREFIX, c_size_t, c_uint32, c_void_p, c_size_t, _SIZE],
    "kvstore_put": [c_uint64, _PREFIX, c_size_t, c_void_p, c_size_t, _SIZE],
    "kvstore_prefetch": [c_uint64, _PREFIX],
    "kvstore_pin": [c_uint64, _PREFIX, c_uint32, _SIZE],
    "kvstore_unpin": [c_uint64, _PREFIX, _SIZE],
    "kvstore_remove": [c_uint64, _PREFIX, c_size_t, _SIZE],
}

_lock = threading.Lock()
_loaded: Optional[ctypes.CDLL] = None
_NAME = "libkvstore_c.so"


def _renew_lock() -> None:
    """In a forked child nobody would ever let go of a lock that another thread held at that moment."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _candidates() -> List[str]:
    named = os.environ.get("KVSTORE_LIBRARY")
    if named:
        return [named]
    folders = [os.path.join(sys.prefix, "lib"), "/usr/local/lib", "/opt/kvstore/lib"]
    # The bare name lets the loader look along LD_LIBRARY_PATH and its own folders.
    return [_NAME] + [path for path in (os.path.join(folder, _NAME) for folder in folders) if os.path.exists(path)]


def library() -> ctypes.CDLL:
    """The library, loaded when first asked for."""
    global _loaded
    loaded = _loaded
    if loaded is not None:
        return loaded
    with _lock:
        if _loaded is None:
            _loaded = _load()
        return _loaded


def _load() -> ctypes.CDLL:
    problems = []
    for path in _candidates():
        try:
            # CDLL, not PyDLL: every call lets other Python threads run.
            loaded = ctypes.CDLL(path)
        except OSError as error:
            problems.append(f"{path}: {error}")
            continue
        try:
            _declare(loaded)
        except AttributeError as error:
            problems.append(f"{path}: {error}")
            continue
        found = loaded.kvstore_abi_version()
        if found < ABI_VERSION:
            problems.append(f"{path}: its interface is version {found}, this package needs {ABI_VERSION}")
            continue
        return loaded
    raise LibraryNotFound(
        f"{_NAME} cannot be loaded. Install it with `bash examples/install.sh --prefix DIR` in kvstore's folder and set "
        f"KVSTORE_LIBRARY=DIR/lib/{_NAME}. Tried: " + "; ".join(problems)
    )


def _declare(loaded: ctypes.CDLL) -> None:
    for name, arguments in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.argtypes = arguments
        function.restype = c_int32
    for name in ("kvstore_version", "kvstore_last_error"):
        getattr(loaded, name).argtypes = []
        getattr(loaded, name).restype = c_char_p
    loaded.kvstore_abi_version.argtypes = []
    loaded.kvstore_abi_version.restype = c_uint32


def last_error() -> str:
    """What the last failing call of this thread has to say."""
    message: bytes = library().kvstore_last_error()
    return message.decode("utf-8", "replace")


def check(status: int) -> bool:
    """True for KVSTORE_OK, False for a miss; raises for everything else."""
    if status == OK:
        return True
    if status > 0:
        return False
    raise error_of(status, last_error())


def version() -> str:
    """The library's version."""
    text: bytes = library().kvstore_version()
    return text.decode()


def library_path() -> str:
    """The file that was loaded."""
    return str(library()._name)
