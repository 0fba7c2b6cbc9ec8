"""Connectors that do something wrong on purpose, for test.py, which must notice or get over it."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import threading
import time
from typing import Any, ClassVar

import kvstore_connector
import torch


class ChangingPages(kvstore_connector.Pages):
    """Stores other content than the engine computed: the second half of every page is rotated."""

    def read(self, block_id: int, block: torch.Tensor) -> None:
        super().read(block_id, block)
        for part in block.split([rows.shape[1] for rows in self._rows]):
            half = part[part.numel() // 2 :]
            half.copy_(half.roll(half.numel() // 3 // 64 * 64))


class SlowCommitter(kvstore_connector.Committer):
    """Commits when the engine has long used its pages for something else."""

    def add(self, reservation: Any) -> None:
        threading.Timer(0.5, super().add, [reservation]).start()


def make_flaky(owner: Any, *names: str) -> None:
    """Has every third call of these methods raise."""
    for name in names:
        calls, method = itertools.count(1), getattr(owner, name)

        def flaky(calls: Any, method: Any, name: str, *arguments: Any, **named: Any) -> Any:
            if next(calls) % 3 == 0:
                raise RuntimeError(f"{name} raises on purpose")
            return method(*arguments, **named)

        setattr(owner, name, functools.partial(flaky, calls, method, name))


class KVStoreConnector(kvstore_connector.KVStoreConnector):
    """By `kvstore.fault`:

    - `change` stores changed bytes.
    - `lose` removes blocks after they were promised, and leaves something else in the pages; `lose-one` in rank 1 only.
    - `hang` stops the process `kvstore.pid` after it promised blocks, once.
    - `slow` commits late, and logs the pages themselves as `page` straight after the forward pass.
    - `raise` has every third call of what the hooks use raise an exception.
    """

    faults: ClassVar[dict[str, Any]] = {}

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config
        # Taken by whichever half is made first; both may be in one process.
        for name in "fault", "pid":
            if f"kvstore.{name}" in extra:
                type(self).faults[name] = extra.pop(f"kvstore.{name}")
        self._fault = self.faults.get("fault")
        super().__init__(vllm_config, role, kv_cache_config)
        if self._fault == "raise" and self._lookups:
            make_flaky(self._lookups, "find", "_acquire", "allocated", "_save", "sources", "heard", "finished")
        if self._fault == "raise" and self._transfers:
            make_flaky(self._transfers, "_load", "_acquire", "_save", "save")
            self._transfers._committer._stats = kvstore_connector.StatsBox()
            make_flaky(self._transfers._committer._stats, "add")

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        super().register_kv_caches(kv_caches)
        if self._fault == "change":
            self._transfers._pages.__class__ = ChangingPages
        if self._fault == "slow":
            self._transfers._committer.__class__ = SlowCommitter

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        loads = self._get_connector_metadata().loads
        loses = self._fault == "lose" or (self._fault == "lose-one" and self._vllm_config.parallel_config.rank == 1)
        for load in loads if loses else []:
            space = self._transfers._loading.of(load.adapter)
            space.remove(kvstore_connector._prefix(space, load.keys), first=len(load.keys) // 2)
            for block_id in load.block_ids:
                self._transfers._pages.write(block_id, torch.full((space.block_bytes,), 0x3F, dtype=torch.uint8))
        if self._fault == "hang" and loads and "pid" in self.faults:
            os.kill(self.faults.pop("pid"), signal.SIGSTOP)
            time.sleep(0.1)
        super().start_load_kv(forward_context, **kwargs)

    def wait_for_save(self) -> None:
        for save in self._get_connector_metadata().saves if self._fault == "slow" else []:
            for key, page in zip(save.keys[save.first :], save.block_ids[save.first :]):
                self._transfers._log.note("page", key, lambda page=page: self._transfers._copy(page))
        super().wait_for_save()
