"""What the examples' tests report with."""

from __future__ import annotations

from typing import Any


class Checks:
    """Prints each check, and remembers whether all held."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, what: str, holds: bool, detail: object = "") -> None:
        print(f"{'ok  ' if holds else 'FAIL'} {what} {detail}", flush=True)
        self.failed += not holds


def print_row(row: dict[str, Any], *names: str) -> None:
    """Prints what one prompt took: computed, and each of the named ways as a share of that."""
    cold = row["cold"]
    shares = ", ".join(f"{name} {row[name]:.0f} ms ({row[name] / cold:.0%})" for name in names)
    print(
        f"{row['tokens']} tokens: computed {cold:.0f} ms, {shares}; identical logits: {row['identicalLogits']}; "
        f"{row['blocksFromDisk']} of {row['blocks']} blocks read from disk after the restart; "
        f"{row['diskBytes'] / 2**20:.0f} MiB on disk; median of {row['rounds']}, load {row['loadAverage']}",
        flush=True,
    )
