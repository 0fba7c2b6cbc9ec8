"""A daemon that processes share, and what happens when it goes."""

import os
import signal
import subprocess
import sys
import time

import pytest

import kvstore
from conftest import IDENTITY, block, prompt

# Machines that run tests are busy: what is meant to answer gets time, and a bound only tells a hang from a wait.
SLACK_SECONDS = 10.0


def connect(daemon, timeout_ms=10_000, slow_timeout_ms=20_000, **options):
    return kvstore.Store.connect(
        daemon.socket, timeout_ms=timeout_ms, slow_timeout_ms=slow_timeout_ms, retry_ms=10, **options
    )


def test_two_processes_share_blocks(daemon):
    program = (
        "import sys, conftest, kvstore\n"
        "space = kvstore.Store.connect(sys.argv[1], timeout_ms=10_000).namespace(conftest.IDENTITY)\n"
        "print(space.put(conftest.prompt(1), [conftest.block(1, index) for index in range(8)]))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, daemon.socket], capture_output=True, text=True,
                           cwd=os.path.dirname(__file__), check=True)
    assert ended.stdout.strip() == "8"
    with connect(daemon, client_name="reader") as store:
        assert store.ping() > 0
        space = store.namespace(IDENTITY)
        with space.acquire(prompt(1)) as lease:
            assert [bytes(view) for view in lease.blocks] == [block(1, index) for index in range(8)]
            assert lease.is_current
        assert space.pin(prompt(1), 60) == 8 and space.unpin(prompt(1)) == 8
        assert store.statistics()["memory"]["hitBlocks"] >= 8
        assert space.remove(prompt(1)) == 8 and not space.lookup(prompt(1))


def everything_is_a_miss(store, space, limit):
    """Every call of an engine; none raises, none takes longer than its deadline."""
    longest = 0.0
    for call, expected in (
        (lambda: int(space.lookup(prompt(1))), 0),
        (lambda: len(space.acquire(prompt(1))), 0),
        (lambda: len(space.reserve(prompt(2))), 0),
        (lambda: space.get(prompt(1)), []),
        (lambda: space.get_into(prompt(1), bytearray(8192)), 0),
        (lambda: space.put(prompt(2), block(2, 0)), 0),
        (lambda: space.put(prompt(2), [block(2, 0)]), 0),
        (lambda: space.prefetch(prompt(1)), None),
        (lambda: space.pin(prompt(1), 5), 0),
        (lambda: space.unpin(prompt(1)), 0),
        (lambda: space.remove(prompt(1)), 0),
        (lambda: store.flush().durable_blocks, 0),
        (lambda: store.ping(), None),
        (lambda: store.statistics()["memory"]["blocks"], 0),
    ):
        start = time.monotonic()
        assert call() == expected
        longest = max(longest, time.monotonic() - start)
    # A bound on a hang, not a measurement.
    assert longest < limit + SLACK_SECONDS
    return longest


def test_a_killed_daemon_is_a_miss_and_comes_back(daemon):
    with connect(daemon) as store:
        space = store.namespace(IDENTITY)
        assert space.put(prompt(1), [block(1, index) for index in range(8)]) == 8
        lease = space.acquire(prompt(1))
        places = space.reserve(prompt(3))
        daemon.kill(signal.SIGKILL)
        everything_is_a_miss(store, space, 0.6)
        # What is mapped stays mapped.
        assert [bytes(view) for view in lease.blocks] == [block(1, index) for index in range(8)]
        assert places.commit() == 0
        lease.release()
        daemon.start()
        deadline = time.monotonic() + 20
        while not space.put(prompt(4), [block(4, 0)]):
            assert time.monotonic() < deadline, "the client does not find the daemon again"
            time.sleep(0.02)
        assert space.get(prompt(4)) == [block(4, 0)]


def test_a_hung_daemon_is_a_miss_within_the_deadline(daemon):
    with connect(daemon) as store:
        assert store.namespace(IDENTITY).put(prompt(1), [block(1, index) for index in range(8)]) == 8
    with connect(daemon, timeout_ms=1000, slow_timeout_ms=1500) as store:
        space = store.namespace(IDENTITY)
        daemon.kill(signal.SIGSTOP)
        everything_is_a_miss(store, space, 1.5)
        daemon.kill(signal.SIGCONT)
        deadline = time.monotonic() + 20
        while int(space.lookup(prompt(1))) != 8:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_daemon_that_starts_later_is_found(tmp_path, daemon):
    daemon.kill()
    with connect(daemon) as store:
        space = store.namespace(IDENTITY)
        assert not space.is_open and store.ping() is None
        everything_is_a_miss(store, space, 0.6)
        with pytest.raises(kvstore.InvalidArgument):
            space.lookup([-1])
        with pytest.raises(kvstore.InvalidArgument):
            store.namespace(kvstore.Identity("m", layers=0, tokens_per_block=4))
        daemon.start()
        deadline = time.monotonic() + 20
        while not space.put(prompt(1), [block(1, 0)]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert space.is_open


def test_wrong_connections(tmp_path):
    token = tmp_path / "token"
    for arguments in ({"token_file": token}, {"token_file": tmp_path}, {"token": b"x" * 2000}, {"timeout_ms": 0},
                      {"client_name": "n" * 65}):
        with pytest.raises(kvstore.InvalidArgument):
            kvstore.Store.connect("/nowhere/k.sock", **arguments)
    with pytest.raises(kvstore.InvalidArgument):
        kvstore.Store.connect("/" + "long" * 40)
    token.write_text("  secret\n")
    kvstore.Store.connect("/nowhere/k.sock", token_file=token).close()
