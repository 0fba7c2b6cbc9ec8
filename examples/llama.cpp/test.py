"""Tests and measures llama_kvstore with processes of its own for every request. Exits with 1 if anything differs.

    python test.py --program FILE [--work DIRECTORY] [--model FILE.gguf] [--json FILE] [--test-only]

Logits must be the same bit for bit whether the prompt was computed, restored from memory, restored from disk after
kill -9, or restored in part because records were damaged; so must be the bytes of every block. Blocks with changed
content must change the logits, or the comparison would prove nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "common")]

from checks import Checks, print_row  # noqa: E402
from daemon import Daemon  # noqa: E402
from make_gguf import make_gguf  # noqa: E402

Result = dict[str, Any]


def prompt(seed: int, characters: int, question: str) -> str:
    """Text that starts the same for everybody with one seed. Every letter is a token of the random model."""
    import random

    letters = random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz", k=characters)
    return "".join(letters) + question


@dataclass
class Program:
    """llama_kvstore: a new process for every request."""

    path: Path
    model: Path
    directory: Path

    def run(self, text: str, socket: Path | None = None, *options: str) -> Result:
        file = self.directory / "prompt.txt"
        file.write_text(text)
        command = [self.path, "--model", self.model, "--prompt-file", file, "--json", "--predict", "12"]
        command += ["--threads", str(os.cpu_count() or 2), *(["--socket", socket] if socket else []), *options]
        return json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True).stdout)


class Suite:
    """Every check, on a tiny model."""

    def __init__(self, program: Program, daemon: Daemon) -> None:
        self.program = program
        self.daemon = daemon
        self.check = Checks()
        self.text = prompt(1, 1500, " and what is the question?")
        self.cold = program.run(self.text)
        self.stored: dict[str, str] = {}

    def _run(self, *options: str, text: str | None = None) -> Result:
        return self.program.run(text or self.text, self.daemon.socket, "--verify", *options)

    def _same(self, what: str, result: Result, reference: Result | None = None) -> None:
        reference = reference or self.cold
        same = all(result[name] == reference[name] for name in ("logitsDigest", "tokens"))
        detail = f"{result['restoredBlocks']} blocks restored, {result['diskBlocks']} from disk"
        self.check(f"{what}: logits and tokens are the same bit for bit", same and result["verified"], detail)

    def _same_bytes(self, what: str, result: Result) -> None:
        restored = result["restoredDigests"]
        same = bool(restored) and all(self.stored[block] == digest for block, digest in restored.items())
        self.check(f"{what}: restored bytes are those that were stored", same)

    def run(self) -> int:
        result = self._run()
        self.stored = result["storedDigests"]
        self._same("storing", result)
        blocks = (result["promptTokens"] - 1) // 128
        self.check("storing: every whole block", result["storedBlocks"] >= blocks, result["storedBlocks"])
        self.restored("memory", blocks)
        self.other_question(blocks)
        self.daemon.flush()
        self.daemon.restart()
        self.restored("after kill -9", blocks)
        self.damaged(blocks)
        self.away()
        self.changed()
        return self.check.failed

    def restored(self, what: str, blocks: int) -> None:
        result = self._run()
        self._same(what, result)
        self._same_bytes(what, result)
        self.check(f"{what}: every whole block of the prompt", result["restoredBlocks"] == blocks)

    def other_question(self, blocks: int) -> None:
        """Somebody else asks something else after the same text."""
        text = prompt(1, 1500, " or is it something quite different that is to be answered?")
        result = self._run(text=text)
        self._same("another question", result, self.program.run(text))
        self.check("another question: the shared blocks", result["restoredBlocks"] >= blocks - 1)

    def damaged(self, blocks: int) -> None:
        self.daemon.kill()
        flipped = self.daemon.damage(stride=4 << 20)
        self.daemon.start()
        result = self._run()
        self._same(f"{flipped} bytes flipped on disk", result)
        self.check("flipped: less was restored", result["restoredBlocks"] < blocks)

    def away(self) -> None:
        self.daemon.kill()
        self._same("daemon killed", self._run())
        self.daemon.start()
        self.daemon.hang()
        result = self._run("--timeout", "500")
        self.daemon.resume()
        self._same("daemon stopped by SIGSTOP", result)
        print(f"     longest call of the store: {result['longestCallMilliseconds']:.0f} ms, the limit was 500")

    def changed(self) -> None:
        """The negative control: block 3 is stored with other content, under another revision."""
        revision = ("--revision", "changed")
        stored = self._run(*revision, "--change-block", "3")
        result = self._run(*revision)
        changed = [block for block, digest in result["restoredDigests"].items() if self.stored[block] != digest]
        self.check(
            "negative control: changed content changes the logits", result["logitsDigest"] != self.cold["logitsDigest"]
        )
        self.check("negative control: the changed block is noticed by its bytes", changed == ["3"], changed)
        self.check("negative control: it was stored", stored["storedBlocks"] > 0)


def measure(program: Program, directory: Path, rounds: int, tokens: list[int]) -> list[Result]:
    """Times to the first token: each round with a prompt that was never seen, one after the other in each row."""
    rows = []
    for count in tokens:
        times: dict[str, list[float]] = {"cold": [], "storing": [], "memory": [], "disk": []}
        same, blocks, disk_blocks, bytes_stored = True, 0, 0, 0
        for number in range(rounds):
            with Daemon(directory / f"measure-{count}-{number}", memory="1GiB", warm_up=False) as daemon:
                text = prompt(100 * count + number, count, " and now?")
                runs = [program.run(text), program.run(text, daemon.socket), program.run(text, daemon.socket)]
                daemon.flush()
                daemon.restart()
                runs.append(program.run(text, daemon.socket))
                bytes_stored = daemon.disk_bytes()
            for name, result in zip(times, runs):
                times[name].append(result["firstTokenMilliseconds"])
            same = same and len({result["logitsDigest"] for result in runs}) == 1
            blocks, disk_blocks = runs[3]["restoredBlocks"], runs[3]["diskBlocks"]
        row: Result = {name: round(statistics.median(values), 1) for name, values in times.items()}
        row |= {"tokens": runs[0]["promptTokens"], "identicalLogits": same, "blocks": blocks}
        row |= {"blocksFromDisk": disk_blocks, "diskBytes": bytes_stored, "rounds": rounds}
        row["loadAverage"] = round(os.getloadavg()[0], 1)
        rows.append(row)
        print_row(row, "storing", "memory", "disk")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="where models are kept (default: a temporary directory)")
    parser.add_argument("--model", type=Path, help="GGUF to measure (default: one with random weights)")
    parser.add_argument("--json", type=Path, help="file for what was measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="*", default=[1024, 2048, 4096], help="characters of prompts")
    parser.add_argument("--test-only", action="store_true")
    parser.add_argument("--measure-only", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        models = given.work or directory
        for preset in ("tiny", "small"):
            path = models / f"{preset}.gguf"
            if not path.exists():
                make_gguf(str(path), preset)
        failed = 0
        if not given.measure_only:
            with Daemon(directory / "daemon", memory="512MiB") as daemon:
                failed = Suite(Program(given.program, models / "tiny.gguf", directory), daemon).run()
            print(f"{failed} checks failed" if failed else "all checks hold")
        if not given.test_only:
            program = Program(given.program, given.model or models / "small.gguf", directory)
            rows = measure(program, directory, given.rounds, given.lengths)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1) + "\n")
            failed += sum(not row["identicalLogits"] for row in rows)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
