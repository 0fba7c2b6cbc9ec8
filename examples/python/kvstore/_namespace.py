"""What an engine asks of a cache, for one model."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import TYPE_CHECKING, Any, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Union, cast

from . import _lease, _reservation
from ._errors import Forked, InvalidArgument, InvalidHandle
from ._identity import Identity
from ._lease import Lease
from ._library import UNAVAILABLE, MatchFigures, check, library
from ._memory import readable, writable
from ._prefix import Prefix, TokensLike, is_keys
from ._reservation import Reservation

if TYPE_CHECKING:
    from ._store import Store

#: A prompt from its beginning: made by :meth:`Namespace.prefix`, or token ids, or keys.
PrefixLike = Union[Prefix, TokensLike, Sequence[bytes]]


class Match(NamedTuple):
    """How much of a prefix is stored."""

    #: Leading blocks that are stored.
    block_count: int
    #: Of those, how many are on disk only.
    disk_block_count: int
    #: Full blocks of the prefix.
    prefix_block_count: int
    #: Whether the disk tier's index is still being loaded: a miss may become a hit in a moment.
    is_warming: bool

    def __int__(self) -> int:
        return self.block_count

    def __bool__(self) -> bool:
        return self.block_count > 0


class Namespace:
    """One model's blocks in a store. Made by :meth:`Store.namespace`. Any thread may call.

    With a daemon that is not there, a namespace opens itself when the daemon is; until then everything is a miss.
    """

    def __init__(self, store: "Store", identity: Identity) -> None:
        self._store = store
        self.identity = identity
        #: Bytes of one block.
        self.block_bytes: int = identity.block_bytes
        #: Tokens of one block.
        self.tokens_per_block: int = identity.tokens_per_block
        self._handle: Optional[int] = None
        self._is_closed = False
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._keep: List[object] = []
        self._identity_fields = identity._fields(self._keep)
        self._opened()

    def _opened(self) -> Optional[int]:
        """The handle; None while there is no daemon."""
        handle = self._handle
        if handle is not None:
            return handle
        # Before the lock: another thread of the parent may have held it when this process was forked.
        if os.getpid() != self._process:
            raise Forked("the namespace was made before this process was forked; open a store of its own for it")
        with self._lock:
            if self._is_closed:
                raise InvalidHandle("the namespace was closed")
            if self._handle is None:
                handle_out = ctypes.c_uint64()
                status = library().kvstore_namespace_open(
                    self._store._checked(), ctypes.byref(self._identity_fields), ctypes.byref(handle_out), None
                )
                if status == UNAVAILABLE:
                    return None
                check(status)
                self._handle = handle_out.value
            return self._handle

    @property
    def is_open(self) -> bool:
        """Whether the daemon has been reached. Does not try."""
        return self._handle is not None

    def close(self) -> None:
        """Closes the namespace. Its blocks stay, and so do leases and reservations. May be called twice."""
        if os.getpid() != self._process:
            self._lock = threading.Lock()
        with self._lock:
            handle, self._handle = self._handle, None
            self._is_closed = True
        if handle is not None:
            library().kvstore_namespace_close(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            library().kvstore_namespace_close(self._handle)

    # Naming

    def prefix(
        self,
        tokens: Optional[TokensLike] = None,
        *,
        keys: Optional[Iterable[bytes]] = None,
        extra: Optional[Mapping[int, bytes]] = None,
        token_count: int = 0,
    ) -> Prefix:
        """Names a prompt from its beginning.

        :param tokens: token ids: a list, a numpy array, a torch tensor.
        :param keys: instead of tokens: one key of 1 to 255 bytes per block. Equal keys must mean equal whole prefixes.
        :param extra: with tokens: further bytes that single blocks depend on, by number, such as an image's digest.
        :param token_count: with keys: tokens of the whole prompt, for statistics.
        """
        return Prefix(self.tokens_per_block, tokens, keys, extra, token_count)

    def _named(self, prefix: PrefixLike) -> Prefix:
        if isinstance(prefix, Prefix):
            if prefix._tokens_per_block != self.tokens_per_block:
                raise InvalidArgument("the prefix was made by a namespace with another number of tokens per block")
            return prefix
        if is_keys(prefix):
            return self.prefix(keys=cast("Sequence[bytes]", prefix))
        return self.prefix(cast(TokensLike, prefix))

    # Reading

    def lookup(self, prefix: PrefixLike) -> Match:
        """How many leading blocks of a prefix are stored. Moves nothing and holds nothing."""
        named = self._named(prefix)
        handle = self._opened()
        if handle is None or not len(named):
            return Match(0, 0, len(named), False)
        found = MatchFigures()
        check(library().kvstore_lookup(handle, ctypes.byref(named._fields), ctypes.byref(found)))
        return Match(found.block_count, found.disk_block_count, len(named), bool(found.is_warming))

    def acquire(self, prefix: PrefixLike, memory_only: bool = False) -> Lease:
        """Takes a lease on the leading blocks of a prefix that are stored; an empty one on a miss.

        :param memory_only: stop before the first block that is only on disk.
        """
        return _lease.acquire(self._opened(), self._named(prefix), self.block_bytes, memory_only)

    def get(self, prefix: PrefixLike, first: int = 0) -> List[bytes]:
        """Copies of the stored blocks from number ``first`` on, if all before them are stored as well."""
        with self.acquire(prefix) as lease:
            copies = [bytes(block) for block in lease.blocks[first:]]
            return copies if lease.is_current else []

    def get_into(self, prefix: PrefixLike, buffer: Any, first: int = 0) -> int:
        """Copies stored blocks from number ``first`` on into a buffer or tensor, one after the other, as many as fit.

        Returns how many."""
        named = self._named(prefix)
        handle = self._opened()
        address, size, _owner = writable(buffer)
        if not 0 <= first <= len(named):
            raise InvalidArgument(f"the prefix has {len(named)} blocks; first is {first}")
        if handle is None or first == len(named):
            return 0
        count = ctypes.c_size_t()
        check(
            library().kvstore_get(
                handle, ctypes.byref(named._fields), first, 0, address, size, ctypes.byref(count)
            )
        )
        return count.value

    # Writing

    def reserve(self, prefix: PrefixLike) -> Reservation:
        """Asks for places for the blocks of a prefix that are missing; an empty reservation if there are none."""
        return _reservation.reserve(self._opened(), self._named(prefix), self.block_bytes)

    def put(self, prefix: PrefixLike, data: Any, first: int = 0) -> int:
        """Stores blocks that the caller has as bytes, those from number ``first`` on. Returns how many became visible.

        :param data: whole blocks one after the other, as bytes, array or tensor; or a list with one such per block.
        """
        named = self._named(prefix)
        handle = self._opened()
        if not 0 <= first <= len(named):
            raise InvalidArgument(f"the prefix has {len(named)} blocks; first is {first}")
        if isinstance(data, (list, tuple)):
            return self._put_each(named, data, first)
        address, size, _owner = readable(data)
        if handle is None:
            return 0
        count = ctypes.c_size_t()
        check(
            library().kvstore_put(
                handle, ctypes.byref(named._fields), first, address or None, size, ctypes.byref(count)
            )
        )
        return count.value

    def _put_each(self, prefix: Prefix, data: Sequence[Any], first: int) -> int:
        if first + len(data) > len(prefix):
            raise InvalidArgument(f"the prefix has {len(prefix)} blocks; the data has {len(data)} from {first} on")
        stored = 0
        while data:
            with self.reserve(prefix[: first + len(data)]) as places:
                # A block before those of the data is missing, so nothing after it can be kept.
                if not places or places.block_numbers[0] < first:
                    places.abandon()
                    break
                for index, number in enumerate(places.block_numbers):
                    places.copy_from(index, data[number - first])
                visible = places.commit()
            if not visible:
                break
            stored += visible
        return stored

    # Hints and removal

    def prefetch(self, prefix: PrefixLike) -> None:
        """Has blocks that are only on disk read into memory, in the background."""
        named = self._named(prefix)
        handle = self._opened()
        if handle is not None and len(named):
            check(library().kvstore_prefetch(handle, ctypes.byref(named._fields)))

    def pin(self, prefix: PrefixLike, seconds: int) -> int:
        """Keeps the stored blocks of a prefix in the daemon's memory for a time. Returns how many. Raises
        :class:`Unsupported` with a store of this process: hold a lease there."""
        return self._counted("kvstore_pin", prefix, max(0, min(int(seconds), 0xFFFF_FFFF)))

    def unpin(self, prefix: PrefixLike) -> int:
        """Ends a pin. Returns how many blocks were kept by it."""
        return self._counted("kvstore_unpin", prefix)

    def remove(self, prefix: PrefixLike, first: int = 0) -> int:
        """Removes blocks from number ``first`` on, and all that builds on them, from every tier. Returns how many."""
        if first < 0:
            raise InvalidArgument("first is below 0")
        return self._counted("kvstore_remove", prefix, first)

    def _counted(self, function: str, prefix: PrefixLike, *arguments: int) -> int:
        named = self._named(prefix)
        handle = self._opened()
        if handle is None:
            return 0
        count = ctypes.c_size_t()
        check(getattr(library(), function)(handle, ctypes.byref(named._fields), *arguments, ctypes.byref(count)))
        return count.value
