"""Tests and measures llama_kvstore with processes of its own for every request. Exits with 1 if anything differs.

    python test.py --program FILE [--work DIRECTORY] [--model FILE.gguf] [--json FILE]
        [--test-only | --measure-only | --overhead]

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "common")]

from checks import Checks, print_row  # noqa: E402
from daemon import Daemon  # noqa: E402
from make_gguf import CONTEXT, make_gguf  # noqa: E402
from overhead import measure_overhead  # noqa: E402

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

    def run(
        self,
        text: str,
        socket: Path | None = None,
        *options: str,
        model: Path | None = None,
        when_restored: Callable[[], None] | None = None,
    ) -> Result:
        """What it prints. `when_restored` is called when it has restored blocks and computed nothing yet."""
        command = self._command(text, socket, model, *options, *(["--pause"] if when_restored else []))
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with subprocess.Popen(command, **pipes) as process:
            if when_restored:
                assert process.stderr.readline() == "restored\n"
                when_restored()
            output, errors = process.communicate("\n" if when_restored else None)
        if process.returncode != 0:
            raise SystemExit(errors)
        return json.loads(output)

    def refusal(self, model: Path) -> str:
        """What it says against a model, if it ends because of it."""
        done = subprocess.run(self._command("hello", None, model), capture_output=True, text=True)
        return done.stderr.strip() if done.returncode == 2 else ""

    def _command(self, text: str, socket: Path | None, model: Path | None, *options: str) -> list[str]:
        file = self.directory / "prompt.txt"
        file.write_text(text)
        command = [self.path, "--model", model or self.model, "--prompt-file", file, "--json", "--predict", "12"]
        command += ["--threads", os.cpu_count() or 2, *(["--socket", socket] if socket else []), *options]
        return list(map(str, command))


class Suite:
    """Every check, on a tiny model."""

    def __init__(self, program: Program, daemon: Daemon) -> None:
        self.program = program
        self.daemon = daemon
        self.check = Checks()
        self.text = prompt(1, 1500, " and what is the question?")
        self.cold = program.run(self.text)
        self.stored: dict[str, str] = {}

    def _run(self, *options: str, text: str | None = None, **how: Any) -> Result:
        return self.program.run(text or self.text, self.daemon.socket, "--verify", *options, **how)

    def _model(self, name: str, **numbers: Any) -> Path:
        path = self.program.directory / f"{name}.gguf"
        make_gguf(str(path), "tiny", **numbers)
        return path

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
        self.restored("memory", blocks, disk_blocks=0)
        self.other_question(blocks)
        self.daemon.flush()
        self.daemon.restart()
        self.restored("after kill -9", blocks, disk_blocks=blocks)
        self.damaged(blocks)
        self.away()
        self.interrupted(blocks)
        self.changed()
        self.named(blocks)
        self.sliding(blocks)
        self.refused()
        return self.check.failed

    def restored(self, what: str, blocks: int, disk_blocks: int) -> None:
        result = self._run()
        self._same(what, result)
        self._same_bytes(what, result)
        self.check(f"{what}: every whole block of the prompt", result["restoredBlocks"] == blocks)
        self.check(f"{what}: {disk_blocks} of them from disk", result["diskBlocks"] == disk_blocks, result["diskBlocks"])

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
        count = result["restoredBlocks"]
        self.check("flipped: less was restored, from disk", count < blocks and result["diskBlocks"] == count, count)

    def away(self) -> None:
        self.daemon.kill()
        self._same("daemon killed", self._run())
        self.daemon.start()
        self.daemon.hang()
        limit = 3000
        result = self._run("--timeout", str(limit))
        self.daemon.resume()
        self._same("daemon stopped by SIGSTOP", result)
        longest = result["longestCallMilliseconds"]
        self.check(f"stopped: no call took longer than {limit} ms allow", longest < 1.5 * limit, f"{longest:.0f} ms")

    def interrupted(self, blocks: int) -> None:
        """The daemon goes when the process has restored half of its prompt: it computes the rest, and cannot store."""
        ways = {"killed": (self.daemon.kill, self.daemon.start), "stopped": (self.daemon.hang, self.daemon.resume)}
        for seed, (way, (go, come_back)) in enumerate(ways.items()):
            head = prompt(50 + seed, 8 * 128 - 1, "")
            text = head + prompt(60 + seed, 600, "?")
            cold = self.program.run(text)
            self._run(text=head + "!")
            result = self._run("--timeout", "3000", text=text, when_restored=go)
            come_back()
            self._same(f"{way} between restoring and storing", result, cold)
            self.check(f"{way} there: restored before", result["restoredBlocks"] == 8, result["restoredBlocks"])
            self.check(f"{way} there: nothing was stored", result["storedBlocks"] == 0, result["storedBlocks"])
            waited = result["storeMilliseconds"]
            self.check(f"{way} there: one wait of 3000 ms at most for all blocks", waited < 4500, f"{waited:.0f} ms")
        after = self._run(text=text)
        self._same("and when it is back", after, cold)
        self.check("back: the rest is stored", after["storedBlocks"] >= (after["promptTokens"] - 1) // 128 - 8)

    def named(self, blocks: int) -> None:
        """Another number in the file's metadata makes other blocks, even if the revision is said to be the same."""
        revision = ("--revision", "same")
        self._run(*revision)
        again = self._run(*revision)
        self.check("same revision: restored", again["restoredBlocks"] == blocks)
        for name, number in ("rope_base", 20_000.0), ("epsilon", 0.01):
            model = self._model(name, **{name: number})
            cold, result = self.program.run(self.text, model=model), self._run(*revision, model=model)
            self._same(f"{name} {number} in the file", result, cold)
            self.check(f"{name}: nothing stored was taken for it", result["restoredBlocks"] == 0)
            self.check(f"{name}: the logits are others", cold["logitsDigest"] != self.cold["logitsDigest"])
        longer = self._run("--context", str(CONTEXT + 1024))
        self.check("longer than it was trained for: nothing stored was taken", longer["restoredBlocks"] == 0)
        result = self._run(model=self._model("weights", seed=1))
        self.check("other weights: nothing stored was taken for them", result["restoredBlocks"] == 0)

    def sliding(self, blocks: int) -> None:
        """Layers with a window: all blocks are stored, as all positions are kept."""
        model = self._model("gemma3", architecture="gemma3", window=160)
        cold = self.program.run(self.text, model=model)
        stored = self._run(model=model)
        self._same("sliding window, storing", stored, cold)
        self.check("sliding window: every whole block", stored["storedBlocks"] >= blocks, stored["storedBlocks"])
        self.daemon.flush()
        self.daemon.restart()
        for count, place in (blocks, "disk"), (0, "memory"):
            result = self._run(model=model)
            self._same(f"sliding window, {place}", result, cold)
            found = result["restoredBlocks"] == blocks and result["diskBlocks"] == count
            same = all(stored["storedDigests"][block] == digest for block, digest in result["restoredDigests"].items())
            self.check(f"sliding window, {place}: every block, byte for byte", found and same)

    def refused(self) -> None:
        """Models whose blocks would be wrong, or none."""
        models = {
            "hybrid": dict(architecture="jamba"),
            "recurrent": dict(architecture="mamba"),
            "diffusion": dict(architecture="llada"),
            "looks at 48 tokens": dict(architecture="gemma3", window=48),
        }
        for word, numbers in models.items():
            said = self.program.refusal(self._model(f"refused-{numbers['architecture']}", **numbers))
            self.check(f"refused: {numbers}", word in said, said)

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
    parser.add_argument("--overhead", action="store_true", help="only measure what storing costs when nothing is reused")
    parser.add_argument("--pairs", type=int, default=12, help="of that: how often with and without a store")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        models = given.work or directory
        for preset in ("tiny", "small"):
            path = models / f"{preset}.gguf"
            if not path.exists():
                make_gguf(str(path), preset)
        failed = 0
        if not given.measure_only and not given.overhead:
            # Nothing is read into memory ahead of time: what is found after a restart comes from disk.
            with Daemon(directory / "daemon", memory="512MiB", warm_up=False) as daemon:
                failed = Suite(Program(given.program, models / "tiny.gguf", directory), daemon).run()
            print(f"{failed} checks failed" if failed else "all checks hold")
        if not given.test_only:
            program = Program(given.program, given.model or models / "small.gguf", directory)
            if given.overhead:
                prompts = [prompt(7000 + number, given.lengths[0], "?") for number in range(given.pairs + 1)]
                rows = [measure_overhead(program, directory, given.pairs, prompts)]
            else:
                rows = measure(program, directory, given.rounds, given.lengths)
                failed += sum(not row["identicalLogits"] for row in rows)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
