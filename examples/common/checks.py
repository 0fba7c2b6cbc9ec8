"""What the examples' tests report with."""

from __future__ import annotations


class Checks:
    """Prints each check, and remembers whether all held."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, what: str, holds: bool, detail: object = "") -> None:
        print(f"{'ok  ' if holds else 'FAIL'} {what} {detail}", flush=True)
        self.failed += not holds
