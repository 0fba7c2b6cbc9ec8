"""Measures what storing costs when nothing is reused: one engine without a connector and one with it, in turns.

    python overhead.py [--model DIRECTORY] [--length 2048] [--rounds 20] [--json FILE]

Both engines live through the whole run. The daemon's memory is full when it is measured, as it is most of its life: until
then every block also takes fresh pages, which the kernel clears (`--empty` measures that). In each round both answer the
same few prompts, one straight after the other, which neither has seen before; the order changes from round to round, and
between two groups the daemon has time to write down what it got. So the first prompt of a group shows what storing costs
a request, and those behind it what it costs in addition that the daemon writes down one prompt while the next is computed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "common")]

import kvstore  # noqa: E402
from daemon import Daemon  # noqa: E402
from engine import Job  # noqa: E402
from make_model import make_model  # noqa: E402
from processes import EngineProcess, kvstore_transfer, random_tokens  # noqa: E402
from turns import median_interval  # noqa: E402

GROUP = 3
WRITE_BACK_SECONDS = 1
# An eighth of it is for places that blocks are prepared in, of which a connection gets a third: a prompt's, just.
MEMORY_GIB = 4


@dataclass
class Round:
    """Milliseconds to the first token of a group's prompts, and the daemon's share of the processors meanwhile."""

    without: list[float]
    storing: list[float]
    daemon_seconds: float

    def ratio(self, prompts: slice) -> float:
        return statistics.mean(self.storing[prompts]) / statistics.mean(self.without[prompts])


def processor_seconds(daemon: Daemon) -> float:
    """What the daemon has used so far, all threads together."""
    assert daemon.process
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def requests(length: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for round in range(rounds):
        found.append({"wait": True})
        found += [{"tokens": random_tokens(seed + GROUP * round + number, length)} for number in range(GROUP)]
    return found


def group(engine: EngineProcess) -> list[float]:
    """One group of prompts."""
    engine.proceed()
    results = engine.results()
    assert all(result["cachedTokens"] == 0 for result in results), "something was reused"
    return [result["firstTokenMilliseconds"] for result in results]


def fill(daemon: Daemon) -> None:
    """Stores blocks of the engine's size until the daemon's memory is full."""
    daemon.flush()
    store = daemon.statistics()["store"]
    block_bytes = store["spilledRawBytes"] // store["spilledBlocks"]
    with kvstore.Store.connect(daemon.socket, timeout_ms=30_000, client_name="filler") as client:
        space = client.namespace(kvstore.Identity(model="filler", opaque_block_bytes=block_bytes, tokens_per_block=128))
        for number in range((MEMORY_GIB << 30) // block_bytes):
            space.put(space.prefix(keys=[f"filler {number}".encode()]), os.urandom(4096) * (block_bytes // 4096))
    daemon.flush()
    memory = daemon.statistics()["store"]["memory"]
    print(f"the daemon holds {memory['bytes'] >> 20} MiB in memory", flush=True)
    assert memory["bytes"] > 0.9 * memory["capacityBytes"], "memory is not full"


def measure(job: Job, directory: Path, length: int, rounds: int, empty: bool) -> list[Round]:
    daemon = Daemon(
        directory / "daemon",
        memory=f"{MEMORY_GIB}GiB",
        disk="16GiB",
        staging="160MiB",
        write_back=f"{WRITE_BACK_SECONDS}s",
    )
    job.requests = requests(length, rounds + 1, seed=int(time.time()))
    storing = replace(job, kv_transfer=kvstore_transfer(daemon.socket, timeout_ms=2000))
    found = []
    with daemon, EngineProcess(job, directory, "without") as plain, EngineProcess(storing, directory, "storing") as ours:
        for engine in (plain, ours):
            engine.wait_until_ready()
            engine.results()
            group(engine)
        if not empty:
            fill(daemon)
        saved_before = daemon.statistics()["store"]["committedBlocks"]
        for round in range(rounds):
            times: dict[bool, list[float]] = {}
            for with_store in (False, True) if round % 2 == 0 else (True, False):
                before = processor_seconds(daemon)
                times[with_store] = group(ours if with_store else plain)
                time.sleep(WRITE_BACK_SECONDS + 2)
                if with_store:
                    used = processor_seconds(daemon) - before
            found.append(Round(times[False], times[True], used / GROUP))
            print(
                f"round {round + 1} of {rounds}: without {statistics.mean(times[False]):.0f} ms, "
                f"storing {statistics.mean(times[True]):.0f} ms",
                flush=True,
            )
        stored = daemon.statistics()["store"]["committedBlocks"] - saved_before
    assert stored * 128 >= GROUP * rounds * (length - 128), f"only {stored} blocks were stored"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="Hugging Face directory (default: a small one with random weights)")
    parser.add_argument("--preset", default="small", help="size of the model with random weights")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--empty", action="store_true", help="measure while the daemon's memory still fills")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        model = given.model or directory / "model"
        if not given.model:
            make_model(model, given.preset, dtype=given.dtype)
        job = Job(str(model), dtype=given.dtype, processes=True)
        rounds = measure(job, directory, given.length, given.rounds, given.empty)
    parts = {"first": slice(0, 1), "following": slice(1, GROUP), "all": slice(0, GROUP)}
    ratios = {name: sorted(round.ratio(part) for round in rounds) for name, part in parts.items()}
    without = statistics.median(value for round in rounds for value in round.without)
    storing = statistics.median(value for round in rounds for value in round.storing)
    seconds = statistics.median(round.daemon_seconds for round in rounds)
    print(
        f"\n{given.length} tokens, nothing reused: {without:.0f} ms without a store, {storing:.0f} ms storing.\n"
        f"The daemon used {seconds:.3f} s of one processor for a prompt."
    )
    for name, values in ratios.items():
        share = statistics.median(values) - 1
        low, high = median_interval(values)
        print(
            f"{name:10} {share:+.1%} (the median of {len(values)} rounds; with 95 % certainty {low - 1:+.1%} to "
            f"{high - 1:+.1%}; rounds {values[0] - 1:+.1%} to {values[-1] - 1:+.1%})"
        )
    if given.json:
        record = {
            "tokens": given.length,
            "withoutMilliseconds": without,
            "storingMilliseconds": storing,
            "ratios": ratios,
            "medianIntervals": {name: median_interval(values) for name, values in ratios.items()},
            "daemonProcessorSecondsPerPrompt": seconds,
            "loadAverage": os.getloadavg()[0],
        }
        given.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
