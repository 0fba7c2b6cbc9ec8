"""Memory that the library points to, and memory of callers, as Python sees it."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Tuple, Type

from ._errors import InvalidArgument


@functools.lru_cache(maxsize=64)
def block_type(size: int) -> Type["ctypes.Array[ctypes.c_ubyte]"]:
    """A type for ``size`` bytes whose objects can carry an owner: the plain type has no attributes."""
    return type("Block", (ctypes.c_ubyte * size,), {})


def block_at(address: int, size: int, owner: object) -> "ctypes.Array[ctypes.c_ubyte]":
    """The bytes at an address. ``owner`` lives as long as anything that looks at them."""
    block = block_type(size).from_address(address)
    block.owner = owner  # type: ignore[attr-defined]
    return block


def view_of(block: "ctypes.Array[ctypes.c_ubyte]") -> memoryview:
    """A view of unsigned bytes."""
    return memoryview(block).cast("B")


def numpy_view(view: memoryview, dtype: Any, shape: Any) -> Any:
    """A numpy array over a view, without a copy."""
    import numpy

    values = numpy.frombuffer(view, dtype=dtype)
    return values if shape is None else values.reshape(shape)


def torch_view(block: "ctypes.Array[ctypes.c_ubyte]", dtype: Any, shape: Any) -> Any:
    """A torch tensor over a block, without a copy."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    values = torch.frombuffer(block, dtype=torch.uint8 if dtype is None else dtype)
    return values if shape is None else values.view(shape)


def readable(data: Any) -> Tuple[int, int, object]:
    """Address, size and owner of a caller's bytes: torch tensors, arrays, bytes and everything with a buffer."""
    if hasattr(data, "data_ptr"):
        return _tensor(data)
    if hasattr(data, "__array_interface__"):
        import numpy

        values = numpy.ascontiguousarray(data)
        return values.ctypes.data, values.nbytes, values
    view = memoryview(data)
    if not view.contiguous:
        raise InvalidArgument("the data must lie in one piece")
    view = view.cast("B")
    if view.readonly:
        # ctypes takes the address of writable buffers and of bytes; anything else is copied.
        held = view.obj if isinstance(view.obj, bytes) and len(view.obj) == view.nbytes else bytes(view)
        return ctypes.cast(ctypes.c_char_p(held), ctypes.c_void_p).value or 0, len(held), held
    return _writable_view(view)


def writable(buffer: Any) -> Tuple[int, int, object]:
    """Address, size and owner of memory of the caller's to write to."""
    if hasattr(buffer, "data_ptr"):
        return _tensor(buffer)
    view = memoryview(buffer)
    if view.readonly or not view.contiguous:
        raise InvalidArgument("the buffer must be writable and lie in one piece")
    return _writable_view(view.cast("B"))


def _writable_view(view: memoryview) -> Tuple[int, int, object]:
    if view.nbytes == 0:
        return 0, 0, view
    held = (ctypes.c_ubyte * view.nbytes).from_buffer(view)
    return ctypes.addressof(held), view.nbytes, held


def _tensor(tensor: Any) -> Tuple[int, int, object]:
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise InvalidArgument("a tensor must be contiguous and in the processor's memory")
    return tensor.data_ptr(), tensor.numel() * tensor.element_size(), tensor
