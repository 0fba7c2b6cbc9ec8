"""What a store costs a prompt of which nothing is stored: one process computes it with and without one, in turns."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import kvstore
import torch
from chat import Chat
from daemon import Daemon
from kv_blocks import NoBlocks, StoredBlocks
from turns import Run, compare_in_turns


def measure_overhead(model: Path, directory: Path, pairs: int, prompts: list[str]) -> dict[str, Any]:
    """`prompts` are one more than pairs, and begin differently."""
    torch.set_num_threads(os.cpu_count() or 2)
    chat = Chat(model, "auto", "none", None, argparse.Namespace(tokens=1, block=64))
    with (
        Daemon(directory / "overhead", memory="1GiB", disk="16GiB") as daemon,
        kvstore.Store.connect(daemon.socket, timeout_ms=10_000, client_name="transformers") as store,
    ):
        places = {False: NoBlocks(), True: StoredBlocks(chat.model, store, 64)}

        def run(number: int, with_store: bool) -> Run:
            chat.blocks = places[with_store]
            answer = chat.answer([{"role": "user", "content": prompts[number]}])
            blocks = (answer.prompt_tokens - 1) // 64 if with_store else 0
            use = chat.blocks.use
            assert use.restored_blocks == 0 and use.stored_blocks >= blocks, f"not a prompt that is stored whole: {use}"
            first = (answer.first_token_seconds, answer.first_token_processor_seconds)
            return Run(*(1000 * value for value in (*first, answer.save_seconds, answer.save_processor_seconds)))

        tokens = chat.answer([{"role": "user", "content": prompts[0]}]).prompt_tokens
        return compare_in_turns(daemon, pairs, tokens, run)
