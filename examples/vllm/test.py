"""Tests the connector with real engine processes on a tiny model with random weights. Exits with 1 if anything differs.

    python test.py [--model DIRECTORY] [--keep DIRECTORY]

Compared are greedy tokens with a run without a store, log-probabilities with those after a hit in vLLM's own prefix
cache bit for bit, and the bytes of each loaded block with those that were saved under its key. Equal tokens alone prove
little: attention does not notice when blocks of a prompt are swapped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "2")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "common")]

from checks import Checks  # noqa: E402
from daemon import Daemon  # noqa: E402
from engine import Job  # noqa: E402
from make_model import make_adapter, make_model  # noqa: E402
from processes import EngineProcess, Result, kvstore_transfer, random_tokens, run  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

PREFIX = random_tokens(1, 1024)
# Three users of one system prompt, and two long prompts of their own.
PROMPTS = [PREFIX + random_tokens(10 + user, 64) for user in range(3)]
PROMPTS += [random_tokens(20, 1088), random_tokens(21, 1088)]
BLOCK = 128


@dataclass
class Reference:
    """What an engine without a store answers: tokens, and log-probabilities after a hit in its own cache."""

    tokens: list[list[int]]
    logprobs: list[list[str]]


def digests(path: Path, what: str) -> dict[str, set[str]]:
    """Of each key the digests that were logged as `load` or `save`."""
    found: dict[str, set[str]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        kind, key, digest = line.split()
        if kind == what:
            found.setdefault(key, set()).add(digest)
    return found


def farthest_logprob(results: list[Result], expected: list[list[str]]) -> float:
    """The largest difference of two log-probabilities."""
    return max(
        abs(float.fromhex(a) - float.fromhex(b))
        for result, wanted in zip(results, expected)
        for a, b in zip(result["logprobs"], wanted)
    )


class Suite:
    def __init__(self, model: Path, directory: Path) -> None:
        self.directory = directory
        self.job = Job(str(model), dtype="float32", logprobs=True, warm_up_tokens=0)
        self.daemon = Daemon(directory / "daemon", memory="1GiB", disk="2GiB")
        self.check = Checks()
        self.reference = self._reference()

    def _requests(self, prompts: list[list[int]]) -> list[dict]:
        return [{"tokens": prompt, "reset": True} for prompt in prompts]

    def _reference(self) -> Reference:
        requests = [
            request for prompt in PROMPTS for request in ({"tokens": prompt, "reset": True}, {"tokens": prompt})
        ]
        results = run(replace(self.job, requests=requests), self.directory, "reference")
        return Reference([r["tokens"] for r in results[::2]], [r["logprobs"] for r in results[1::2]])

    def _stored_job(self, name: str, prompts: list[list[int]] = PROMPTS, **changes: object) -> Job:
        module = str(changes.pop("module", "kvstore_connector"))
        settings = changes.pop("settings", {})
        transfer = kvstore_transfer(
            self.daemon.socket, module, digest_log=str(self.directory / f"{name}.digests"), **settings
        )
        return replace(self.job, kv_transfer=transfer, requests=self._requests(prompts), **changes)

    def _run(self, name: str, **changes: object) -> list[Result]:
        return run(self._stored_job(name, **changes), self.directory, name)

    def _tokens_equal(self, name: str, results: list[Result], prompts: list[int] | None = None) -> None:
        numbers = prompts if prompts is not None else range(len(results))
        same = all(r["tokens"] == self.reference.tokens[n] for n, r in zip(numbers, results))
        self.check(f"{name}: greedy tokens as without a store", same and all(r["finish"] == "length" for r in results))

    def _logprobs_equal(self, name: str, results: list[Result], prompts: list[int] | None = None) -> None:
        numbers = prompts if prompts is not None else range(len(results))
        same = all(r["logprobs"] == self.reference.logprobs[n] for n, r in zip(numbers, results))
        self.check(f"{name}: log-probabilities bit for bit as after a local hit", same)

    def _bytes_equal(self, name: str, *saved: str, kind: str = "save") -> bool:
        """Whether each loaded block is as it was saved (or as another kind of line says) in one of these runs."""
        was: dict[str, set[str]] = {}
        for run_name in saved or ["cold"]:
            for key, found in digests(self.directory / f"{run_name}.digests", kind).items():
                was.setdefault(key, set()).update(found)
        now = digests(self.directory / f"{name}.digests", "load")
        return bool(now) and all(found <= was.get(key, set()) for key, found in now.items())

    def _refused_at_start(self, name: str, job: Job, text: str) -> None:
        try:
            run(job, self.directory, name)
        except SystemExit:
            pass
        log = (self.directory / f"{name}.log").read_text()
        self.check(f"{name}: refused at the start", f"KVStoreConnector: {text}" in log)

    # ---- The tests, in the order in which they build on each other

    def cold(self) -> None:
        results = self._run("cold")
        self._tokens_equal("cold, storing", results)
        cached = [r["cachedTokens"] for r in results]
        self.check("cold: only the shared prefix is found", cached == [0, 1024, 1024, 0, 0], cached)
        self.daemon.flush()

    def memory(self) -> None:
        self._warm("memory", disk_blocks=0)

    def disk(self) -> None:
        # Else the daemon reads blocks into memory before anybody asks for them.
        self.daemon.warm_up = False
        self.daemon.restart()
        self._warm("disk after kill -9", disk_blocks=3 * 1024 // BLOCK)

    def _warm(self, name: str, disk_blocks: int) -> None:
        before = self.daemon.hit_blocks()
        results = self._run(name)
        memory, disk = (now - then for now, then in zip(self.daemon.hit_blocks(), before))
        self._tokens_equal(name, results)
        self._logprobs_equal(name, results)
        cached = [r["cachedTokens"] for r in results]
        self.check(
            f"{name}: every whole block is found", cached == [1024] * 5, f"{memory} from memory, {disk} from disk"
        )
        self.check(f"{name}: blocks found on disk, each once", disk == disk_blocks, disk)
        self.check(f"{name}: the bytes in the engine's pages are those that were saved", self._bytes_equal(name))

    def chunked(self) -> None:
        results = self._run("chunked", max_batched_tokens=512)
        self._tokens_equal("prefill in chunks of 512, warm", results)
        other = [random_tokens(30 + number, 1088) for number in range(2)]
        again = [prompt for prompt in other for _ in range(2)]
        results = self._run("chunked-cold", prompts=again, max_batched_tokens=512)
        same = results[0]["tokens"] == results[1]["tokens"] and results[2]["tokens"] == results[3]["tokens"]
        self.check("prefill in chunks of 512, stored and loaded again", same and results[3]["cachedTokens"] == 1024)

    def salted(self) -> None:
        """What one `cache_salt` stored is not found with another, or with none."""
        job = self._stored_job("salted", prompts=[])
        salts = ["one", "one", "another"]
        job.requests = [{"tokens": PROMPTS[0], "reset": True, "salt": salt} for salt in salts]
        results = run(job, self.directory, "salted")
        self._tokens_equal("with cache_salt", results, [0, 0, 0])
        cached = [r["cachedTokens"] for r in results]
        self.check("with cache_salt: only what was stored with the same", cached == [0, 1024, 0], cached)

    def adapters(self) -> None:
        """What a LoRA adapter computed is found for it alone, also where another adapter has its name."""
        paths = {name: self.directory / f"adapter-{name}" for name in ("one", "two")}
        for seed, path in enumerate(paths.values()):
            make_adapter(path, Path(self.job.model), seed)
        names = [None, "one", "two", "one"]
        requests = [{"tokens": PROMPTS[0], "reset": True, "adapter": name} for name in names]
        loading = {name: str(path) for name, path in paths.items()}
        plain = run(replace(self.job, adapters=loading, requests=requests), self.directory, "adapters-plain")
        different = len({str(r["tokens"]) for r in plain[:3]}) == 3
        self.check("adapters: they change the tokens", different and plain[1]["tokens"] == plain[3]["tokens"])

        job = replace(self._stored_job("adapters", prompts=[]), adapters=loading, requests=requests)
        results = run(job, self.directory, "adapters")
        same = all(r["tokens"] == p["tokens"] for r, p in zip(results, plain))
        self.check("adapters: greedy tokens as without a store", same)
        cached = [r["cachedTokens"] for r in results]
        self.check("adapters: only what was stored with the same", cached == [1024, 0, 0, 1024], cached)
        self.check("adapters: bytes", self._bytes_equal("adapters", "cold", "adapters"))

        for change in self._swap_weights, self._change_alpha:
            change(paths["two"])
            self._changed_adapter(change.__name__, {"two": str(paths["two"])})

    def _swap_weights(self, adapter: Path) -> None:
        path = adapter / "adapter_model.safetensors"
        save_file({name: -part if "lora_B" in name else part for name, part in load_file(path).items()}, path)

    def _change_alpha(self, adapter: Path) -> None:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 4}))

    def _changed_adapter(self, name: str, loading: dict[str, str]) -> None:
        """An adapter of a known name and path, but with other files, is another adapter."""
        request = {"tokens": PROMPTS[0], "reset": True, "adapter": "two"}
        plain = run(replace(self.job, adapters=loading, requests=[request]), self.directory, f"adapters{name}-plain")
        job = replace(self._stored_job(f"adapters{name}", prompts=[]), adapters=loading, requests=[request] * 2)
        results = run(job, self.directory, f"adapters{name}")
        cached = [r["cachedTokens"] for r in results]
        same = all(r["tokens"] == plain[0]["tokens"] for r in results)
        self.check(f"adapters,{name}: another adapter by an old name and path", same and cached == [0, 1024], cached)

    def tensor_parallel(self) -> None:
        """Two workers that share each layer, each with a namespace of its own."""
        split = replace(self.job, tensor_parallel=2)
        plain = run(replace(split, requests=self._requests(PROMPTS)), self.directory, "split-plain")
        for name, wanted in ("split", [0, 1024, 1024, 0, 0]), ("split-again", [1024] * 5):
            results = run(self._stored_job(name, tensor_parallel=2), self.directory, name)
            same = all(r["tokens"] == p["tokens"] for r, p in zip(results, plain))
            self.check(f"tensor parallelism, {name}: greedy tokens as without a store", same)
            cached = [r["cachedTokens"] for r in results]
            self.check(f"tensor parallelism, {name}: blocks found", cached == wanted, cached)
        saved = digests(self.directory / "split.digests", "save")
        loaded = digests(self.directory / "split-again.digests", "load")
        same = loaded.keys() == saved.keys() and self._bytes_equal("split-again", "split")
        self.check("tensor parallelism: bytes of each rank", same)

    def lost_by_one_worker(self) -> None:
        """One of two workers cannot load: what the other computes in that step is wrong as well, and not stored."""
        longer = PREFIX + random_tokens(70, 300)
        prompts = [PROMPTS[0], longer, longer, longer]
        settings = {"fault": "lose-one", "revision": "lose-one"}
        split = replace(self.job, tensor_parallel=2, requests=self._requests(prompts[:2]))
        plain = run(split, self.directory, "split-lost-plain")
        losing = self._run(
            "split-lost", prompts=prompts, tensor_parallel=2, module="test_connectors", settings=settings
        )
        after = self._run("split-lost-after", prompts=[longer], tensor_parallel=2, settings={"revision": "lose-one"})
        expected = [plain[0]] + [plain[1]] * 4
        results = losing + after
        same = all(r["tokens"] == p["tokens"] for r, p in zip(results, expected))
        self.check("one worker loses blocks: greedy tokens as without a store", same)
        farthest = farthest_logprob(results, [p["logprobs"] for p in expected])
        self.check("one worker loses blocks: log-probabilities are near", farthest < 1e-3, f"{farthest:.1e}")
        cached = [r["cachedTokens"] for r in after]
        self.check("one worker loses blocks: stored again", cached == [1280], cached)

    def pages_reused_at_once(self) -> None:
        """There is KV memory for one prompt, so each takes the pages of the one before while that is committed."""
        prompts = [3, 4, 0, 3, 4, 0]
        # Another revision, so that nothing is there at first; commits are late, so that a late read would be noticed.
        settings = {"fault": "slow", "revision": "pages"}
        job = self._stored_job(
            "small",
            [PROMPTS[n] for n in prompts],
            kv_blocks=12,
            max_model_len=1280,
            module="test_connectors",
            settings=settings,
        )
        job.requests.insert(3, {"wait": True})
        with EngineProcess(job, self.directory, "small") as engine:
            engine.wait_until_ready()
            results = engine.results()
            # On a quick machine the engine asks again before the late commits are done.
            while self.daemon.statistics()["store"]["reservations"] > 0:
                time.sleep(0.1)
            engine.proceed()
            results += engine.results()
        self._tokens_equal("pages used again at once", results, prompts)
        self._logprobs_equal("pages used again at once, loaded", results[3:], prompts[3:])
        cached = [r["cachedTokens"] for r in results]
        self.check("pages used again at once: stored and found", cached[3:] == [1024] * 3, cached)
        same = self._bytes_equal("small", "small", kind="page")
        self.check("pages used again at once: bytes as straight after the forward pass", same)

    def lost_after_promise(self) -> None:
        """Blocks that the scheduler promised are gone when the worker wants them."""
        settings = {"fault": "lose", "revision": "lose"}
        prompts = [0, 0, 0]
        results = self._run("lost", prompts=[PROMPTS[0]] * 3, module="test_connectors", settings=settings)
        self._tokens_equal("blocks lost after they were promised", results, prompts)
        results = self._run("lost-after", prompts=[PROMPTS[0]] * 2, settings={"revision": "lose"})
        self._tokens_equal("what was stored meanwhile", results, prompts[:2])
        cached = [r["cachedTokens"] for r in results]
        self.check("what was stored meanwhile: found", cached == [1024] * 2, cached)
        saved, loaded = (
            digests(self.directory / "lost.digests", "save"),
            digests(self.directory / "lost-after.digests", "load"),
        )
        self.check("what was stored meanwhile: bytes", all(digest <= saved[key] for key, digest in loaded.items()))

    def dies_and_hangs(self) -> None:
        """In the middle of an engine's work the daemon is killed, started, stopped by SIGSTOP, and goes on."""
        wait = {"wait": True}
        request = {"tokens": PROMPTS[0], "reset": True}
        job = self._stored_job("dying", prompts=[], settings={"timeout_ms": 500})
        job.requests = [request, wait, request, wait, request, wait, request, wait, request]
        with EngineProcess(job, self.directory, "dying") as engine:
            engine.wait_until_ready()
            stages = [("up", None), ("killed", self.daemon.kill), ("started again", self.daemon.start)]
            stages += [("hanging", self.daemon.hang), ("awake again", self.daemon.resume)]
            for name, action in stages:
                if action:
                    action()
                    if name in ("started again", "awake again"):
                        time.sleep(6)  # the client looks for it every five seconds at the latest
                    engine.proceed()
                results = engine.results()
                self._tokens_equal(f"daemon {name}", results)
                print(f"     first token after {results[0]['firstTokenMilliseconds']:.0f} ms")
                wanted = 0 if name in ("killed", "hanging") else 1024
                self.check(f"daemon {name}: cached tokens", results[0]["cachedTokens"] == wanted)
            loaded = engine.metrics.get("loaded_blocks")
            self.check("vLLM's metrics have the blocks of three loads", loaded == 3 * 1024 // BLOCK, loaded)

    def two_engines(self) -> None:
        """Both load what is there; then both compute and store the same new prompts at once."""
        new = [random_tokens(40 + number, 1088) for number in range(2)]
        jobs = [self._stored_job(name, PROMPTS + new) for name in ("one", "two")]
        for job in jobs:
            job.requests.insert(len(PROMPTS), {"wait": True})
        with (
            EngineProcess(jobs[0], self.directory, "one") as one,
            EngineProcess(jobs[1], self.directory, "two") as two,
        ):
            for engine in (one, two):
                engine.wait_until_ready()
            self._tokens_equal("two engines at once, the first", one.results())
            self._tokens_equal("two engines at once, the second", two.results())
            for engine in (one, two):
                engine.proceed()
            answers = [[r["tokens"] for r in engine.results()] for engine in (one, two)]
        same = self._bytes_equal("one", "cold", "two") and self._bytes_equal("two", "cold", "one")
        self.check("two engines at once: bytes", same)
        results = self._run("both", prompts=new)
        same = answers[0] == answers[1] == [r["tokens"] for r in results]
        cached = [r["cachedTokens"] for r in results]
        self.check("two engines store the same at once: found", same and cached == [1024] * 2, cached)
        self.check("two engines store the same at once: bytes", self._bytes_equal("both", "one", "two"))

    def batches(self) -> None:
        """Several requests in a step share a prefix, and there is too little KV memory: vLLM sends some back."""
        prefix = random_tokens(50, 1024)
        # Each needs one block more than its prompt.
        prompts = [prefix + random_tokens(60 + user, 120) for user in range(4)]
        job = self._stored_job("batches", prompts=[], kv_blocks=15, max_model_len=1280)
        job.requests = [{"batch": prompts, "reset": True}] * 3
        plain = run(replace(job, kv_transfer=None, requests=self._requests(prompts)), self.directory, "batches-plain")
        with EngineProcess(job, self.directory, "batches") as engine:
            engine.wait_until_ready()
            results = engine.results()
            metrics = engine.metrics
        same = all(r["tokens"] == plain[n % 4]["tokens"] for n, r in enumerate(results))
        self.check("batches: greedy tokens as one by one without a store", same)
        preempted = metrics["vllm:num_preemptions"]
        self.check("batches: vLLM sent requests back", preempted > 0, preempted)
        cached = [r["cachedTokens"] for r in results]
        self.check("batches: the shared prefix is found", min(cached[4:]) >= 1024, cached)
        self.check("batches: bytes", self._bytes_equal("batches", "batches"))
        self.check("batches: each request is counted once", metrics["lookups"] <= len(results), metrics["lookups"])

    def lost_in_batch(self) -> None:
        """Blocks that two requests of a step share are lost after they were promised."""
        job = self._stored_job(
            "lost-batch", prompts=[], module="test_connectors", settings={"fault": "lose", "revision": "lose-batch"}
        )
        job.requests = [{"batch": PROMPTS[:2], "reset": True}] * 3
        with EngineProcess(job, self.directory, "lost-batch") as engine:
            engine.wait_until_ready()
            results = engine.results()
            failed = engine.metrics["failed_blocks"]
        self._tokens_equal("shared blocks lost", results, [0, 1] * 3)
        self.check("shared blocks lost: loads failed", failed >= 1024 // BLOCK, failed)
        results = self._run("lost-batch-after", prompts=PROMPTS[:2], settings={"revision": "lose-batch"})
        self._tokens_equal("shared blocks lost, what was stored meanwhile", results)
        cached = [r["cachedTokens"] for r in results]
        self.check("shared blocks lost: stored again", cached == [1024] * 2, cached)
        self.check("shared blocks lost: bytes", self._bytes_equal("lost-batch-after", "lost-batch"))

    def hangs_after_promise(self) -> None:
        """The daemon is stopped between the promise of two prompts and their loads."""
        deadline = 3
        settings = {"fault": "hang", "pid": self.daemon.process.pid, "timeout_ms": deadline * 1000}
        job = self._stored_job("hanging", prompts=[], module="test_connectors", settings=settings)
        longer = PROMPTS[3] + random_tokens(80, 128)
        plain = run(replace(self.job, requests=self._requests([longer])), self.directory, "hanging-plain")
        job.requests = [{"batch": PROMPTS[3:5], "reset": True}, {"tokens": PROMPTS[0]}, {"wait": True}]
        # On pages that were computed again meanwhile; then what was stored of it.
        job.requests += [{"tokens": longer}, {"tokens": longer, "reset": True}]
        with EngineProcess(job, self.directory, "hanging") as engine:
            engine.wait_until_ready()
            self._tokens_equal("stopped after a promise", engine.results(), [3, 4, 0])
            self.daemon.resume()
            time.sleep(6)  # the client looks for it every five seconds at the latest
            engine.proceed()
            results = engine.results()
            metrics = engine.metrics
        same = all(r["tokens"] == plain[0]["tokens"] for r in results)
        self.check("stopped after a promise, and awake again: greedy tokens as without a store", same)
        cached = results[1]["cachedTokens"]
        self.check("stopped after a promise: what follows is stored", cached == 1152, cached)
        self.check("stopped after a promise: both loads failed", metrics["failed_blocks"] == 2 * 1024 // BLOCK)
        waited = sum(metrics[f"{name}_seconds"] for name in ("lookup", "load", "save"))
        once = 0.9 * deadline < waited < 1.5 * deadline
        self.check("stopped after a promise: one deadline is all that was waited", once, f"{waited:.2f} s")

    def exceptions(self) -> None:
        """Every third call of what the hooks use raises."""
        settings = {"fault": "raise", "revision": "raise"}
        job = self._stored_job("raising", PROMPTS * 3, module="test_connectors", settings=settings)
        with EngineProcess(job, self.directory, "raising") as engine:
            engine.wait_until_ready()
            results = engine.results()
            raised = {word for line in engine.said for word in line.split() if "on purpose" in line}
        self._tokens_equal("exceptions in all hooks", results, list(range(5)) * 3)
        wanted = {"find", "allocated", "_save", "heard", "finished", "save", "add"}
        self.check("exceptions in all hooks: raised", wanted <= raised, wanted - raised)

    def refused(self) -> None:
        """A daemon with too little memory for the blocks of this model."""
        with Daemon(self.directory / "refusing", memory="32MiB", disk="64MiB") as daemon:
            job = self._stored_job("refused", prompts=PROMPTS[:2])
            job.kv_transfer["kv_connector_extra_config"]["kvstore.socket"] = str(daemon.socket)
            with EngineProcess(job, self.directory, "refused") as engine:
                engine.wait_until_ready()
                results = engine.results()
                said = sum("InvalidArgument" in line for line in engine.said)
        self._tokens_equal("namespace refused", results)
        cached = [r["cachedTokens"] for r in results]
        self.check("namespace refused: nothing is found", cached == [0, 0], cached)
        self.check("namespace refused: the reason is logged, not each time", 0 < said < 4, said)

    def weights_updated(self) -> None:
        """After a reset with `reset_connector` nothing of before is found, but what is stored since."""
        job = self._stored_job("updated", prompts=[])
        request = {"tokens": PROMPTS[0], "reset": True}
        job.requests = [request, request | {"reset_connector": True}, request]
        results = run(job, self.directory, "updated")
        self._tokens_equal("reset of the connector", results, [0, 0, 0])
        cached = [r["cachedTokens"] for r in results]
        self.check("reset of the connector: nothing of before is found", cached == [1024, 0, 1024], cached)

    def sliding_window(self) -> None:
        """Pages of a model whose layers all forget are the null block where they are not needed."""
        model = self.directory / "sliding"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(self.job.model, model)
        config = json.loads((model / "config.json").read_text())
        config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 256}
        (model / "config.json").write_text(json.dumps(config))
        job = replace(self._stored_job("sliding window", prompts=PROMPTS[:1]), model=str(model))
        self._refused_at_start("sliding window", job, "one group of full attention layers is supported, not Sliding")

    def names(self) -> None:
        """What names weights where a path is none, and adapters whose files change under a running engine."""
        import kvstore_connector as connector

        def config(model: str) -> SimpleNamespace:
            loading = SimpleNamespace(download_dir=str(self.directory / "hub"))
            described = SimpleNamespace(model=model, revision=None)
            return SimpleNamespace(model_config=described, load_config=loading)

        def refuses(call: object, *arguments: object) -> bool:
            try:
                call(*arguments)
            except ValueError as error:
                return "kvstore.revision" in str(error)
            return False

        settings = connector.Settings()
        self.check("a model of a hub without files is refused", refuses(connector.revision_of, config("a/b"), settings))
        snapshot = self.directory / "hub/models--a--c/snapshots/0123"
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / "model.safetensors").write_bytes(b"weights")
        (refs := snapshot.parents[1] / "refs").mkdir(exist_ok=True)
        (refs / "main").write_text("0123")
        digest = connector.digest_of_files(snapshot)
        found = connector.revision_of(config("a/c"), settings)
        self.check("one whose files are there has their digest", found == digest)

        def length(rope: str) -> int:
            described = SimpleNamespace(to_json_string=lambda: json.dumps({"rope_parameters": {"rope_type": rope}}))
            return connector.length_of(SimpleNamespace(max_model_len=9, hf_config=described))

        self.check("with LongRoPE the length matters", (length("longrope"), length("yarn")) == (9, 0))

        path = self.directory / "adapter-running"
        make_adapter(path, Path(self.job.model), 5)
        adapters = connector.Adapters()

        def lora(path: Path | str, in_place: bool = False) -> SimpleNamespace:
            return SimpleNamespace(lora_name="one", lora_path=str(path), load_inplace=in_place)

        first = adapters.name(lora(path))
        self.check("an adapter has a name", bool(first) and adapters.name(lora(path)) == first)
        self._change_alpha(path)
        self.check("not when its files change in a running engine", adapters.name(lora(path)) is None)
        other = connector.Adapters()
        self.check("another engine names it otherwise", other.name(lora(path)) not in (None, first))
        other.name(lora(path, in_place=True))
        self.check("not after it was loaded in place", other.name(lora(path)) is None)
        self.check("not without a directory", connector.Adapters().name(lora("organisation/adapter")) is None)

    def corrupted(self) -> None:
        self.daemon.flush()
        self.daemon.kill()
        flipped = self.daemon.damage(stride=3 << 20)
        self.daemon.warm_up = False
        self.daemon.start()
        results = self._run("corrupted")
        self._tokens_equal(f"{flipped} bytes flipped on disk", results)
        # Not bit for bit: what is computed is a prompt of another length.
        farthest = farthest_logprob(results, self.reference.logprobs)
        self.check("corrupted: log-probabilities are near", farthest < 1e-3, f"{farthest:.1e}")
        cached = [r["cachedTokens"] for r in results]
        self.check("corrupted: less was found, and the rest computed", sum(cached) < 5 * 1024, cached)
        self.check("corrupted: no wrong byte was loaded", self._bytes_equal("corrupted") or not sum(cached))

    def changed_content(self) -> None:
        """The negative control: wrong bytes under right keys, stored with good digests. It must be noticed."""
        settings = {"fault": "change", "revision": "changed"}
        self._run("changing", module="test_connectors", settings=settings)
        results = self._run("changed", settings={"revision": "changed"})
        different = all(r["tokens"] != self.reference.tokens[n] for n, r in enumerate(results))
        found = all(r["cachedTokens"] == 1024 for r in results)
        self.check("negative control: changed blocks change the tokens", different and found)
        self.check("negative control: the bytes are noticed", not self._bytes_equal("changed"))


TESTS = ["memory", "disk", "chunked", "salted", "adapters", "tensor_parallel", "lost_by_one_worker"]
TESTS += ["pages_reused_at_once", "batches", "exceptions"]
TESTS += ["lost_after_promise", "lost_in_batch", "two_engines", "dies_and_hangs", "hangs_after_promise", "refused"]
TESTS += ["weights_updated", "sliding_window", "names", "corrupted", "changed_content"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="Hugging Face directory (default: a tiny one with random weights)")
    parser.add_argument("--keep", type=Path, help="directory for logs (default: a temporary one)")
    parser.add_argument("--only", nargs="*", help="names of tests, after `cold`")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = given.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        model = given.model or directory / "model"
        make_model(model, "tiny", dtype="float32")
        suite = Suite(model, directory)
        with suite.daemon:
            suite.cold()
            for test in given.only or TESTS:
                getattr(suite, test)()
    print(f"{suite.check.failed} checks failed" if suite.check.failed else "all checks hold")
    return 1 if suite.check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
