"""Measures the time to the first token with kvstore against recomputing, vLLM's own prefix cache, and LMCache.

    python bench.py [--model DIRECTORY] [--json FILE] [--lmcache PYTHON] [--lengths 1024 2048 4096] [--prompts N]

All engines of a run have the same model, prompts, settings and processes. Users share a system prompt; the first of
each is slow or, with a store that has seen it, not. Every phase is an engine process of its own, and the one before it
was killed with SIGKILL:

    recompute        no cache at all
    vLLM             its own prefix cache, in the process
    kvstore cold     an empty daemon: what storing costs
    kvstore memory   a new engine, the same daemon
    kvstore disk     a new engine, and the daemon was killed with SIGKILL and started again
    LMCache ...      its server in the same roles, over shared memory and with its disk adapter; its files as they lie
                     in the page cache after they were written, and once they have left it (kvstore reads around it)
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "common")]

from daemon import Daemon  # noqa: E402
from engine import Job  # noqa: E402
from make_model import make_model  # noqa: E402
from processes import EngineProcess, Result, kvstore_transfer, random_tokens  # noqa: E402

USERS = 3
QUESTION_TOKENS = 64
PORT = 5655


@dataclass
class Workload:
    """For each length some system prompts, each asked by some users."""

    lengths: list[int]
    prompts: int

    def requests(self, reset_each: bool) -> list[dict[str, Any]]:
        """In order of the system prompts. The engine's own cache is emptied at each new one, or before each request."""
        return [
            {"tokens": self._tokens(length, prompt, user), "reset": reset_each or user == 0}
            for length, prompt, user in self._all()
        ]

    def _all(self) -> Iterator[tuple[int, int, int]]:
        for length in self.lengths:
            for prompt in range(self.prompts):
                for user in range(USERS):
                    yield length, prompt, user

    def _tokens(self, length: int, prompt: int, user: int) -> list[int]:
        return random_tokens(length + prompt, length) + random_tokens(100 + user, QUESTION_TOKENS)

    def split(self, results: list[Result]) -> dict[tuple[int, bool], list[Result]]:
        """Results by length and by whether it was the first user of a system prompt."""
        found: dict[tuple[int, bool], list[Result]] = {}
        for (length, _, user), result in zip(self._all(), results, strict=True):
            found.setdefault((length, user == 0), []).append(result)
        return found


@dataclass
class Phase:
    """What one engine process measured."""

    name: str
    results: list[Result]
    load_average: float
    # For stores: blocks that came from memory and from disk.
    tiers: tuple[int, int] = (0, 0)
    # The connector's, as vLLM shows them.
    metrics: dict[str, float] = field(default_factory=dict)
    table: dict[tuple[int, bool], list[Result]] = field(default_factory=dict)


