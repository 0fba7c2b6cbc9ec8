"""Engine processes: started with a job, read line by line, killed with SIGKILL."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine import Job

HERE = Path(__file__).resolve().parent
Result = dict[str, Any]


def kvstore_transfer(socket: Path, module: str = "kvstore_connector", **settings: Any) -> dict[str, Any]:
    """`kv_transfer_config` for the connector of a module in this folder."""
    extra = {"kvstore.socket": str(socket)} | {f"kvstore.{name}": value for name, value in settings.items()}
    return {
        "kv_connector": "KVStoreConnector",
        "kv_connector_module_path": module,
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": extra,
    }


def random_tokens(seed: int, count: int) -> list[int]:
    """Token ids that are the same in every run."""
    return random.Random(seed).choices(range(3, 8000), k=count)


class EngineProcess:
    """`engine.py` with a job. Use as a context manager: it is killed at the end of the block."""

    def __init__(self, job: Job, directory: Path, name: str, python: str = sys.executable) -> None:
        path = directory / f"{name}.json"
        path.write_text(json.dumps(asdict(job)))
        self.log = directory / f"{name}.log"
        # At the end of a job: the connector's, from vLLM's metrics.
        self.metrics: dict[str, float] = {}
        # What vLLM logged.
        self.said: list[str] = []
        self._errors = open(self.log, "wb")  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, str(HERE / "engine.py"), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # In our session, as from one shell. Where the daemon is in another, the kernel shares processors between
            # sessions instead of threads, and threads that wake for a moment wait for those that spin.
            process_group=0,
            env=os.environ,
        )

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _lines(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
            else:
                self.said.append(line)
                self._errors.write(line.encode())
                self._errors.flush()
        raise SystemExit(f"the engine ended too early, see {self.log}")

    def wait_until_ready(self) -> None:
        for line in self._lines():
            if line.get("ready"):
                return

    def results(self) -> list[Result]:
        """The answers up to the end of the job, or to where it waits."""
        found = []
        for line in self._lines():
            if "result" in line:
                found.append(line["result"])
            self.metrics = line.get("metrics", {})
            if line.get("done") or line.get("waiting"):
                return found
        return found

    def proceed(self) -> None:
        """Ends its waiting."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL for the engine and all processes that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._errors.close()


def run(job: Job, directory: Path, name: str, python: str = sys.executable) -> list[Result]:
    """The results of a job in an engine process of its own."""
    with EngineProcess(job, directory, name, python) as engine:
        engine.wait_until_ready()
        return engine.results()
