"""Which blocks a model may share: any other number in its weights or its configuration gives it another name."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from checks import Checks
from kv_blocks import digest_of, digest_of_config, identity_of, shape_of
from transformers import AutoConfig, AutoModelForCausalLM, BambaConfig, JambaConfig, LlamaConfig, MambaConfig

SMALL = dict(vocab_size=64, hidden_size=32, num_hidden_layers=4, intermediate_size=32)
HEADS = dict(num_attention_heads=2, num_key_value_heads=2)


def check_names(check: Checks, directory: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto").eval()
    name = identity_of(model, shape_of(model), 64)
    again = AutoModelForCausalLM.from_pretrained(directory, dtype="auto").eval()
    check("names: the same model has the same one", identity_of(again, shape_of(again), 64) == name)
    _changed_numbers(check, model)
    _changed_configuration(check, directory)
    model.set_attn_implementation("eager")
    check("names: another implementation of attention", identity_of(model, shape_of(model), 64) != name)
    _refused(check)


def _changed_numbers(check: Checks, model: Any) -> None:
    """One number of every tensor, wherever it lies, as little as its type can tell."""
    name, picked = digest_of(model), random.Random(1)
    tensors = model.state_dict() | dict(model.named_buffers())
    unnoticed = []
    for title, tensor in tensors.items():
        flat = tensor.detach().view(-1)
        place = picked.randrange(len(flat))
        kept = flat[place].clone()
        flat[place] = torch.nextafter(kept, torch.tensor(torch.inf, dtype=kept.dtype))
        if digest_of(model) == name:
            unnoticed.append(title)
        flat[place] = kept
    check(f"names: one number changed in each of {len(tensors)} tensors", not unnoticed, unnoticed or "")
    check("names: and changed back", digest_of(model) == name)


def _leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        elif isinstance(value, (int, float)):
            yield (*path, key)


def _changed_configuration(check: Checks, directory: Path) -> None:
    config = AutoConfig.from_pretrained(directory)
    name, values = digest_of_config(config), config.to_dict()
    unnoticed, count = [], 0
    for path in _leaves(values):
        changed = copy.deepcopy(values)
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        value = inner[path[-1]]
        inner[path[-1]] = not value if isinstance(value, bool) else value + 1
        try:
            other = type(config).from_dict(changed)
        except Exception:  # no such model
            continue
        count += 1
        if digest_of_config(other) == name:
            unnoticed.append(".".join(path))
    check(f"names: {count} values of the configuration changed", count > 15 and not unnoticed, unnoticed or "")
    config._name_or_path = "elsewhere"
    check("names: where it lies is no part of that", digest_of_config(config) == name)


def _refused(check: Checks) -> None:
    """Models with layers that are no attention, and positions that depend on what comes after."""
    mixed = dict(attn_layer_period=2, attn_layer_offset=0, mamba_d_state=8)
    rope = dict(rope_theta=10_000.0, factor=2.0)
    factors = dict(short_factor=[1.0] * 8, long_factor=[2.0] * 8, original_max_position_embeddings=64)
    configs = {
        "Mamba": MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8),
        "Jamba": JambaConfig(**SMALL, **HEADS, **mixed),
        "Bamba": BambaConfig(**SMALL, **HEADS, attn_layer_indices=[0], mamba_n_heads=2, mamba_d_state=8),
        "LongRoPE": LlamaConfig(**SMALL, **HEADS, rope_parameters=rope | factors | {"rope_type": "longrope"}),
        "dynamic RoPE": LlamaConfig(**SMALL, **HEADS, rope_parameters=rope | {"rope_type": "dynamic"}),
    }
    for title, config in configs.items():
        try:
            shape_of(AutoModelForCausalLM.from_config(config).eval())
            check(f"{title} is refused", False)
        except ValueError as error:
            check(f"{title} is refused", True, error)
    plain = LlamaConfig(**SMALL, **HEADS, rope_parameters={"rope_type": "linear"} | rope)
    check("linear RoPE is not refused", shape_of(AutoModelForCausalLM.from_config(plain).eval()).layers == 4)
