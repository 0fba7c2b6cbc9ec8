"""The right to read blocks in place."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, List, Optional, Sequence

from ._errors import InvalidArgument, InvalidHandle
from ._library import check, library
from ._memory import block_at, numpy_view, torch_view, view_of, writable


class _Hold:
    """Ends a lease when nothing looks at its memory any more."""

    __slots__ = ("handle", "_release", "__weakref__")

    def __init__(self, handle: int) -> None:
        self.handle = handle
        # Bound here: at the interpreter's end modules may be gone before this object.
        self._release = library().kvstore_release

    def __del__(self) -> None:
        # Of a forked child, or twice: a status, which nobody needs here.
        self._release(self.handle)


class Lease:
    """The leading blocks of a prefix that are stored, readable in place. Empty, and false, when the first is a miss.

    While the lease lives none of its blocks is overwritten, moved or unmapped. It ends with :meth:`release`, with its
    ``with`` block, or when the object goes. Views handed out before then: memoryviews of :attr:`blocks` become invalid
    (using one raises ``ValueError``). numpy arrays, torch tensors and slices of memoryviews cannot be made invalid, so
    the blocks stay pinned until the last of them is gone; :meth:`release` says so by returning False. Nothing that
    Python can reach ever points to memory that was given to somebody else.

    The memory is read-only. torch knows no such tensors: a write to one ends the process with a daemon, and damages the
    stored block in a store of this process.
    """

    def __init__(self, hold: Optional[_Hold], addresses: Sequence[int], block_bytes: int) -> None:
        self._hold = hold
        self._addresses = list(addresses)
        self._block_bytes = block_bytes
        self._count = len(self._addresses)
        self._views: Optional[List[memoryview]] = None

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return self._count > 0

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"Lease({self._count} blocks{'' if self._hold or not self._count else ', released'})"

    def _checked(self) -> Optional[_Hold]:
        if self._hold is None and self._count:
            raise InvalidHandle("the lease was released already")
        return self._hold

    @property
    def addresses(self) -> List[int]:
        """Where the blocks are. Good until the lease ends, and nothing checks that."""
        self._checked()
        return list(self._addresses)

    @property
    def blocks(self) -> List[memoryview]:
        """The blocks as read-only bytes, head first."""
        self._checked()
        if self._views is None:
            self._views = [view_of(block).toreadonly() for block in self._made()]
        return list(self._views)

    def _made(self) -> List["ctypes.Array[ctypes.c_ubyte]"]:
        hold = self._checked()
        return [block_at(address, self._block_bytes, hold) for address in self._addresses]

    @property
    def tiers(self) -> List[str]:
        """Where each block was found: "memory" or "disk"."""
        hold = self._checked()
        if hold is None:
            return []
        codes = (ctypes.c_uint8 * self._count)()
        check(library().kvstore_lease_blocks(hold.handle, 0, self._count, None, codes))
        return ["disk" if code else "memory" for code in codes]

    def numpy(self, dtype: Any, shape: Any = None) -> List[Any]:
        """The blocks as read-only numpy arrays, without a copy."""
        return [numpy_view(view_of(block).toreadonly(), dtype, shape) for block in self._made()]

    def torch(self, dtype: Any = None, shape: Any = None) -> List[Any]:
        """The blocks as torch tensors (bytes unless ``dtype`` says otherwise), without a copy. Do not write to them."""
        return [torch_view(block, dtype, shape) for block in self._made()]

    def copy_into(self, index: int, buffer: Any, offset: int = 0) -> None:
        """Copies block ``index`` to a buffer or tensor from byte ``offset`` on."""
        self._checked()
        if not 0 <= index < self._count:
            raise InvalidArgument(f"the lease has {self._count} blocks; {index} is none of them")
        address, size, _owner = writable(buffer)
        if offset < 0 or offset + self._block_bytes > size:
            raise InvalidArgument(f"a block of {self._block_bytes} bytes does not fit at {offset} of {size}")
        ctypes.memmove(address + offset, self._addresses[index], self._block_bytes)

    @property
    def is_current(self) -> bool:
        """Whether every byte read under the lease up to now was the right one. If not, throw away what was read.

        Always so in a store of this process. With a daemon it is false after this process was stopped for longer than
        the daemon's lease time.
        """
        hold = self._checked()
        return hold is None or check(library().kvstore_lease_is_current(hold.handle))

    def release(self) -> bool:
        """Ends the lease. False when views are still alive: it then ends with the last of them. May be called twice."""
        for view in self._views or []:
            try:
                view.release()
            except BufferError:
                # A numpy array or another object looks through it, and keeps what it needs.
                pass
        self._views = None
        hold, self._hold = self._hold, None
        if hold is None:
            return True
        alive = weakref.ref(hold)
        del hold
        return alive() is None


def acquire(handle: Optional[int], prefix: Any, block_bytes: int, memory_only: bool) -> Lease:
    """Takes a lease through a namespace's handle; an empty one for none."""
    count = len(prefix)
    if handle is None or count == 0:
        return Lease(None, [], block_bytes)
    addresses = (ctypes.c_void_p * count)()
    lease, found = ctypes.c_uint64(), ctypes.c_size_t()
    is_hit = check(
        library().kvstore_acquire(
            handle,
            ctypes.byref(prefix._fields),
            1 if memory_only else 0,
            ctypes.byref(lease),
            addresses,
            count,
            ctypes.byref(found),
        )
    )
    if not is_hit:
        return Lease(None, [], block_bytes)
    return Lease(_Hold(lease.value), [address or 0 for address in addresses[: found.value]], block_bytes)
