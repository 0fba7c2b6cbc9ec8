"""The daemon of a test or a measurement: started, hung, killed with SIGKILL, started again, damaged on disk.

A directory holds everything of one daemon: its socket, its state and its log.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def find_binary() -> Path:
    """`kvstore`: $KVSTORE_BIN, else this repository's release build, else on the PATH."""
    candidates = [os.environ.get("KVSTORE_BIN"), ROOT / ".build/release/kvstore", shutil.which("kvstore")]
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise SystemExit("kvstore is not built: run `swift build -c release --product kvstore`, or set KVSTORE_BIN")


@dataclass
class Daemon:
    """`kvstore serve` in `directory`. Use as a context manager: it ends with the block, its files stay."""

    directory: Path
    memory: str = "1GiB"
    disk: str = "4GiB"
    staging: str = "128MiB"
    write_back: str = "1s"
    # Without it what a restarted daemon serves comes from disk.
    warm_up: bool = True
    binary: Path = field(default_factory=find_binary)
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "kvstore.sock"

    @property
    def disk_path(self) -> Path:
        return self.directory / "state" / "disk"

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it and waits until it has loaded its index."""
        self.directory.mkdir(parents=True, exist_ok=True)
        arguments = ["serve", "--socket", self.socket, "--state-directory", self.directory / "state"]
        arguments += ["--memory", self.memory, "--disk-capacity", self.disk, "--log-level", "warning"]
        arguments += ["--staging-per-connection", self.staging, "--write-back-delay", self.write_back]
        if not self.warm_up:
            arguments += ["--warm-up", "false"]
        with open(self.directory / "daemon.log", "ab") as log:
            self.process = subprocess.Popen([self.binary, *map(str, arguments)], stdout=log, stderr=log)
        self._wait_until_ready()

    def _wait_until_ready(self, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process and self.process.poll() is not None:
                break
            answer = self._run("health", "--json")
            if answer.returncode == 0 and json.loads(answer.stdout)["state"] == "ready":
                return
            time.sleep(0.05)
        raise SystemExit(f"the daemon does not start, see {self.directory}/daemon.log")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.binary), arguments[0], "--socket", str(self.socket), *arguments[1:]]
        return subprocess.run(command, capture_output=True, text=True)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        """SIGKILL, then start it again on the same directory."""
        self.kill()
        self.start()

    def hang(self) -> None:
        """SIGSTOP: it still has its socket, but answers nobody."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        # A busy machine takes a moment until the last of its threads has stopped.
        tasks = Path(f"/proc/{self.process.pid}/task")
        while any((task / "stat").read_text().rsplit(")", 1)[1].split()[0] != "T" for task in tasks.iterdir()):
            time.sleep(0.001)

    def resume(self) -> None:
        """Ends `hang`."""
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Waits until everything is on disk."""
        answer = self._run("flush")
        if answer.returncode != 0:
            raise SystemExit(f"flush: {answer.stderr.strip()}")

    def statistics(self) -> dict[str, Any]:
        """What `kvstore stats --json` prints."""
        return json.loads(self._run("stats", "--json").stdout)

    def hit_blocks(self) -> tuple[int, int]:
        """Blocks served so far from memory and from disk."""
        store = self.statistics()["store"]
        return store["memory"]["hitBlocks"], store["disk"]["hitBlocks"]

    def disk_bytes(self) -> int:
        """Allocated bytes of the disk tier's directory."""
        return sum(file.stat().st_blocks * 512 for file in self.disk_path.rglob("*") if file.is_file())

    def segments(self) -> list[Path]:
        """The segment files, largest first."""
        files = [file for file in self.disk_path.glob("db/*.sst") if file.stat().st_size >= 256 << 10]
        return sorted(files, key=lambda file: -file.stat().st_size)

    def damage(self, stride: int = 1 << 20) -> int:
        """Flips one byte in each `stride` bytes of every segment file. Only while it is down. Returns how many."""
        assert self.process is None
        flipped = 0
        for path in self.segments():
            with open(path, "r+b") as file:
                for offset in range(stride // 2, path.stat().st_size - 4096, stride):
                    file.seek(offset)
                    byte = file.read(1)[0]
                    file.seek(offset)
                    file.write(bytes([byte ^ 0xFF]))
                    flipped += 1
        return flipped
