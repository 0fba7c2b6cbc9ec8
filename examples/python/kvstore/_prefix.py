"""A prompt from its beginning, as tokens or as keys."""

from __future__ import annotations

import array
import ctypes
from typing import Any, Dict, Iterable, List, Mapping, Optional, Protocol, Sequence, Union

from ._errors import InvalidArgument
from ._library import BlockExtra, PrefixFields


class ArrayLike(Protocol):
    """A numpy array, or anything that numpy takes for one."""

    @property
    def __array_interface__(self) -> Dict[str, Any]: ...


class TensorLike(Protocol):
    """A torch tensor."""

    def detach(self) -> Any: ...


#: Token ids.
TokensLike = Union[Sequence[int], ArrayLike, TensorLike]


class Prefix:
    """The blocks of a prompt from its beginning: what every operation of a namespace takes.

    ``len(prefix)`` is its full blocks; a last block that is not full has no key. ``prefix[:n]`` is its first ``n``.
    Made by :meth:`Namespace.prefix` once per prompt, it saves converting tokens for every call.
    """

    __slots__ = ("_fields", "_keep", "_count", "_tokens_per_block", "_extra", "_keys")

    def __init__(
        self,
        tokens_per_block: int,
        tokens: Optional[TokensLike] = None,
        keys: Optional[Iterable[bytes]] = None,
        extra: Optional[Mapping[int, bytes]] = None,
        token_count: int = 0,
    ) -> None:
        if (tokens is None) == (keys is None):
            raise InvalidArgument("a prefix is named either by tokens or by keys")
        self._tokens_per_block = tokens_per_block
        self._extra = dict(extra or {})
        self._keys: Optional[List[bytes]] = None
        if keys is not None:
            self._keys = [bytes(key) for key in keys]
            if self._extra:
                raise InvalidArgument("extra bytes only go with tokens")
            self._set_keys(token_count)
        else:
            address, count, keep = _uint32_buffer(tokens)
            self._set_tokens(address, count, keep)

    def _set_tokens(self, address: int, count: int, keep: object) -> None:
        self._count = count // self._tokens_per_block
        extras = {block: data for block, data in self._extra.items() if block < self._count}
        entries = (BlockExtra * max(1, len(extras)))()
        for entry, (block, data) in zip(entries, extras.items()):
            if block < 0:
                raise InvalidArgument("extra names a block below 0")
            entry.block, entry.bytes, entry.byte_count = block, data, len(data)
        self._fields = PrefixFields(tokens=address, token_count=count, extras=entries, extra_count=len(extras))
        self._keep: object = (keep, entries)

    def _set_keys(self, token_count: int) -> None:
        keys = self._keys or []
        sizes = (ctypes.c_uint32 * max(1, len(keys)))(*[len(key) for key in keys])
        self._count = len(keys)
        # A null pointer would mean tokens, also when there are no keys.
        joined = b"".join(keys) if keys else b"\0"
        self._fields = PrefixFields(keys=joined, key_sizes=sizes, key_count=len(keys), token_count=token_count)
        self._keep = (joined, sizes)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, blocks: slice) -> "Prefix":
        if not isinstance(blocks, slice) or blocks.start not in (None, 0) or blocks.step not in (None, 1):
            raise InvalidArgument("a prefix begins at the first block: prefix[:n]")
        count = len(range(*blocks.indices(self._count)))
        part = Prefix.__new__(Prefix)
        part._tokens_per_block, part._extra, part._keys = self._tokens_per_block, self._extra, None
        if self._keys is None:
            part._set_tokens(self._fields.tokens or 0, count * self._tokens_per_block, self._keep)
        else:
            part._keys = self._keys[:count]
            part._set_keys(0)
        return part

    def __repr__(self) -> str:
        # Neither tokens nor keys: either tells what a prompt is.
        return f"Prefix({self._count} blocks)"


def _uint32_buffer(tokens: Any) -> "tuple[int, int, object]":
    """Address, count and owner of the tokens as 32-bit numbers."""
    if hasattr(tokens, "detach"):
        tokens = tokens.detach().cpu().numpy()
    if hasattr(tokens, "__array_interface__"):
        import numpy

        values = numpy.ascontiguousarray(tokens)
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise InvalidArgument("tokens must be a list, or an array of whole numbers with one axis")
        if values.dtype != numpy.uint32:
            if values.size and (values.min() < 0 or values.max() > 0xFFFF_FFFF):
                raise InvalidArgument("a token is below 0 or above 32 bits")
            values = values.astype(numpy.uint32)
        return values.ctypes.data, values.size, values
    if isinstance(tokens, (bytes, str)):
        raise InvalidArgument("tokens must be numbers")
    try:
        numbers = array.array("I", tokens)
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidArgument(f"tokens must be whole numbers of 0 to 2**32 - 1: {error}") from None
    address, count = numbers.buffer_info()
    # An empty array has no address, and null with a count of 0 is what the library takes for it.
    return address if count else 0, count, numbers


def is_keys(value: object) -> bool:
    """Whether a bare sequence names blocks by keys rather than tokens."""
    return isinstance(value, (list, tuple)) and len(value) > 0 and isinstance(value[0], (bytes, bytearray))
