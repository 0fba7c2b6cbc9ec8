"""What the tests share: stores, prompts, blocks, and a daemon in a process of its own."""

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

import kvstore

BLOCK_BYTES = 8192
IDENTITY = kvstore.Identity(
    "test-model", dtype="bf16", layers=4, key_heads=2, key_head_dimension=64, tokens_per_block=4
)


def prompt(number, blocks=8):
    """Tokens of ``blocks`` blocks and one more token."""
    return [number * 1000 + index for index in range(blocks * 4 + 1)]


def block(number, index):
    """A block's bytes: they differ by prompt and block, so that swapped blocks are noticed."""
    return random.Random(number * 10_007 + index).randbytes(BLOCK_BYTES)


@pytest.fixture
def store():
    with kvstore.Store.open(memory_bytes=32 << 20) as opened:
        yield opened


@pytest.fixture
def space(store):
    return store.namespace(IDENTITY)


class Daemon:
    """``kvstore serve`` on a socket in a new directory."""

    def __init__(self, *arguments):
        self.directory = tempfile.mkdtemp(prefix="kvstore-py-")
        os.chmod(self.directory, 0o700)
        self.socket = os.path.join(self.directory, "k.sock")
        self.arguments = list(arguments)
        self.process = None
        self.start()

    def start(self):
        command = [os.environ["KVSTORE_DAEMON"], "serve", "--socket", self.socket, "--state-directory",
                   os.path.join(self.directory, "state"), "--memory", "64MiB", *self.arguments]
        log = open(os.path.join(self.directory, "log"), "ab")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        with kvstore.Store.connect(self.socket, retry_ms=10) as client:
            for _ in range(1500):
                if client.ping() is not None:
                    return
                assert self.process.poll() is None, "the daemon ended"
                time.sleep(0.02)
        raise AssertionError("the daemon does not answer")

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()
        # A busy machine takes a moment until the last of its threads has stopped.
        while number == signal.SIGSTOP and not all(self._has_stopped(task) for task in self._tasks()):
            time.sleep(0.001)

    def _tasks(self):
        return os.listdir(f"/proc/{self.process.pid}/task")

    def _has_stopped(self, task):
        try:
            with open(f"/proc/{self.process.pid}/task/{task}/stat") as file:
                return file.read().rsplit(")", 1)[1].split()[0] == "T"
        except FileNotFoundError:
            return True

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def daemon():
    if "KVSTORE_DAEMON" not in os.environ:
        pytest.skip("KVSTORE_DAEMON does not name the kvstore program")
    running = Daemon("--disk-capacity", "0")
    yield running
    running.stop()