class LMCache:
    """LMCache's server with a disk adapter, and what vLLM needs to use it."""

    def __init__(self, python: Path, directory: Path) -> None:
        self.python = python
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def transfer(self) -> dict[str, Any]:
        extra = {"lmcache.mp.port": PORT}
        return {"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}

    def start(self) -> None:
        (self.directory / "disk").mkdir(parents=True, exist_ok=True)
        adapter = json.dumps({"type": "fs_native", "base_path": str(self.directory / "disk")})
        command = [self.python.parent / "lmcache", "server", "--port", PORT, "--l1-size-gb", 2, "--chunk-size", 256]
        command += ["--eviction-policy", "LRU", "--supported-transfer-mode", "auto", "--l2-adapter", adapter]
        command += ["--shm-name", f"kvstore-bench-{os.getpid()}"]
        environment = os.environ | {"LMCACHE_TRACK_USAGE": "false", "LMCACHE_DISABLE_BANNER": "1"}
        with open(self.directory / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                list(map(str, command)), stdout=log, stderr=log, env=environment, process_group=0
            )
        self._wait_until_ready()

    def _wait_until_ready(self, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", PORT)) == 0:
                    return
            time.sleep(0.5)
        raise SystemExit(f"LMCache's server does not start, see {self.directory}/server.log")

    def kill(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            # SIGKILL leaves its memory behind.
            for pool in Path("/dev/shm").glob(f"lmcache*kvstore-bench-{os.getpid()}*"):
                pool.unlink()

    def files(self) -> list[Path]:
        return [file for file in (self.directory / "disk").rglob("*") if file.is_file()]

    def disk_bytes(self) -> int:
        return sum(file.stat().st_blocks * 512 for file in self.files())

    def leave_page_cache(self) -> None:
        """So that its next reads are from the disk."""
        for file in self.files():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def served(server: LMCache) -> Iterator[LMCache]:
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Bench:
    """Runs the phases one after the other."""

    def __init__(self, model: Path, dtype: str, workload: Workload, directory: Path, lmcache: Path | None) -> None:
        self.workload = workload
        self.directory = directory
        self.lmcache = LMCache(lmcache, directory / "lmcache") if lmcache else None
        self.job = Job(str(model), dtype=dtype, processes=True)
        self.phases: list[Phase] = []
        self.disk_bytes: dict[str, int] = {}

    def _phase(self, name: str, reset_each: bool, daemon: Daemon | None = None, **changes: Any) -> None:
        before = daemon.hit_blocks() if daemon else (0, 0)
        requests = self.workload.requests(reset_each)
        python = str(self.lmcache.python) if name.startswith("LMCache") and self.lmcache else sys.executable
        job = replace(self.job, requests=requests, **changes)
        with EngineProcess(job, self.directory, name.replace(" ", "-"), python) as engine:
            engine.wait_until_ready()
            results = engine.results()
        after = daemon.hit_blocks() if daemon else (0, 0)
        tiers = (after[0] - before[0], after[1] - before[1])
        phase = Phase(name, results, os.getloadavg()[0], tiers, engine.metrics, self.workload.split(results))
        self.phases.append(phase)
        print(f"{name}: {describe(phase)}", flush=True)

    def run(self) -> None:
        self._phase("recompute", False, prefix_caching=False)
        self._phase("vLLM", False)
        # A connection gets at most a third of what is free for staging, and that is an eighth of the memory: with 8 GiB
        # the 260 MiB of a prompt of 4160 tokens have room.
        daemon = Daemon(self.directory / "daemon", memory="8GiB", disk="8GiB", staging="320MiB", warm_up=False)
        transfer = kvstore_transfer(daemon.socket, timeout_ms=2000)
        with daemon:
            self._phase("kvstore cold", False, daemon, kv_transfer=transfer)
            self._phase("kvstore memory", True, daemon, kv_transfer=transfer)
            daemon.flush()
            self.disk_bytes["kvstore"] = daemon.disk_bytes()
            daemon.restart()
            self._phase("kvstore disk", True, daemon, kv_transfer=transfer)
        if self.lmcache:
            self._lmcache(self.lmcache)

    def _lmcache(self, server: LMCache) -> None:
        with served(server):
            self._phase("LMCache cold", False, kv_transfer=server.transfer)
            self._phase("LMCache memory", True, kv_transfer=server.transfer)
            time.sleep(5)
            self.disk_bytes["LMCache"] = server.disk_bytes()
        with served(server):
            self._phase("LMCache page cache", True, kv_transfer=server.transfer)
        server.leave_page_cache()
        with served(server):
            self._phase("LMCache disk", True, kv_transfer=server.transfer)

    def tokens_equal(self) -> bool:
        reference = [result["tokens"] for result in self.phases[0].results]
        return all([result["tokens"] for result in phase.results] == reference for phase in self.phases)


def median(results: list[Result]) -> float:
    return statistics.median(result["firstTokenMilliseconds"] for result in results)


def describe(phase: Phase) -> str:
    parts = [
        f"{length} {'first' if first else 'later'} {median(results):.0f} ms"
        for (length, first), results in sorted(phase.table.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]
    tiers = f"; {phase.tiers[0]} blocks from memory, {phase.tiers[1]} from disk" if any(phase.tiers) else ""
    parts += [f"{name} {seconds:.2f} s" for name, seconds in phase.metrics.items() if name.endswith("_seconds")]
    return ", ".join(parts) + f"{tiers}; load {phase.load_average:.1f}"


def rows(bench: Bench) -> list[dict[str, Any]]:
    """One row for each phase and length: medians of the first users, and of the later ones."""
    cold = bench.phases[0].table
    found = []
    for phase in bench.phases:
        for length in bench.workload.lengths:
            first, later = median(phase.table[length, True]), median(phase.table[length, False])
            same = all(
                left["tokens"] == right["tokens"]
                for which in (True, False)
                for left, right in zip(phase.table[length, which], cold[length, which])
            )
            found.append(
                {
                    "phase": phase.name,
                    "systemPromptTokens": length,
                    "firstUserMilliseconds": round(first, 1),
                    "laterUsersMilliseconds": round(later, 1),
                    "shareOfRecompute": round(first / median(cold[length, True]), 3),
                    "cachedTokens": phase.table[length, True][0]["cachedTokens"],
                    "tokensAsRecompute": same,
                    "loadAverage": round(phase.load_average, 1),
                }
            )
    return found


def print_table(found: list[dict[str, Any]]) -> None:
    print(f"\n{'':18} {'tokens':>6} {'first user':>11} {'later users':>12} {'of recompute':>13} {'same tokens':>12}")
    for row in sorted(found, key=lambda row: row["systemPromptTokens"]):
        print(
            f"{row['phase']:18} {row['systemPromptTokens']:6} {row['firstUserMilliseconds']:8.0f} ms "
            f"{row['laterUsersMilliseconds']:9.0f} ms {row['shareOfRecompute']:12.0%} {row['tokensAsRecompute']!s:>12}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="Hugging Face directory (default: a small one with random weights)")
    parser.add_argument("--preset", default="small", help="size of the model with random weights")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--lengths", type=int, nargs="*", default=[1024, 2048, 4096])
    parser.add_argument("--prompts", type=int, default=3, help="system prompts of each length")
    parser.add_argument("--lmcache", type=Path, help="python of a virtual environment with vLLM and LMCache")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, help="directory for logs and stores (default: a temporary one)")
    given = parser.parse_args()
    directory = given.work or Path(tempfile.mkdtemp())
    directory.mkdir(parents=True, exist_ok=True)
    model = given.model or directory / f"model-{given.preset}-{given.dtype}"
    if not given.model:
        make_model(model, given.preset, dtype=given.dtype)
    for name in ("daemon", "lmcache"):
        shutil.rmtree(directory / name, ignore_errors=True)
    bench = Bench(model, given.dtype, Workload(given.lengths, given.prompts), directory, given.lmcache)
    bench.run()
    found = rows(bench)
    print_table(found)
    print(", ".join(f"{name}: {size / 2**20:.0f} MiB on disk" for name, size in bench.disk_bytes.items()))
    if given.json:
        given.json.write_text(json.dumps({"rows": found, "diskBytes": bench.disk_bytes}, indent=1) + "\n")
    if not given.work:
        shutil.rmtree(directory)
    return 0 if bench.tokens_equal() else 1


if __name__ == "__main__":
    sys.exit(main())
