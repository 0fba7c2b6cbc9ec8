"""The daemon goes in the middle of a process that talks on, and comes back."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kvstore
import torch
from chat import Answer, Chat
from checks import Checks
from daemon import Daemon
from kv_blocks import Blocks, NoBlocks, ProcessBlocks, StoredBlocks, Use
from transformers import DynamicCache


@dataclass
class Turn:
    answer: Answer
    use: Use


def check_interrupted(check: Checks, model: Path, daemon: Daemon, conversation: dict[str, Any]) -> None:
    """It goes during the second of three turns: when blocks were loaded, or when places for new ones were filled."""
    daemon.restart()
    torch.set_num_threads(1)
    chat = Chat(model, "auto", "none", None, argparse.Namespace(tokens=16, block=64))
    ways = {"killed": (daemon.kill, daemon.start), "stopped by SIGSTOP": (daemon.hang, daemon.resume)}
    cases = [(way, moment) for way in ways for moment in ("load", "_fill")]
    for number, (way, moment) in enumerate(cases):
        what = f"{way} after {'loading' if moment == 'load' else 'filling places'}"
        turns = [f"{number} {conversation['system']}", *conversation["turns"]]
        computed, kept = _talk(chat, NoBlocks(), turns), _talk(chat, ProcessBlocks(64), turns)
        with kvstore.Store.connect(daemon.socket, timeout_ms=3000) as store:
            go, come_back = ways[way]
            blocks = StoredBlocks(chat.model, store, 64)
            found = _talk(chat, blocks, turns, before_second=lambda: _once_after(blocks, moment, go))
            check(f"{what}: tokens as without a cache", _all("tokens", found) == _all("tokens", computed))
            # By then the second turn had what it needs; the third finds nothing.
            right = _all("logits_digest", kept[:2] + computed[2:])
            check(f"{what}: logits bit for bit", _all("logits_digest", found) == right)
            restored = [turn.use.restored_blocks for turn in found]
            stored = [turn.use.stored_blocks for turn in found]
            check(f"{what}: found before, not after", restored[0] == 0 < restored[1] and restored[2] == 0, restored)
            check(f"{what}: stored before, not after", stored[0] > 0 and stored[1:] == [0, 0], stored)
            come_back()
            _comes_back(check, what, chat, blocks, list(range(1000 * number, 1000 * number + 129)))


def _comes_back(check: Checks, what: str, chat: Chat, blocks: StoredBlocks, tokens: list[int]) -> None:
    """The same process finds the daemon again, without being told."""
    cache = DynamicCache()
    with torch.inference_mode():
        chat.model(torch.tensor([tokens]), past_key_values=cache, use_cache=True)
    end = time.monotonic() + 30
    while not blocks.load(tokens)[1] and time.monotonic() < end:
        blocks.save(tokens, cache)
        time.sleep(0.05)
    check(f"{what}: it is found again, and stores again", blocks.load(tokens)[1] == 128)


def _once_after(blocks: StoredBlocks, name: str, action: Callable[[], None]) -> None:
    """After the next call of a method, once."""
    method = getattr(blocks, name)

    def call(*arguments: Any) -> Any:
        result = method(*arguments)
        setattr(blocks, name, method)
        action()
        return result

    setattr(blocks, name, call)


def _talk(
    chat: Chat, blocks: Blocks, turns: list[str], before_second: Callable[[], None] = lambda: None
) -> list[Turn]:
    chat.blocks = blocks
    messages = [{"role": "system", "content": turns[0]}]
    found = []
    for number, text in enumerate(turns[1:]):
        if number == 1:
            before_second()
        messages.append({"role": "user", "content": text})
        answer = chat.answer(messages)
        messages.append({"role": "assistant", "content": answer.text})
        found.append(Turn(answer, blocks.use))
    return found


def _all(name: str, turns: list[Turn]) -> list[Any]:
    return [getattr(turn.answer, name) for turn in turns]
