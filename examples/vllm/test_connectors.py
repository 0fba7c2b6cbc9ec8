"""Connectors that do something wrong on purpose, for test.py, which must notice or get over it."""

from __future__ import annotations

from typing import Any

import kvstore_connector
import torch


class ChangingPages(kvstore_connector.Pages):
    """Stores other content than the engine computed: the second half of every page is rotated."""

    def read(self, block_id: int, block: torch.Tensor) -> None:
        super().read(block_id, block)
        for part in block.split([rows.shape[1] for rows in self._rows]):
            half = part[part.numel() // 2 :]
            half.copy_(half.roll(half.numel() // 3 // 64 * 64))


class KVStoreConnector(kvstore_connector.KVStoreConnector):
    """By `kvstore.fault`: `change` stores changed bytes, `lose` removes blocks after they were promised."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config
        self._fault = extra.pop("kvstore.fault", None) or getattr(type(self), "fault", None)
        type(self).fault = self._fault
        super().__init__(vllm_config, role, kv_cache_config)

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        super().register_kv_caches(kv_caches)
        if self._fault == "change":
            self._transfers._pages.__class__ = ChangingPages

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        if self._fault == "lose":
            for load in self._get_connector_metadata().loads:
                space = self._transfers._loading.of(load.adapter)
                space.remove(kvstore_connector._prefix(space, load.keys), first=len(load.keys) // 2)
        super().start_load_kv(forward_context, **kwargs)
