"""A store of this process, or a client of a daemon."""

from __future__ import annotations

import ctypes
import json
import os
import weakref
from typing import Any, Dict, NamedTuple, Optional, Union

from ._errors import InvalidArgument, InvalidHandle
from ._identity import Identity
from ._library import BUFFER_TOO_SMALL, UNAVAILABLE, ConnectOptions, FlushFigures, Options, check, last_error, library
from ._namespace import Namespace

_Path = Union[str, "os.PathLike[str]"]


class FlushResult(NamedTuple):
    """What a flush did."""

    #: Blocks that are on disk now.
    durable_blocks: int
    #: Blocks that are not.
    refused_blocks: int
    #: Why, if any.
    reason: Optional[str]


class Store:
    """A cache of KV blocks. Made by :meth:`open` or :meth:`connect`. Any thread may call."""

    def __init__(self, handle: int, description: str) -> None:
        self._handle = handle
        self._description = description
        # Also at the interpreter's end, so that what is only in memory is written to disk.
        self._finalizer = weakref.finalize(self, library().kvstore_close, handle)

    @classmethod
    def open(
        cls,
        memory_bytes: int = 512 << 20,
        disk_path: Optional[_Path] = None,
        disk_bytes: Optional[int] = None,
        *,
        codec: str = "automatic",
        write_back_delay_seconds: Optional[float] = 5.0,
        reader_threads: int = 2,
        verify_memory_hits: bool = False,
        write_through: bool = False,
        flush_on_close: bool = True,
        scrub: bool = True,
        warm_up: bool = True,
        wait_until_warm: bool = True,
    ) -> "Store":
        """Opens a store in this process.

        A disk that cannot be used does not fail the open: the store runs on memory, and ``statistics()["diskProblem"]``
        says why.

        :param memory_bytes: hard cap of the memory tier, at least 16 MiB.
        :param disk_path: directory of the disk tier; None for memory only.
        :param disk_bytes: hard cap over that directory, at least 32 MiB.
        :param write_back_delay_seconds: blocks are written to disk when they are about this old; None: when evicted.
        :param wait_until_warm: return when the disk's index is loaded, rather than at once.
        """
        if memory_bytes <= 0 or memory_bytes >= 1 << 63 or not 0 < reader_threads < 1 << 32:
            raise InvalidArgument("memory_bytes and reader_threads must be positive")
        if (disk_path is None) != (disk_bytes is None):
            raise InvalidArgument("disk_path and disk_bytes go together")
        if disk_bytes is not None and not 0 < disk_bytes < 1 << 63:
            raise InvalidArgument("disk_bytes must be positive")
        delay = write_back_delay_seconds
        if delay is not None and not delay > 0:
            raise InvalidArgument("write_back_delay_seconds must be positive, or None")
        flags = (verify_memory_hits, write_through, not flush_on_close, not scrub, not warm_up, wait_until_warm)
        options = Options(
            flags=sum(1 << bit for bit, is_set in enumerate(flags) if is_set),
            memory_bytes=memory_bytes,
            disk_path=None if disk_path is None else os.fsencode(disk_path),
            disk_bytes=disk_bytes or 0,
            codec=codec.encode(),
            write_back_delay_seconds=-1.0 if delay is None else delay,
            reader_threads=reader_threads,
        )
        handle = ctypes.c_uint64()
        check(library().kvstore_open(ctypes.byref(options), ctypes.byref(handle)))
        return cls(handle.value, f"memory_bytes={memory_bytes}, disk_path={disk_path!r}")

    @classmethod
    def connect(
        cls,
        socket: _Path,
        *,
        timeout_ms: int = 1000,
        slow_timeout_ms: int = 30_000,
        retry_ms: int = 50,
        token_file: Optional[_Path] = None,
        token: Optional[bytes] = None,
        client_name: str = "",
    ) -> "Store":
        """Makes a client of a daemon. Does not wait for it, and never fails because it is not there.

        :param timeout_ms: longest wait for an answer about blocks; after that a call is a miss.
        :param slow_timeout_ms: the same for flush, remove, pin and unpin.
        :param retry_ms: wait before the first attempt to connect again; doubles up to five seconds.
        :param token_file: file with the token that the daemon binds the tenant to. Or the ``token`` itself.
        """
        for name, value in (("timeout_ms", timeout_ms), ("slow_timeout_ms", slow_timeout_ms), ("retry_ms", retry_ms)):
            if not 1 <= value <= 600_000:
                raise InvalidArgument(f"{name} is {value}; it must be 1 to 600000")
        options = ConnectOptions(
            timeout_milliseconds=timeout_ms,
            slow_timeout_milliseconds=slow_timeout_ms,
            retry_milliseconds=retry_ms,
            socket_path=os.fsencode(socket),
            token_file=None if token_file is None else os.fsencode(token_file),
            token=token,
            token_size=0 if token is None else len(token),
            client_name=client_name.encode(),
        )
        handle = ctypes.c_uint64()
        check(library().kvstore_connect(ctypes.byref(options), ctypes.byref(handle)))
        return cls(handle.value, f"socket={os.fspath(socket)!r}")

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self._description}{'' if self._finalizer.alive else ', closed'})"

    def _checked(self) -> int:
        if not self._finalizer.alive:
            raise InvalidHandle("the store was closed")
        return self._handle

    def namespace(self, identity: Identity) -> Namespace:
        """Opens a namespace: the complete identity of one model instance."""
        self._checked()
        return Namespace(self, identity)

    def wait_until_warm(self) -> None:
        """Waits until the disk tier's index is loaded. Raises :class:`InputOutputError` if it cannot be."""
        check(library().kvstore_wait_until_warm(self._checked()))

    def flush(self) -> FlushResult:
        """Writes everything that is only in memory to disk and waits for it."""
        figures = FlushFigures()
        is_answered = check(library().kvstore_flush(self._checked(), ctypes.byref(figures)))
        has_reason = figures.refused_blocks > 0 or not is_answered
        return FlushResult(figures.durable_blocks, figures.refused_blocks, last_error() if has_reason else None)

    def statistics(self) -> Dict[str, Any]:
        """Every counter and level. With a daemon: those of this client's tenant, all zero when it cannot be asked."""
        size = 1 << 16
        while True:
            buffer = ctypes.create_string_buffer(size)
            needed = ctypes.c_size_t()
            status = library().kvstore_statistics_json(self._checked(), buffer, size, ctypes.byref(needed))
            if status != BUFFER_TOO_SMALL:
                check(status)
                figures: Dict[str, Any] = json.loads(buffer.value)
                return figures
            size = needed.value * 2

    def ping(self) -> Optional[float]:
        """Seconds that a sign of life of the daemon took; None when there is none. 0 for a store of this process."""
        nanoseconds = ctypes.c_uint64()
        status = library().kvstore_ping(self._checked(), ctypes.byref(nanoseconds))
        if status == UNAVAILABLE:
            return None
        check(status)
        return nanoseconds.value / 1e9

    def close(self) -> None:
        """Closes the store. Leases that are out stay readable. May be called twice."""
        self._finalizer()
