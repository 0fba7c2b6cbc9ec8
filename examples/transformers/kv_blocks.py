"""The KV of any causal language model of transformers, in and out of kvstore, block by block.

    blocks = StoredBlocks(model, kvstore.Store.connect("/run/kvstore/kvstore.sock"))
    cache, known = blocks.load(tokens)         # a DynamicCache with the KV of the first `known` tokens
    model(tokens[known:], past_key_values=cache)
    blocks.save(tokens, cache)                 # the blocks that are missing

A block is `[layer][K or V][token][head][dimension]`. Its name covers its tokens and all before them, the model (digests
of all numbers that are loaded and of the whole configuration), the element type and the code that computes.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import kvstore
import torch
import transformers
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
# Other kinds of layers carry a state from token to token, of which a block would have to hold what it was at its end.
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True)
class Shape:
    """What one layer keeps of one token."""

    layers: int
    heads: int
    key_dimension: int
    value_dimension: int
    dtype: torch.dtype

    @property
    def key_numbers(self) -> int:
        return self.heads * self.key_dimension

    @property
    def value_numbers(self) -> int:
        return self.heads * self.value_dimension


def refuse_unsuitable(config: PretrainedConfig) -> None:
    """Raises for models whose KV of a token depends on more than the tokens before it, or is not all there is."""
    if config.is_encoder_decoder:
        raise ValueError("the KV of a model with an encoder depends on more than the tokens before it")
    if kinds := set(getattr(config, "layer_types", None) or []) - ATTENTION_LAYERS:
        raise ValueError(f"layers of kind {', '.join(sorted(kinds))} keep a state that is not KV of single tokens")
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        kind = parameters.get("rope_type") or ""
        if "dynamic" in kind or kind == "longrope":
            raise ValueError(f"positions of type {kind} rotate a token's keys by how many tokens come after it")


def shape_of(model: PreTrainedModel) -> Shape:
    """Found by computing one token. Raises for models that blocks do not fit."""
    config = model.config.get_text_config()
    refuse_unsuitable(config)
    cache = DynamicCache()
    with torch.inference_mode():
        model(torch.zeros((1, 1), dtype=torch.long), past_key_values=cache, use_cache=True)
    if any(getattr(layer, "keys", None) is None for layer in cache.layers):
        raise ValueError("not all layers of this model keep KV")
    if len(cache.layers) != config.num_hidden_layers:
        raise ValueError(f"{len(cache.layers)} of {config.num_hidden_layers} layers of this model keep KV")
    shapes = {(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in cache.layers}
    if len(shapes) != 1:
        raise ValueError("the layers of this model keep different shapes; only models of one shape are supported")
    heads, key_dimension, value_dimension = shapes.pop()
    return Shape(len(cache.layers), heads, key_dimension, value_dimension, cache.layers[0].keys.dtype)


def digest_of(model: PreTrainedModel) -> str:
    """A name for every number that is loaded: of each tensor its name, shape, type and all of its bytes."""
    digest = hashlib.sha256()
    # Buffers that are in no file too, such as the frequencies that positions are made with.
    tensors = model.state_dict() | dict(model.named_buffers())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def digest_of_config(config: PretrainedConfig) -> str:
    """A name for the whole configuration, but for where it was read and what wrote it."""
    values = json.loads(config.to_json_string(use_diff=False))
    for name in "_name_or_path", "transformers_version":
        values.pop(name, None)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def identity_of(model: PreTrainedModel, shape: Shape, tokens_per_block: int) -> kvstore.Identity:
    """Everything that the bytes of a block depend on."""
    return kvstore.Identity(
        model=model.config.name_or_path or type(model).__name__,
        revision=digest_of(model),
        dtype=DTYPES[shape.dtype],
        layers=shape.layers,
        key_heads=shape.heads,
        value_heads=shape.heads,
        key_head_dimension=shape.key_dimension,
        value_head_dimension=shape.value_dimension,
        tokens_per_block=tokens_per_block,
        additional={
            "engine": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "class": type(model).__name__,
            "configuration": digest_of_config(model.config),
            "attention": str(model.config._attn_implementation),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        },
    )


@dataclass
class Use:
    """What a request did with blocks. Digests are of each block's bytes, by a digest of the tokens up to its end."""

    restored_blocks: int = 0
    disk_blocks: int = 0
    stored_blocks: int = 0
    restored_digests: dict[str, str] = field(default_factory=dict)
    stored_digests: dict[str, str] = field(default_factory=dict)


class Blocks(Protocol):
    """Where blocks are kept."""

    use: Use

    def load(self, tokens: list[int]) -> tuple[DynamicCache, int]: ...

    def save(self, tokens: list[int], cache: DynamicCache) -> None: ...


