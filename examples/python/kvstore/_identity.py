"""The complete identity of one model instance."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import List, Mapping, Optional, Union

from ._errors import InvalidArgument
from ._library import Field, IdentityFields

_KEYS_ONLY = 0xFFFF_FFFF
#: Name of an element type: its code in kvstore.h, its bytes.
_DTYPES = {
    "opaque": (0, 1),
    "bf16": (1, 2),
    "fp16": (2, 2),
    "fp8e4m3": (3, 1),
    "int8": (4, 1),
    "fp32": (5, 4),
    "fp8e5m2": (6, 1),
}


@dataclass(frozen=True)
class Identity:
    """Everything that decides whether two blocks of the same tokens are interchangeable.

    Two engines share blocks when, and only when, all of it is equal. Engines whose pages have a layout that only they
    know say ``dtype="opaque"`` and ``opaque_block_bytes``, and put whatever decides the layout into ``additional``.

    ``value_heads`` and ``value_head_dimension`` are those of the keys unless given; 0 means keys only, as with MLA. A
    daemon decides tenant and salt by the connection and does not look at these.
    """

    model: str
    revision: str = ""
    dtype: str = "bf16"
    layers: int = 0
    key_heads: int = 0
    value_heads: Optional[int] = None
    key_head_dimension: int = 0
    value_head_dimension: Optional[int] = None
    tokens_per_block: int = 16
    tensor_parallel_rank: int = 0
    tensor_parallel_size: int = 1
    pipeline_parallel_rank: int = 0
    pipeline_parallel_size: int = 1
    layout_tag: str = "LKTHD"
    adapter: str = ""
    tenant: str = ""
    salt: bytes = field(default=b"", repr=False)
    additional: Mapping[str, Union[str, int, bool, bytes]] = field(default_factory=dict, hash=False)
    opaque_block_bytes: Optional[int] = None
    allows_lossy_int8: bool = False

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        if self.opaque_block_bytes is not None:
            return self.opaque_block_bytes
        keys = self.key_heads * self.key_head_dimension
        value_heads = self.key_heads if self.value_heads is None else self.value_heads
        value_dimension = self.key_head_dimension if self.value_head_dimension is None else self.value_head_dimension
        return self.layers * (keys + value_heads * value_dimension) * self.tokens_per_block * _dtype(self.dtype)[1]

    def _fields(self, keep: List[object]) -> IdentityFields:
        """The struct of kvstore.h; what it points to is put into ``keep``."""

        def text(value: str, name: str) -> bytes:
            encoded = value.encode("utf-8")
            if b"\0" in encoded:
                raise InvalidArgument(f"{name} has a NUL in it")
            return encoded

        def number(value: int, name: str) -> int:
            if not 0 <= value < _KEYS_ONLY:
                raise InvalidArgument(f"{name} is {value}; it must be 0 to 65535")
            return value

        def part(value: Optional[int], name: str) -> int:
            if value is None:
                return 0
            return number(value, name) or _KEYS_ONLY

        if self.tensor_parallel_size < 1 or self.pipeline_parallel_size < 1:
            raise InvalidArgument("a parallel size must be at least 1")
        opaque = self.opaque_block_bytes
        if opaque is not None and not 0 < opaque < 1 << 62:
            raise InvalidArgument(f"opaque_block_bytes is {opaque}; it must be positive")
        fields = IdentityFields(
            element_type=_dtype(self.dtype)[0],
            model=text(self.model, "model"),
            revision=text(self.revision, "revision"),
            layout_tag=text(self.layout_tag, "layout_tag"),
            adapter=text(self.adapter, "adapter"),
            tenant=text(self.tenant, "tenant"),
            salt=self.salt or None,
            salt_size=len(self.salt),
            layers=number(self.layers, "layers"),
            key_heads=number(self.key_heads, "key_heads"),
            value_heads=part(self.value_heads, "value_heads"),
            key_head_dimension=number(self.key_head_dimension, "key_head_dimension"),
            value_head_dimension=part(self.value_head_dimension, "value_head_dimension"),
            tokens_per_block=number(self.tokens_per_block, "tokens_per_block"),
            tensor_parallel_rank=number(self.tensor_parallel_rank, "tensor_parallel_rank"),
            tensor_parallel_size=number(self.tensor_parallel_size, "tensor_parallel_size"),
            pipeline_parallel_rank=number(self.pipeline_parallel_rank, "pipeline_parallel_rank"),
            pipeline_parallel_size=number(self.pipeline_parallel_size, "pipeline_parallel_size"),
            opaque_block_bytes=opaque or 0,
            allows_lossy_int8=int(self.allows_lossy_int8),
            field_count=len(self.additional),
        )
        extra = (Field * max(1, len(self.additional)))()
        for entry, (name, value) in zip(extra, self.additional.items()):
            entry.name = text(name, "a name in additional")
            _set(entry, name, value)
        fields.fields = extra
        keep.extend([fields, extra])
        return fields


def _set(entry: Field, name: str, value: Union[str, int, bool, bytes]) -> None:
    # bool before int: True is an int to Python, and another value to kvstore.
    if isinstance(value, bool):
        entry.type, entry.integer = 2, int(value)
    elif isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise InvalidArgument(f"additional[{name!r}] does not fit 64 bits")
        entry.type, entry.integer = 1, value
    elif isinstance(value, str):
        encoded = value.encode("utf-8")
        entry.type, entry.bytes, entry.byte_count = 0, encoded, len(encoded)
    elif isinstance(value, bytes):
        entry.type, entry.bytes, entry.byte_count = 3, value, len(value)
    else:
        raise InvalidArgument(f"additional[{name!r}] is a {type(value).__name__}; use str, int, bool or bytes")


def _dtype(name: str) -> "tuple[int, int]":
    try:
        return _DTYPES[name]
    except KeyError:
        raise InvalidArgument(f"dtype {name!r} is none of {', '.join(_DTYPES)}") from None
