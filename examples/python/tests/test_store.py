"""A store in this process."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import kvstore
from kvstore import _library
from conftest import BLOCK_BYTES, IDENTITY, block, prompt


def fill(space, number, blocks=8):
    return space.put(prompt(number, blocks), [block(number, index) for index in range(blocks)])


def test_blocks_come_back_as_they_were(space):
    assert space.block_bytes == BLOCK_BYTES and space.is_open
    assert space.lookup(prompt(1)) == (0, 0, 8, False)
    assert fill(space, 1) == 8
    assert int(space.lookup(prompt(1))) == 8
    with space.acquire(prompt(1)) as lease:
        assert len(lease) == 8 and lease.is_current and lease.tiers == ["memory"] * 8
        for index, view in enumerate(lease.blocks):
            assert view.readonly and bytes(view) == block(1, index)
        # The control: the comparison notices blocks that changed places.
        assert bytes(lease.blocks[0]) != block(1, 1)
        with pytest.raises(TypeError):
            lease.blocks[0][0] = 1
    assert space.get(prompt(1), first=6) == [block(1, 6), block(1, 7)]
    assert space.get(prompt(2)) == [] and not space.acquire(prompt(2))


def test_a_longer_prompt_finds_the_head_it_shares(space):
    fill(space, 1)
    longer = prompt(1)[:-1] + [7] * 8
    assert space.lookup(longer)[:3] == (8, 0, 10)
    other = prompt(1)
    other[5] += 1
    assert int(space.lookup(other)) == 1
    assert len(space.prefix(longer)[:3]) == 3 and int(space.lookup(space.prefix(longer)[:3])) == 3


def test_places_are_filled_and_committed_or_abandoned(space):
    with pytest.raises(RuntimeError):
        with space.reserve(prompt(1)) as places:
            assert places.block_numbers == list(range(8))
            raise RuntimeError("the engine failed")
    assert not space.lookup(prompt(1))
    with space.reserve(prompt(1)) as places:
        for number, view in zip(places.block_numbers, places.blocks):
            view[:] = block(1, number)
        kept = places.blocks[0]
    assert places.committed == 8 and space.get(prompt(1)) == [block(1, index) for index in range(8)]
    with pytest.raises(ValueError):
        kept[0] = 1
    with pytest.raises(kvstore.InvalidHandle):
        places.blocks
    with pytest.raises(kvstore.InvalidHandle):
        places.commit()
    places.abandon()
    again = space.reserve(prompt(1))
    assert not again and again.commit() == 0
    dropped = space.reserve(prompt(2))
    assert len(dropped) == 8
    del dropped
    gc.collect()
    assert len(space.reserve(prompt(2))) == 8


def test_copies(space):
    whole = b"".join(block(3, index) for index in range(8))
    assert space.put(prompt(3), whole[: 3 * BLOCK_BYTES]) == 3
    assert space.put(prompt(3), bytearray(whole[5 * BLOCK_BYTES :]), first=5) == 0, "block 3 is missing"
    assert space.put(prompt(3), memoryview(whole)[3 * BLOCK_BYTES :], first=3) == 5
    assert space.put(prompt(3), whole) == 0
    buffer = bytearray(3 * BLOCK_BYTES)
    assert space.get_into(prompt(3), buffer, first=4) == 3
    assert buffer == whole[4 * BLOCK_BYTES : 7 * BLOCK_BYTES]
    with space.acquire(prompt(3)) as lease:
        lease.copy_into(7, buffer, offset=BLOCK_BYTES)
    assert buffer[BLOCK_BYTES : 2 * BLOCK_BYTES] == block(3, 7)
    assert space.remove(prompt(3), first=5) == 3 and space.remove(prompt(3), first=5) == 0
    assert int(space.lookup(prompt(3))) == 5


def test_keys_of_the_caller(store):
    space = store.namespace(kvstore.Identity("m", dtype="opaque", opaque_block_bytes=BLOCK_BYTES, tokens_per_block=128))
    keys = [bytes([index]) * 32 for index in range(1, 5)]
    assert space.put(keys, [block(4, index) for index in range(4)]) == 4
    assert int(space.lookup(keys[:2] + [b"other"])) == 2
    prefix = space.prefix(keys=keys, token_count=600)
    assert len(prefix) == 4 and space.get(prefix[:2]) == [block(4, 0), block(4, 1)]
    assert space.get(space.prefix(keys=[])) == []
    assert "x01" not in repr(prefix)


def test_extra_bytes_make_other_blocks(space):
    fill(space, 1)
    image = space.prefix(prompt(1), extra={3: b"digest of an image"})
    assert int(space.lookup(image)) == 3
    assert int(space.lookup(image[:3])) == 3


def test_identities_that_differ_share_nothing(store, space):
    fill(space, 1)
    for change in ({"adapter": "lora"}, {"revision": "2"}, {"additional": {"n": 1}}, {"tensor_parallel_size": 2},
                   {"salt": b"secret"}, {"dtype": "fp16"}):
        fields = {**IDENTITY.__dict__, **change}
        other = store.namespace(kvstore.Identity(**fields))
        assert other.block_bytes == BLOCK_BYTES and not other.lookup(prompt(1))
    same = store.namespace(kvstore.Identity(**IDENTITY.__dict__))
    assert int(same.lookup(prompt(1))) == 8
    assert "secret" not in repr(kvstore.Identity("m", salt=b"secret"))
    keys_only = kvstore.Identity("mla", layers=2, key_heads=1, value_heads=0, key_head_dimension=576,
                                 value_head_dimension=0, tokens_per_block=4)
    assert store.namespace(keys_only).block_bytes == 2 * 576 * 4 * 2 == keys_only.block_bytes


def test_memory_stays_while_anything_looks_at_it(space):
    numpy = pytest.importorskip("numpy")
    fill(space, 1)
    lease = space.acquire(prompt(1))
    arrays = lease.numpy(numpy.uint8, (2, -1))
    assert arrays[0].shape == (2, BLOCK_BYTES // 2) and not arrays[0].flags.writeable
    part = lease.blocks[3][10:20]
    whole = lease.blocks[2]
    assert lease.release() is False and lease.release() is True
    with pytest.raises(ValueError):
        whole[0]
    with pytest.raises(kvstore.InvalidHandle):
        lease.blocks
    space.remove(prompt(1))
    # Removed and under pressure: a block that somebody looks at is given to nobody.
    for number in range(100, 700):
        fill(space, number, 8)
    assert arrays[0].tobytes() == block(1, 0) and bytes(part) == block(1, 3)[10:20]
    with space.acquire(prompt(699)) as other:
        assert other.release() is True


def test_numpy_places_are_read_only_after_the_commit(space):
    numpy = pytest.importorskip("numpy")
    with space.reserve(prompt(5)) as places:
        arrays = places.numpy(numpy.float16, (4, 2, 4, 2, 64))
        for index, array in enumerate(arrays):
            array[...] = index
    with pytest.raises(ValueError):
        arrays[0][...] = 9
    with space.acquire(numpy.array(prompt(5), dtype=numpy.int64)) as lease:
        assert [float(view[0, 0, 0, 0, 0]) for view in lease.numpy(numpy.float16, (4, 2, 4, 2, 64))] == list(range(8))


def test_torch_views(space):
    if os.environ.get("KVSTORE_TEST_TORCH") == "1":
        import torch
    else:
        torch = pytest.importorskip("torch")
    tokens = torch.tensor(prompt(6))
    with space.reserve(tokens) as places:
        addresses = places.addresses
        for index, tensor in enumerate(places.torch(torch.bfloat16, (4, 2, 4, 2, 64))):
            assert tensor.data_ptr() == addresses[index]
            tensor.fill_(index)
    with space.acquire(tokens) as lease:
        views = lease.torch(torch.bfloat16, (4, 2, 4, 2, 64))
        assert [view.data_ptr() for view in views] == lease.addresses
        assert [float(view.mean()) for view in views] == list(range(8))
    target = torch.empty(8 * BLOCK_BYTES, dtype=torch.uint8)
    assert space.get_into(tokens, target) == 8
    assert space.remove(tokens) == 8 and space.put(tokens, target) == 8


def test_disk_survives_the_process(tmp_path):
    program = (
        "import sys, kvstore, conftest\n"
        "store = kvstore.Store.open(32 << 20, sys.argv[1], 64 << 20)\n"
        "space = store.namespace(conftest.IDENTITY)\n"
        "print(space.put(conftest.prompt(1), [conftest.block(1, index) for index in range(8)]))\n"
    )
    # Not closed: the interpreter's end does that.
    ended = subprocess.run([sys.executable, "-c", program, tmp_path / "kv"], capture_output=True, text=True,
                           cwd=os.path.dirname(__file__), check=True)
    assert ended.stdout.strip() == "8"
    with kvstore.Store.open(32 << 20, tmp_path / "kv", 64 << 20, warm_up=False) as store:
        space = store.namespace(IDENTITY)
        assert space.lookup(prompt(1)).disk_block_count == 8
        space.prefetch(prompt(1))
        assert space.get(prompt(1)) == [block(1, index) for index in range(8)]
        flushed = store.flush()
        assert flushed == (8, 0, None)
        statistics = store.statistics()
        assert statistics["disk"]["blocks"] == 8 and statistics["memory"]["capacityBytes"] == 32 << 20
        with pytest.raises(kvstore.InputOutputError):
            kvstore.Store.open(32 << 20, tmp_path / "kv", 64 << 20).wait_until_warm()


def test_flush_without_a_disk_says_why(space, store):
    fill(space, 1)
    flushed = store.flush()
    assert flushed.refused_blocks == 8 and "disk" in flushed.reason


@pytest.mark.parametrize("arguments", [
    {"memory_bytes": 1}, {"memory_bytes": -1}, {"memory_bytes": 1 << 70}, {"codec": "zip"},
    {"disk_path": "/tmp/x"}, {"disk_bytes": 5}, {"reader_threads": 0}, {"write_back_delay_seconds": 0},
    {"disk_path": "/tmp/x", "disk_bytes": 1},
])
def test_wrong_options(arguments):
    with pytest.raises(kvstore.InvalidArgument):
        kvstore.Store.open(**{"disk_path": None, **arguments} if "codec" not in arguments
                           else {"disk_path": "/tmp/x", "disk_bytes": 64 << 20, **arguments})


@pytest.mark.parametrize("fields", [
    {"model": ""}, {"model": "a\0b"}, {"dtype": "float"}, {"layers": -1}, {"layers": 70_000}, {"layers": 1 << 33},
    {"tokens_per_block": 0}, {"tensor_parallel_size": 0}, {"tensor_parallel_rank": 1}, {"opaque_block_bytes": 0},
    {"additional": {"x": 1.5}}, {"additional": {"x": 1 << 64}}, {"additional": {"": 1}}, {"salt": b"s" * 2000},
    {"value_heads": 0},
])
def test_wrong_identities(store, fields):
    with pytest.raises(kvstore.InvalidArgument):
        store.namespace(kvstore.Identity(**{**IDENTITY.__dict__, **fields}))


def test_wrong_calls(space):
    for tokens in ([-1] * 8, [1 << 32] * 8, "text", b"bytes", [1.5] * 8, 5, None):
        with pytest.raises(kvstore.InvalidArgument):
            space.lookup(tokens)
    with pytest.raises(kvstore.InvalidArgument):
        space.lookup([b"key", b""])
    with pytest.raises(kvstore.InvalidArgument):
        space.lookup([b"k" * 256])
    with pytest.raises(kvstore.InvalidArgument):
        space.put(prompt(1), b"too short")
    with pytest.raises(kvstore.InvalidArgument):
        space.put(prompt(1), [b"too short"])
    with pytest.raises(kvstore.InvalidArgument):
        space.put(prompt(1), [block(1, 0)] * 9)
    with pytest.raises(kvstore.InvalidArgument):
        space.get_into(prompt(1), bytes(BLOCK_BYTES))
    with pytest.raises(kvstore.InvalidArgument):
        space.get_into(prompt(1), bytearray(BLOCK_BYTES - 1))
    with pytest.raises(kvstore.InvalidArgument):
        space.remove(prompt(1), first=9)
    with pytest.raises(kvstore.InvalidArgument):
        space.prefix(prompt(1), extra={-1: b""})
    with pytest.raises(kvstore.Unsupported):
        space.pin(prompt(1), 10)
    assert space.lookup([1, 2, 3]).prefix_block_count == 0 and not space.lookup([])


def test_closed_objects(store):
    space = store.namespace(IDENTITY)
    other = store.namespace(IDENTITY)
    fill(space, 1)
    lease = space.acquire(prompt(1))
    other.close()
    other.close()
    with pytest.raises(kvstore.InvalidHandle):
        other.lookup(prompt(1))
    store.close()
    store.close()
    with pytest.raises(kvstore.Closed):
        space.lookup(prompt(1))
    for call in (store.flush, store.statistics, store.ping):
        with pytest.raises(kvstore.InvalidHandle):
            call()
    with pytest.raises(kvstore.InvalidHandle):
        store.namespace(IDENTITY)
    assert bytes(lease.blocks[7]) == block(1, 7), "a lease outlives its store"


def test_corrupt_handles(space):
    fill(space, 1)
    good = space._handle
    for handle in (0, 1, good ^ 1 << 30, good ^ 1 << 60, (1 << 64) - 1):
        space._handle = handle
        with pytest.raises(kvstore.InvalidHandle):
            space.lookup(prompt(1))
        with pytest.raises(kvstore.InvalidHandle):
            space.acquire(prompt(1))
        with pytest.raises(kvstore.InvalidHandle):
            space.put(prompt(1), block(1, 0))
    space._handle = good
    assert int(space.lookup(prompt(1))) == 8


def _child(space, results):
    try:
        space.lookup(prompt(1))
        results.put("no error")
    except kvstore.Forked:
        with kvstore.Store.open(memory_bytes=16 << 20) as own:
            mine = own.namespace(IDENTITY)
            results.put((fill(mine, 1, 2), len(mine.acquire(prompt(1, 2)))))


def test_a_child_of_a_fork_opens_a_store_of_its_own(space):
    fill(space, 1)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_child, args=(space, results))
    child.start()
    assert results.get(timeout=60) == (2, 2)
    child.join()
    assert int(space.lookup(prompt(1))) == 8


def _ends_as_forked(call):
    """Forks while this thread holds what it holds. The child must raise Forked, and end in time."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            call()
        except kvstore.Forked:
            code = 0
        finally:
            os._exit(code)
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child waits for a lock that a thread of its parent held")


