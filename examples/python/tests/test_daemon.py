"""A daemon that processes share, and what happens when it goes."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import kvstore
from conftest import IDENTITY, block, prompt

# Long enough that half of it, which a call may take longer, is more than a busy machine needs.
DEADLINE_SECONDS = 3.0


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


def seconds_of(call):
    start = time.monotonic()
    call()
    return time.monotonic() - start


def everything_is_a_miss(store, space):
    """Every call of an engine; none raises, and none takes longer than half as long again as the deadline."""
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
    assert longest < 1.5 * DEADLINE_SECONDS


def test_a_killed_daemon_is_a_miss_and_comes_back(daemon):
    with connect(daemon) as store:
        space = store.namespace(IDENTITY)
        assert space.put(prompt(1), [block(1, index) for index in range(8)]) == 8
        lease = space.acquire(prompt(1))
        places = space.reserve(prompt(3))
        daemon.kill(signal.SIGKILL)
        everything_is_a_miss(store, space)
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
    limit = int(DEADLINE_SECONDS * 1000)
    with connect(daemon, timeout_ms=limit, slow_timeout_ms=limit) as store:
        space = store.namespace(IDENTITY)
        daemon.kill(signal.SIGSTOP)
        everything_is_a_miss(store, space)
        daemon.kill(signal.SIGCONT)
        deadline = time.monotonic() + 20
        while int(space.lookup(prompt(1))) != 8:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_hung_daemon_is_waited_for_once(daemon):
    """Each kind of call is the first to notice, in a client of its own; those after it do not wait again."""
    limit = int(DEADLINE_SECONDS * 1000)
    kinds = {
        "lookup": lambda store, space: space.lookup(prompt(1)),
        "acquire": lambda store, space: space.acquire(prompt(1)),
        "reserve": lambda store, space: space.reserve(prompt(2)),
        "put": lambda store, space: space.put(prompt(2), block(2, 0)),
        "remove": lambda store, space: space.remove(prompt(1)),
        "flush": lambda store, space: store.flush(),
    }
    took = {}

    def use(name, call, store, space):
        first = seconds_of(lambda: call(store, space))
        after = seconds_of(lambda: [call(store, space) for _ in range(49)])
        took[name] = (first, after)

    with contextlib.ExitStack() as stack:
        # A retry that lies behind the test: whatever waits again has not kept to it.
        options = dict(timeout_ms=limit, slow_timeout_ms=limit, retry_ms=600_000)
        stores = [stack.enter_context(kvstore.Store.connect(daemon.socket, **options)) for _ in kinds]
        spaces = [store.namespace(IDENTITY) for store in stores]
        assert all(space.put(prompt(1), block(1, 0)) + space.lookup(prompt(1)).block_count for space in spaces)
        daemon.kill(signal.SIGSTOP)
        threads = [
            threading.Thread(target=use, args=(name, kinds[name], store, space))
            for name, store, space in zip(kinds, stores, spaces)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        daemon.kill(signal.SIGCONT)
    assert sorted(took) == sorted(kinds)
    for name, (first, after) in took.items():
        assert 0.9 * DEADLINE_SECONDS < first < 1.5 * DEADLINE_SECONDS, f"{name}: {first:.2f} s"
        assert after < DEADLINE_SECONDS, f"{name}: the 49 calls after it took {after:.2f} s"


def test_a_daemon_that_starts_later_is_found(tmp_path, daemon):
    daemon.kill()
    with connect(daemon) as store:
        space = store.namespace(IDENTITY)
        assert not space.is_open and store.ping() is None
        everything_is_a_miss(store, space)
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
