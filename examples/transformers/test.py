"""Tests and measures the chat with processes of its own. Exits with 1 if anything differs.

    python test.py [--model DIRECTORY] [--json FILE] [--test-only | --measure-only | --overhead] [--rounds N]

The logits of every answer's first token are compared bit for bit with those of a process that keeps its
`past_key_values` and computes from the same point on; tokens with those of a process that keeps nothing; and the bytes
of every restored block with those that were stored. A block with changed content must change the logits.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "common")]

import kvstore  # noqa: E402
from checks import Checks, print_row  # noqa: E402
from daemon import Daemon  # noqa: E402
from kv_blocks import identity_of, shape_of  # noqa: E402
from make_model import make_model  # noqa: E402
from overhead import measure_overhead  # noqa: E402
from test_interrupted import check_interrupted  # noqa: E402
from test_names import check_names  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

Result = dict[str, Any]
WORDS = ["store", "cache", "block", "prefix", "layer", "token", "model", "daemon", "memory", "segment"]


def text(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def conversations(seed: int, words: int) -> list[dict[str, Any]]:
    """Two users with one system prompt: one with three turns, one with one."""
    system = text(seed, words)
    turns = [text(seed + 1, 30) + "?", text(seed + 2, 90) + "?", text(seed + 3, 20) + "?"]
    return [{"system": system, "turns": turns}, {"system": system, "turns": [text(seed + 4, 30) + "?"]}]


class Chats:
    """`chat.py` in a process of its own for every list of conversations."""

    def __init__(self, model: Path, directory: Path, threads: int) -> None:
        self.model = model
        self.directory = directory
        self.threads = threads

    def run(self, requests: list[dict[str, Any]], cache: str, *options: object) -> list[Result]:
        path = self.directory / "requests.json"
        path.write_text(json.dumps(requests))
        command = [sys.executable, HERE / "chat.py", "--model", self.model, "--cache", cache, "--requests", path]
        command += ["--threads", self.threads, "--tokens", 16, "--timeout", 10_000, *options]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]


def equal(name: str, left: list[Result], right: list[Result]) -> bool:
    return [result[name] for result in left] == [result[name] for result in right]


class Suite:
    """Every check, on a tiny model."""

    def __init__(self, chats: Chats, daemon: Daemon) -> None:
        self.chats = chats
        self.daemon = daemon
        self.check = Checks()
        self.requests = conversations(1, 600)
        self.nothing = chats.run(self.requests, "none")
        self.process = chats.run(self.requests, "process")
        self.stored: dict[str, str] = {}

    def _run(self, *options: object, requests: list[dict[str, Any]] | None = None) -> list[Result]:
        return self.chats.run(requests or self.requests, "store", "--socket", self.daemon.socket, "--digests", *options)

    def _same(self, what: str, results: list[Result], reference: list[Result] | None = None) -> None:
        blocks = [result["restored_blocks"] for result in results]
        self.check(f"{what}: tokens as without a cache", equal("tokens", results, self.nothing), blocks)
        same = equal("logits_digest", results, reference or self.process)
        self.check(f"{what}: logits bit for bit as with past_key_values kept", same)

    def _same_bytes(self, what: str, results: list[Result]) -> None:
        restored = [item for result in results for item in result["restored_digests"].items()]
        same = bool(restored) and all(self.stored.get(block) == digest for block, digest in restored)
        self.check(f"{what}: restored bytes are those that were stored", same, f"{len(restored)} blocks")

    def run(self) -> int:
        results = self._run()
        for result in results:
            self.stored |= result["stored_digests"]
        self._same("storing", results)
        restored = [result["restored_blocks"] for result in results]
        self.check("storing: later turns and the other user find blocks", all(count > 0 for count in restored[1:]))
        self._same_bytes("storing", results)
        self.warm("memory", from_disk=False)
        self.daemon.flush()
        self.daemon.restart()
        self.warm("after kill -9", from_disk=True)
        self.damaged()
        self.away()
        check_interrupted(self.check, self.chats.model, self.daemon, conversations(100, 600)[0])
        self.configured()
        self.changed()
        check_names(self.check, self.chats.model)
        return self.check.failed

    def warm(self, what: str, from_disk: bool) -> None:
        """Answers the first turns only: later ones would find what this very run had stored, too."""
        requests = [chat | {"turns": chat["turns"][:1]} for chat in self.requests]
        results = self._run(requests=requests)
        first = [self.process[0], self.process[3]]
        self.check(f"{what}: logits bit for bit", equal("logits_digest", results, first))
        wholes = [(result["prompt_tokens"] - 1) // 64 for result in results]
        self.check(f"{what}: every whole block", wholes == [result["restored_blocks"] for result in results], wholes)
        # Once read, they are in memory too: the second user finds what both share there.
        disk = [result["disk_blocks"] for result in results]
        right = disk[0] == wholes[0] and 0 < disk[1] < wholes[1] if from_disk else disk == [0, 0]
        self.check(f"{what}: {'read from disk' if from_disk else 'none of them from disk'}", right, disk)
        self._same_bytes(what, results)
        self._same(f"{what}, all turns", self._run())

    def damaged(self) -> None:
        self.daemon.kill()
        flipped = self.daemon.damage(stride=3 << 20)
        self.daemon.start()
        requests = [self.requests[0] | {"turns": self.requests[0]["turns"][:1]}]
        results = self._run(requests=requests)
        count = results[0]["restored_blocks"]
        self.check(
            f"{flipped} bytes flipped on disk: less was restored", count < self.process[0]["prompt_tokens"] // 64
        )
        self.check("flipped: all of it came from disk", results[0]["disk_blocks"] == count, results[0]["disk_blocks"])
        self.check("flipped: tokens as without a cache", results[0]["tokens"] == self.nothing[0]["tokens"], count)
        reference = self.chats.run(requests * 2, "process", "--most-blocks", count)[1]
        same = results[0]["logits_digest"] == reference["logits_digest"]
        self.check("flipped: logits bit for bit as when computed from there", same)

    def away(self) -> None:
        self.daemon.kill()
        self._same("daemon killed", self._run(), self.nothing)
        self.daemon.start()
        self.daemon.hang()
        results = self._run("--timeout", 500)
        self.daemon.resume()
        self._same("daemon stopped by SIGSTOP", results, self.nothing)

    def configured(self) -> None:
        """The same directory and the same weights, but another number in `config.json`: nothing stored is for it."""
        self.daemon.restart()
        request = [self.requests[0] | {"turns": self.requests[0]["turns"][:1]}]
        path = self.chats.model / "config.json"
        original = path.read_text()
        rope = {"rope_type": "default", "rope_theta": 20_000.0}
        scaled = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
        for changes in {"rms_norm_eps": 0.01}, {"rope_parameters": rope}, {"rope_parameters": scaled}:
            path.write_text(json.dumps(json.loads(original) | changes))
            computed, result = self.chats.run(request, "none")[0], self._run(requests=request)[0]
            path.write_text(original)
            same = result["logits_digest"] == computed["logits_digest"] != self.process[0]["logits_digest"]
            self.check(f"config.json with {changes}: nothing stored is taken for it", result["restored_blocks"] == 0)
            self.check("its logits are its own, as without a cache", same)
        result = self._run(requests=request)[0]
        self.check("config.json as before: found again", result["restored_blocks"] > 0, result["restored_blocks"])

    def changed(self) -> None:
        """The negative control: a block is replaced by one with other content, which is as valid to the store."""
        self.daemon.restart()
        self._run()
        model = AutoModelForCausalLM.from_pretrained(self.chats.model, dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(self.chats.model)
        messages = [{"role": "system", "content": self.requests[0]["system"]}]
        messages.append({"role": "user", "content": self.requests[0]["turns"][0]})
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        store = kvstore.Store.connect(self.daemon.socket)
        space = store.namespace(identity_of(model, shape_of(model), 64))
        prefix = space.prefix(tokens=tokens)
        blocks = space.get(prefix)
        space.remove(prefix, first=2)
        half = len(blocks[2]) // 2
        space.put(prefix, [blocks[2][half:] + blocks[2][:half], *blocks[3:]], first=2)
        store.close()
        requests = [self.requests[0] | {"turns": self.requests[0]["turns"][:1]}]
        result = self._run(requests=requests)[0]
        different = result["logits_digest"] != self.process[0]["logits_digest"] and result["restored_blocks"] > 3
        self.check("negative control: changed content changes the logits", different)
        wrong = [block for block, digest in result["restored_digests"].items() if self.stored[block] != digest]
        self.check("negative control: the changed block is noticed by its bytes", len(wrong) == 1)


def measure(chats: Chats, directory: Path, rounds: int, words: int) -> Result:
    """Times to the first token of a first turn, with a system prompt that was never seen in each round."""
    times: dict[str, list[float]] = {"cold": [], "process": [], "storing": [], "memory": [], "disk": []}
    same, disk_blocks, blocks, disk_bytes = True, 0, 0, 0
    for number in range(rounds):
        requests = [conversations(1000 * number, words)[1]]
        with Daemon(directory / f"measure-{number}", memory="1GiB", warm_up=False) as daemon:
            store = ("store", "--socket", daemon.socket)
            cold, process = chats.run(requests, "none"), chats.run(requests * 2, "process")[1:]
            storing, memory = chats.run(requests, *store), chats.run(requests, *store)
            daemon.flush()
            daemon.restart()
            disk = chats.run(requests, *store)
            disk_bytes = daemon.disk_bytes()
        runs = dict(zip(times, (cold, process, storing, memory, disk)))
        for name, results in runs.items():
            times[name].append(results[0]["first_token_seconds"] * 1000)
        same = same and len({results[0]["logits_digest"] for results in runs.values()}) == 1
        blocks, disk_blocks = disk[0]["restored_blocks"], disk[0]["disk_blocks"]
    row: Result = {name: round(statistics.median(values), 1) for name, values in times.items()}
    row |= {"tokens": cold[0]["prompt_tokens"], "identicalLogits": same, "blocks": blocks}
    row |= {"blocksFromDisk": disk_blocks, "diskBytes": disk_bytes, "rounds": rounds}
    return row | {"loadAverage": round(os.getloadavg()[0], 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="to measure (default: a small one with random weights)")
    parser.add_argument("--json", type=Path, help="file for what was measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, nargs="*", default=[1000, 2000, 4000], help="words of system prompts")
    parser.add_argument("--test-only", action="store_true")
    parser.add_argument("--measure-only", action="store_true")
    parser.add_argument("--overhead", action="store_true", help="only measure what storing costs when nothing is reused")
    parser.add_argument("--pairs", type=int, default=12, help="of that: how often with and without a store")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        failed = 0
        if not given.measure_only and not given.overhead:
            make_model(directory / "tiny", "tiny", dtype="float32")
            # Nothing is read into memory ahead of time: what is found after a restart comes from disk.
            with Daemon(directory / "daemon", memory="512MiB", warm_up=False) as daemon:
                failed = Suite(Chats(directory / "tiny", directory, threads=1), daemon).run()
            print(f"{failed} checks failed" if failed else "all checks hold")
        if not given.test_only:
            model = given.model or directory / "small"
            if not given.model:
                make_model(model, "small", dtype="float32")
            if given.overhead:
                prompts = [text(7000 + number, given.words[0]) for number in range(given.pairs + 1)]
                rows = [measure_overhead(model, directory, given.pairs, prompts)]
            else:
                chats = Chats(model, directory, os.cpu_count() or 2)
                rows = [measure(chats, directory, given.rounds, words) for words in given.words]
                for row in rows:
                    print_row(row, "process", "storing", "memory", "disk")
                failed += sum(not row["identicalLogits"] for row in rows)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