def test_a_fork_while_another_thread_holds_a_lock(space):
    fill(space, 1)
    with kvstore.Store.connect("/nowhere/k.sock") as client:
        unopened = client.namespace(IDENTITY)
        held, done = threading.Event(), threading.Event()

        def hold():
            with _library._lock, unopened._lock:
                held.set()
                done.wait()

        def load_again():
            _library._loaded = None
            assert space.lookup(prompt(1))

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        try:
            assert _ends_as_forked(lambda: space.lookup(prompt(1)))
            assert _ends_as_forked(load_again)
            assert _ends_as_forked(lambda: unopened.lookup(prompt(1)))
            assert _ends_as_forked(lambda: (unopened.close(), space.acquire(prompt(1))))
        finally:
            done.set()
            thread.join()
    assert int(space.lookup(prompt(1))) == 8


def test_threads(space):
    failures = []

    def work(number):
        try:
            for _ in range(20):
                fill(space, number)
                with space.acquire(prompt(number)) as lease:
                    for index, view in enumerate(lease.blocks):
                        assert bytes(view) == block(number, index)
                space.remove(prompt(number), first=4)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number % 3,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_missing_library_says_how_to_install_it():
    ended = subprocess.run([sys.executable, "-c", "import kvstore; kvstore.version()"], capture_output=True, text=True,
                           env={**os.environ, "KVSTORE_LIBRARY": "/nowhere/libkvstore_c.so"})
    assert ended.returncode == 1 and "examples/install.sh --prefix" in ended.stderr
    assert kvstore.version()[0].isdigit() and kvstore.library_path().endswith(".so")
