"""The right to fill blocks in place."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, List, Optional, Sequence

from ._errors import InvalidArgument, InvalidHandle
from ._library import check, library
from ._memory import block_at, numpy_view, readable, torch_view, view_of


class Reservation:
    """Places for the missing blocks of a prefix, to be filled and committed. Empty, and false, when there are none.

    As a context manager it commits at the end of the block and abandons when an exception leaves it. Nobody sees a
    block before the commit, and all places must have been filled by then. After 10 seconds others may reserve the same
    blocks; a late commit then stores nothing, and never harms.

    Fewer places than missing blocks is a normal answer: commit, and reserve again until there are none.

    When it has ended, memoryviews of :attr:`blocks` are invalid and numpy arrays read-only. Nothing must be written
    through slices of them, or through torch tensors, any more: their memory belongs to the store.
    """

    def __init__(self, handle: int, numbers: Sequence[int], addresses: Sequence[int], block_bytes: int) -> None:
        self._handle = handle
        self._block_bytes = block_bytes
        self._addresses = list(addresses)
        self._views: Optional[List[memoryview]] = None
        self._arrays: List[Any] = []
        #: Which block of the prefix each place is for, rising.
        self.block_numbers: List[int] = list(numbers)
        #: Blocks that the commit made visible; None before it.
        self.committed: Optional[int] = None

    def __len__(self) -> int:
        return len(self._addresses)

    def __bool__(self) -> bool:
        return bool(self._addresses)

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(self, kind: Optional[type], *_: object) -> None:
        if not self._handle:
            return
        if kind is None:
            self.commit()
        else:
            self.abandon()

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            self._end()

    def __repr__(self) -> str:
        return f"Reservation({len(self)} blocks{'' if self._handle or not self else ', ended'})"

    def _checked(self) -> None:
        if not self._handle and self._addresses:
            raise InvalidHandle("the reservation was committed or abandoned already")

    @property
    def addresses(self) -> List[int]:
        """Where the places are. Good until the reservation ends, and nothing checks that."""
        self._checked()
        return list(self._addresses)

    @property
    def blocks(self) -> List[memoryview]:
        """The places as writable bytes."""
        self._checked()
        if self._views is None:
            self._views = [view_of(block) for block in self._made()]
        return list(self._views)

    def _made(self) -> List["ctypes.Array[ctypes.c_ubyte]"]:
        self._checked()
        return [block_at(address, self._block_bytes, None) for address in self._addresses]

    def numpy(self, dtype: Any, shape: Any = None) -> List[Any]:
        """The places as writable numpy arrays, without a copy."""
        arrays = [numpy_view(view_of(block), dtype, shape) for block in self._made()]
        self._arrays += [weakref.ref(array) for array in arrays]
        return arrays

    def torch(self, dtype: Any = None, shape: Any = None) -> List[Any]:
        """The places as torch tensors (bytes unless ``dtype`` says otherwise), without a copy."""
        return [torch_view(block, dtype, shape) for block in self._made()]

    def copy_from(self, index: int, data: Any) -> None:
        """Fills place ``index`` from bytes, an array or a tensor of a block's size."""
        self._checked()
        if not 0 <= index < len(self._addresses):
            raise InvalidArgument(f"the reservation has {len(self)} places; {index} is none of them")
        address, size, _owner = readable(data)
        if size != self._block_bytes:
            raise InvalidArgument(f"a block has {self._block_bytes} bytes, not {size}")
        ctypes.memmove(self._addresses[index], address, size)

    def commit(self) -> int:
        """Makes the blocks visible and ends the reservation. Returns how many became visible."""
        self._checked()
        visible = ctypes.c_size_t()
        if self._handle:
            handle = self._detach()
            check(library().kvstore_commit(handle, ctypes.byref(visible)))
        self.committed = visible.value
        return visible.value

    def abandon(self) -> None:
        """Gives the places back without storing anything. May be called twice."""
        if self._handle:
            self._end()

    def _end(self) -> None:
        handle = self._detach()
        # Of a forked child: a status, which nobody needs here.
        library().kvstore_abandon(handle)

    def _detach(self) -> int:
        handle, self._handle = self._handle, 0
        for array in self._arrays:
            values = array()
            if values is not None:
                values.flags.writeable = False
        self._arrays = []
        for view in self._views or []:
            try:
                view.release()
            except BufferError:
                pass
        self._views = None
        return handle


def reserve(handle: Optional[int], prefix: Any, block_bytes: int) -> Reservation:
    """Reserves through a namespace's handle; an empty reservation for none."""
    count = len(prefix)
    if handle is None or count == 0:
        return Reservation(0, [], [], block_bytes)
    numbers = (ctypes.c_uint32 * count)()
    places = (ctypes.c_void_p * count)()
    reservation, found = ctypes.c_uint64(), ctypes.c_size_t()
    is_any = check(
        library().kvstore_reserve(
            handle,
            ctypes.byref(prefix._fields),
            ctypes.byref(reservation),
            numbers,
            places,
            count,
            ctypes.byref(found),
        )
    )
    if not is_any:
        return Reservation(0, [], [], block_bytes)
    addresses = [place or 0 for place in places[: found.value]]
    return Reservation(reservation.value, numbers[: found.value], addresses, block_bytes)
