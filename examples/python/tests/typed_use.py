"""What a type checker must accept and refuse; `test.sh` has mypy look at it, and a needless `ignore` fails. Not run."""

import array

import kvstore
import numpy.typing


def accepted(space: kvstore.Namespace, ids: "numpy.typing.NDArray[numpy.int64]") -> int:
    prefix: kvstore.Prefix = space.prefix(ids)
    with space.acquire(prefix) as lease:
        found: int = len(lease)
    return found + sum(
        int(space.lookup(named)) for named in (prefix[:2], [1, 2, 3], (1, 2), range(8), array.array("I", [1]), ids)
    ) + int(space.lookup([b"key"]))


def refused(space: kvstore.Namespace) -> None:
    space.lookup("text")  # type: ignore[arg-type]
    space.lookup([1.5])  # type: ignore[arg-type]
    space.lookup(None)  # type: ignore[arg-type]
    space.acquire(5)  # type: ignore[arg-type]
    space.prefix(keys=["text"])  # type: ignore[list-item]
    kvstore.Identity("model", layers="32")  # type: ignore[arg-type]