class StoredBlocks:
    """Blocks in kvstore."""

    def __init__(
        self, model: PreTrainedModel, store: kvstore.Store, tokens_per_block: int = 64, digests: bool = False
    ) -> None:
        self.shape = shape_of(model)
        self.tokens_per_block = tokens_per_block
        self.digests = digests
        self.use = Use()
        self.space = store.namespace(identity_of(model, self.shape, tokens_per_block))

    def load(self, tokens: list[int]) -> tuple[DynamicCache, int]:
        """The KV of as many leading blocks as are stored, at least one token short of all."""
        self.use = Use()
        whole = (len(tokens) - 1) // self.tokens_per_block * self.tokens_per_block
        with self.space.acquire(self.space.prefix(tokens=tokens[:whole])) as lease:
            if not lease:
                return DynamicCache(), 0
            numbers = lease.torch(self.shape.dtype, (-1,))
            layers = [self._layer(numbers, layer) for layer in range(self.shape.layers)]
            self.use.restored_blocks = len(numbers)
            self.use.disk_blocks = lease.tiers.count("disk")
            if self.digests:
                self.use.restored_digests = self._digests(tokens, range(len(numbers)), lease.blocks)
            count = len(numbers) * self.tokens_per_block
            del numbers
            if not lease.is_current:  # this process was stopped for longer than the daemon waits
                self.use = Use()
                return DynamicCache(), 0
        return DynamicCache(layers), count

    def save(self, tokens: list[int], cache: DynamicCache) -> None:
        """Stores the missing blocks of tokens whose KV is in the cache, as many at a time as there is room for."""
        whole = min(len(tokens), cache.get_seq_length()) // self.tokens_per_block * self.tokens_per_block
        prefix = self.space.prefix(tokens=tokens[:whole])
        while reservation := self.space.reserve(prefix):
            with reservation:
                self._fill(reservation, cache)
                if self.digests:
                    numbers = reservation.block_numbers
                    self.use.stored_digests |= self._digests(tokens, numbers, reservation.blocks)
            if not reservation.committed:
                break
            self.use.stored_blocks += reservation.committed

    @torch.no_grad()
    def _fill(self, reservation: kvstore.Reservation, cache: DynamicCache) -> None:
        for number, block in zip(reservation.block_numbers, reservation.torch(self.shape.dtype, (-1,))):
            tokens = slice(number * self.tokens_per_block, (number + 1) * self.tokens_per_block)
            for layer, (keys, values) in zip(cache.layers, self._parts(block)):
                keys.copy_(layer.keys[0, :, tokens].transpose(0, 1))
                values.copy_(layer.values[0, :, tokens].transpose(0, 1))

    def _digests(self, tokens: list[int], numbers: Iterable[int], blocks: list[memoryview]) -> dict[str, str]:
        ends = [(number + 1) * self.tokens_per_block for number in numbers]
        names = (_digest(array("I", tokens[:end])) for end in ends)
        return dict(zip(names, map(_digest, blocks)))

    def _parts(self, block: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer in a block, as `[token][head][dimension]`."""
        shape, tokens = self.shape, self.tokens_per_block
        sizes = [tokens * shape.key_numbers, tokens * shape.value_numbers] * shape.layers
        parts = block.split(sizes)
        for keys, values in zip(parts[::2], parts[1::2]):
            yield (
                keys.view(tokens, shape.heads, shape.key_dimension),
                values.view(tokens, shape.heads, shape.value_dimension),
            )

    def _layer(self, blocks: list[torch.Tensor], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one layer over all blocks, as `[1][head][token][dimension]`: copies."""
        shape, tokens = self.shape, self.tokens_per_block
        key_size, value_size = tokens * shape.key_numbers, tokens * shape.value_numbers
        start = layer * (key_size + value_size)
        keys = torch.empty((1, shape.heads, len(blocks) * tokens, shape.key_dimension), dtype=shape.dtype)
        values = torch.empty((1, shape.heads, len(blocks) * tokens, shape.value_dimension), dtype=shape.dtype)
        for number, block in enumerate(blocks):
            place = slice(number * tokens, (number + 1) * tokens)
            part = block[start : start + key_size].view(tokens, shape.heads, shape.key_dimension)
            keys[0, :, place].copy_(part.transpose(0, 1))
            part = block[start + key_size : start + key_size + value_size]
            values[0, :, place].copy_(part.view(tokens, shape.heads, shape.value_dimension).transpose(0, 1))
        return keys, values


class ProcessBlocks:
    """Blocks kept in this process, as a chat loop without a store keeps its `past_key_values`: what to compare with."""

    def __init__(self, tokens_per_block: int = 64, most_blocks: int | None = None) -> None:
        self.tokens_per_block = tokens_per_block
        self.most_blocks = most_blocks
        self.use = Use()
        self.kept: dict[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def load(self, tokens: list[int]) -> tuple[DynamicCache, int]:
        """The KV of as many leading blocks as are kept, at least one token short of all."""
        self.use = Use()
        found = []
        while len(found) != self.most_blocks and (end := (len(found) + 1) * self.tokens_per_block) < len(tokens):
            block = self.kept.get(tuple(tokens[:end]))
            if block is None:
                break
            found.append(block)
        if not found:
            return DynamicCache(), 0
        self.use.restored_blocks = len(found)
        layers = [tuple(torch.cat(part, dim=2) for part in zip(*layer)) for layer in zip(*found)]
        return DynamicCache(layers), len(found) * self.tokens_per_block

    def save(self, tokens: list[int], cache: DynamicCache) -> None:
        """Keeps the blocks that are missing."""
        count = min(len(tokens), cache.get_seq_length())
        for end in range(self.tokens_per_block, count + 1, self.tokens_per_block):
            place = slice(end - self.tokens_per_block, end)
            block = [(layer.keys[:, :, place].clone(), layer.values[:, :, place].clone()) for layer in cache.layers]
            self.kept.setdefault(tuple(tokens[:end]), block)


class NoBlocks:
    """Nothing is kept: every request is computed in full."""

    def __init__(self) -> None:
        self.use = Use()

    def load(self, tokens: list[int]) -> tuple[DynamicCache, int]:
        return DynamicCache(), 0

    def save(self, tokens: list[int], cache: DynamicCache) -> None:
        pass


def _digest(numbers: memoryview | array[int]) -> str:
    return hashlib.sha256(numbers).hexdigest()[:32]
