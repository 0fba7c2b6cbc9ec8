"""Compares computing with a store that has nothing to reuse to computing without one, in turns.

What else a machine does changes over minutes and meets both of a pair alike, if the order changes from pair to pair. So
their ratio says more than two medians from different times.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon import Daemon


@dataclass
class Run:
    """Milliseconds of one prompt: to its first token, and after the answer for storing, by the clock and by what all
    threads of the engine used."""

    first_token: float
    first_token_processor: float
    store: float
    store_processor: float


def median_interval(values: list[float]) -> tuple[float, float]:
    """Where the median lies with a certainty of 95 %, by ranks alone: times on a shared machine follow no bell curve."""
    ordered, count = sorted(values), len(values)
    rank, below = 0, 0.5**count
    while below <= 0.025 and rank < count // 2:
        rank += 1
        below += math.comb(count, rank) * 0.5**count
    return ordered[max(rank - 1, 0)], ordered[count - max(rank, 1)]


def processor_milliseconds(daemon: Daemon) -> float:
    """What the daemon has used so far, all threads together."""
    assert daemon.process
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def compare_in_turns(daemon: Daemon, pairs: int, tokens: int, run: Callable[[int, bool], Run]) -> dict[str, Any]:
    """`run(number, with_store)` computes prompt `number`, which is new to the store. Prints and returns what came out."""
    without, storing, daemon_used = [], [], []
    for number in range(-1, pairs):
        found = {}
        for with_store in (False, True) if number % 2 == 0 else (True, False):
            before = processor_milliseconds(daemon)
            found[with_store] = run(number, with_store)
            # What the daemon still writes would slow the other down.
            daemon.flush()
            time.sleep(0.5)
            if with_store:
                used = processor_milliseconds(daemon) - before
        if number < 0:  # warms everything up
            continue
        without.append(found[False])
        storing.append(found[True])
        daemon_used.append(used)
        print(
            f"pair {number + 1} of {pairs}: {found[False].first_token:.0f} ms without a store, "
            f"{found[True].first_token:.0f} ms with it",
            flush=True,
        )
    result: dict[str, Any] = {"tokens": tokens, "loadAverage": round(os.getloadavg()[0], 1)}
    for name in "first_token", "first_token_processor":
        result[name] = _compared([getattr(run, name) for run in without], [getattr(run, name) for run in storing])
    for name in "store", "store_processor":
        result[name] = {"milliseconds": statistics.median(getattr(run, name) for run in storing)}
    result["daemon_processor"] = {"milliseconds": statistics.median(daemon_used)}
    print(
        f"{tokens} tokens, nothing to reuse, {pairs} pairs, load {result['loadAverage']}:\n"
        f"to the first token, by the clock: {_sentence(result['first_token'])}\n"
        f"by what the processors did: {_sentence(result['first_token_processor'])}\n"
        f"after the answer storing took {result['store']['milliseconds']:.0f} ms, in which the engine used "
        f"{result['store_processor']['milliseconds']:.0f} ms of processors; the daemon used "
        f"{result['daemon_processor']['milliseconds']:.0f} ms until all was on disk",
        flush=True,
    )
    return result


def _compared(without: list[float], storing: list[float]) -> dict[str, Any]:
    ratios = [new / old for new, old in zip(storing, without)]
    return {
        "withoutMilliseconds": statistics.median(without),
        "storingMilliseconds": statistics.median(storing),
        "ratio": statistics.median(ratios),
        "medianInterval": median_interval(ratios),
        "ratios": ratios,
    }


def _sentence(compared: dict[str, Any]) -> str:
    (low, high), ratios = compared["medianInterval"], compared["ratios"]
    return (
        f"{compared['withoutMilliseconds']:.0f} ms without a store, {compared['storingMilliseconds']:.0f} ms with it, "
        f"{compared['ratio'] - 1:+.1%} in the median of pairs (with 95 % certainty {low - 1:+.1%} to {high - 1:+.1%}; "
        f"pairs {min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%})"
    )
