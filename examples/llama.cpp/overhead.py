"""What a store costs a prompt of which nothing is stored: processes with and without one compute it, in turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from daemon import Daemon
from turns import Run, compare_in_turns


class Runs(Protocol):
    def run(self, text: str, socket: Path | None = None) -> dict[str, Any]: ...


def measure_overhead(program: Runs, directory: Path, pairs: int, prompts: list[str]) -> dict[str, Any]:
    """`prompts` are one more than pairs, and begin differently."""
    with Daemon(directory / "overhead", memory="1GiB", disk="16GiB") as daemon:

        def run(number: int, with_store: bool) -> Run:
            result = program.run(prompts[number], daemon.socket if with_store else None)
            blocks = (result["promptTokens"] - 1) // 128 if with_store else 0
            stored, restored = result["storedBlocks"], result["restoredBlocks"]
            assert restored == 0 and stored >= blocks, f"{stored} of {blocks} blocks stored, {restored} restored"
            names = ("firstToken", "firstTokenProcessor", "store", "storeProcessor")
            return Run(*(result[f"{name}Milliseconds"] for name in names))

        tokens = program.run(prompts[0])["promptTokens"]
        return compare_in_turns(daemon, pairs, tokens, run)
