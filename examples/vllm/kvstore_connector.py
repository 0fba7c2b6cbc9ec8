"""A KV connector for vLLM 0.32 that keeps the engine's blocks in kvstore. It needs the package `kvstore`:

    --kv-transfer-config '{"kv_connector": "KVStoreConnector", "kv_connector_module_path": "kvstore_connector",
        "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"kvstore.socket": "/run/kvstore/kvstore.sock"}}'

What happens in a step of the engine:

- The scheduler looks up the block hashes of new requests, and keeps a lease on what it found until the step is over, so
  that a promised block cannot go away.
- Before the forward pass the worker copies promised blocks into the engine's pages. A block that cannot be had after
  all (the daemon was killed in between) is reported, and vLLM computes it.
- After it the worker copies pages that are full now into places the daemon prepared, first blocks first and as many as
  there is room for, and a thread commits them. The engine's pages are not read later, for it may use them again.

A daemon that is dead or hung costs at most `kvstore.timeout_ms` now and then, and everything is computed as without it.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kvstore
import torch
import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats
from vllm.platforms import current_platform
from vllm.v1.metrics.cache_hit_source import CacheHitSource
from vllm.v1.metrics.utils import create_metric_per_engine

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

# A little longer than a client waits before it looks again for a daemon that it has lost.
RECONNECT_SECONDS = 0.06

# Not vLLM's own logger, which is set up by name; messages pass through its handlers all the same.
logger = logging.getLogger("vllm.kvstore")


# ---- What the numbers of a block depend on ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What `kv_connector_extra_config` says."""

    socket: str = "/run/kvstore/kvstore.sock"
    timeout_ms: int = 1000
    token_file: str | None = None
    revision: str = ""
    digest_log: str = ""

    @classmethod
    def of(cls, extra: dict[str, Any]) -> Settings:
        given = {name.removeprefix("kvstore."): value for name, value in extra.items() if name.startswith("kvstore.")}
        return cls(**given)

    def connect(self, name: str) -> kvstore.Store:
        return kvstore.Store.connect(
            self.socket, timeout_ms=self.timeout_ms, token_file=self.token_file, client_name=f"vllm {name}"
        )


def digest_of_files(directory: Path) -> str:
    """A name for weights: of each file its name, its size, and 64 KiB from each of 64 places."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.suffix not in (".safetensors", ".bin", ".pt", ".gguf"):
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(directory)} {size}".encode())
        with open(path, "rb") as file:
            for place in range(64):
                file.seek(size * place // 64)
                digest.update(file.read(64 << 10))
    return digest.hexdigest()


def attention_of(config: VllmConfig, spec: Any) -> str:
    """The form of the bytes in a page. On a CPU they are packed for its instruction set."""
    if not current_platform.is_cpu():
        return f"{current_platform.device_name} {config.attention_config}"
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    dtype, cache_dtype = config.model_config.dtype, config.cache_config.cache_dtype
    isa = _get_attn_isa(dtype, spec.block_size, spec.head_size, cache_dtype)
    return f"cpu {isa} {torch.backends.cpu.get_cpu_capability()}"


def identity_of(config: VllmConfig, cache: KVCacheConfig, settings: Settings) -> kvstore.Identity:
    """The identity of rank 0 without an adapter."""
    model, parallel = config.model_config, config.parallel_config
    group = cache.kv_cache_groups[0]
    spec = group.kv_cache_spec
    layers = len(group.layer_names)
    weights = Path(model.model)
    return kvstore.Identity(
        model=str(model.served_model_name or model.model),
        revision=settings.revision or (digest_of_files(weights) if weights.is_dir() else model.revision or ""),
        dtype={torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}.get(spec.dtype, "opaque"),
        layers=layers,
        key_heads=spec.num_kv_heads,
        key_head_dimension=spec.head_size,
        tokens_per_block=spec.block_size,
        tensor_parallel_size=parallel.tensor_parallel_size,
        pipeline_parallel_size=parallel.pipeline_parallel_size,
        layout_tag=f"vllm {cache.kv_cache_layout}",
        opaque_block_bytes=layers * spec.page_size_bytes,
        additional={
            "vllm": vllm.__version__,
            "attention": attention_of(config, spec),
            "page": str(spec),
            "cache dtype": str(config.cache_config.cache_dtype),
            "model dtype": str(model.dtype),
            "quantization": str(model.quantization),
            "model config": hashlib.sha256(model.hf_config.to_json_string().encode()).digest(),
            "block hash": str(config.cache_config.prefix_caching_hash_algo),
        },
    )


def check(config: VllmConfig, cache: KVCacheConfig) -> None:
    """Says at the start what this connector does not do, instead of doing it wrong."""
    block_size = cache.kv_cache_groups[0].kv_cache_spec.block_size
    problems = {
        "kv_load_failure_policy must be 'recompute'": config.kv_transfer_config.kv_load_failure_policy != "recompute",
        "one group of full attention layers is supported": len(cache.kv_cache_groups) != 1,
        "hashes must be of whole blocks": cache.hash_block_size not in (None, block_size),
        "decode context parallelism is not supported": config.parallel_config.decode_context_parallel_size > 1,
        "prefix_caching_hash_algo must be of the sha256 kinds: the others differ from process to process": (
            not config.cache_config.prefix_caching_hash_algo.startswith("sha256")
        ),
    }
    if found := [problem for problem, holds in problems.items() if holds]:
        raise ValueError("KVStoreConnector: " + "; ".join(found))


class Namespaces:
    """The namespaces of one rank over one connection: one for the base model and one for each adapter."""

    def __init__(self, identity: kvstore.Identity, rank: int, settings: Settings, name: str) -> None:
        size = identity.tensor_parallel_size
        self._base = {**vars(identity), "tensor_parallel_rank": rank % size, "pipeline_parallel_rank": rank // size}
        self._opened: dict[str, kvstore.Namespace] = {}
        self.store = settings.connect(name)

    def of(self, adapter: str) -> kvstore.Namespace:
        if adapter not in self._opened:
            self._opened[adapter] = self.store.namespace(kvstore.Identity(**{**self._base, "adapter": adapter}))
        return self._opened[adapter]


# ---- Metrics ---------------------------------------------------------------------------------------------------------

COUNTERS = {
    "lookups": "Requests that were looked up.",
    "lookup_seconds": "Time that lookups took, in the scheduler.",
    "hit_blocks": "Blocks that lookups found beyond the engine's own cache.",
    "loaded_blocks": "Blocks copied into the engine's pages.",
    "loaded_bytes": "Bytes copied into the engine's pages.",
    "load_seconds": "Time that loads took, before the forward pass.",
    "failed_blocks": "Promised blocks that could not be loaded and were computed.",
    "saved_blocks": "Blocks that became visible in the store.",
    "saved_bytes": "Bytes of these blocks.",
    "save_seconds": "Time that saves took in the step: a reservation and a copy.",
    "dropped_blocks": "Full blocks that were not stored: no room to prepare them, stored by others, or no daemon.",
}


class KVStoreStats(KVConnectorStats):
    """Counts since the last time they were taken, by the names in COUNTERS."""

    def __init__(self, data: dict[str, Any] | None = None) -> None:
        super().__init__(data or dict.fromkeys(COUNTERS, 0))

    def add(self, **counts: float) -> None:
        for name, count in counts.items():
            self.data[name] += count

    def reset(self) -> None:
        self.data = dict.fromkeys(COUNTERS, 0)

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        self.add(**other.data)
        return self

    def reduce(self) -> dict[str, int | float]:
        return {name: round(count, 4) for name, count in self.data.items() if count}

    def is_empty(self) -> bool:
        return not any(self.data.values())


class KVStorePromMetrics(KVConnectorPromMetrics):
    """`vllm:kvstore_loaded_blocks_total` and so on, at the engine's /metrics."""

    def __init__(self, config: Any, types: Any, labels: list[str], engines: dict[int, list[object]]) -> None:
        super().__init__(config, types, labels, engines)
        self._counters = {
            name: create_metric_per_engine(
                self._counter_cls(name=f"vllm:kvstore_{name}", documentation=text, labelnames=labels), engines
            )
            for name, text in COUNTERS.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, count in transfer_stats_data.items():
            self._counters[name][engine_idx].inc(count)


class StatsBox:
    """Counts that several threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stats = KVStoreStats()

    def add(self, **counts: float) -> None:
        with self._lock:
            self._stats.add(**counts)

    def take(self) -> KVStoreStats | None:
        with self._lock:
            taken, self._stats = self._stats, KVStoreStats()
        return None if taken.is_empty() else taken


# ---- From the scheduler to the workers -------------------------------------------------------------------------------


@dataclass
class Load:
    """Blocks `first` and on of the prefix `keys`, into the pages `block_ids`."""

    keys: list[bytes]
    first: int
    block_ids: list[int]
    adapter: str


@dataclass
class Save:
    """The blocks of the prefix `keys`, which lie in the pages `block_ids`; those before `first` lay there before."""

    keys: list[bytes]
    first: int
    block_ids: list[int]
    adapter: str


@dataclass
class Plan(KVConnectorMetadata):
    """What a step loads before its forward pass and saves after it."""

    loads: list[Load] = field(default_factory=list)
    saves: list[Save] = field(default_factory=list)


# ---- In the scheduler ------------------------------------------------------------------------------------------------


@dataclass
class Known:
    """What is known of a request in flight."""

    request: Request
    adapter: str
    # Leading blocks that are stored, or were handed to the workers to be stored.
    stored: int = 0
    # First block of the load that was promised last.
    first: int = 0
    tiers: list[str] = field(default_factory=list)


class Lookups:
    """The scheduler's half: finds blocks, promises them, and plans loads and saves."""

    def __init__(self, identity: kvstore.Identity, settings: Settings) -> None:
        ranks = range(identity.tensor_parallel_size * identity.pipeline_parallel_size)
        self._ranks = [Namespaces(identity, rank, settings, f"scheduler {rank}") for rank in ranks]
        self._block_size = identity.tokens_per_block
        self._known: dict[str, Known] = {}
        self._loads: list[Load] = []
        self._leases: dict[str, tuple[int, list[kvstore.Lease]]] = {}
        self._adapters: dict[tuple[str, str], str] = {}
        self._step = 0
        self._timeout = settings.timeout_ms / 1000
        # While the daemon seems to hang: one wait for it is enough, so nothing is saved either.
        self._away_until = 0.0
        self.stats = StatsBox()

    def find(self, request: Request, computed_tokens: int) -> int:
        """Tokens beyond `computed_tokens` that can be loaded. At least one token of a prompt is left to compute."""
        known = self._of(request)
        known.first = computed_tokens // self._block_size
        keys = request.block_hashes[: (request.num_tokens - 1) // self._block_size]
        if len(keys) <= known.first:
            # Stored when it was computed. If not, the next block of this request brings all before it along.
            known.stored = known.first
            return 0
        start = time.perf_counter()
        leases = [rank.of(known.adapter).acquire(_prefix(rank.of(known.adapter), keys)) for rank in self._ranks]
        found = min(map(len, leases))
        self._promise(request.request_id, leases)
        known.stored = max(known.stored, found)
        known.tiers = leases[0].tiers[known.first : found]
        hits = max(0, found - known.first)
        seconds = time.perf_counter() - start
        if not found and seconds > 0.9 * self._timeout:
            self._away_until = time.monotonic() + self._timeout
        self.stats.add(lookups=1, lookup_seconds=seconds, hit_blocks=hits)
        return hits * self._block_size

    def allocated(self, request: Request, block_ids: list[int], external_tokens: int) -> None:
        """The engine has pages for what was found."""
        if external_tokens == 0:
            return
        known = self._of(request)
        end = known.first + external_tokens // self._block_size
        keys = list(request.block_hashes[:end])
        self._loads.append(Load(keys, known.first, block_ids[known.first : end], known.adapter))

    def plan(self, output: SchedulerOutput) -> Plan:
        """The loads that were allocated, and a save for each request that fills blocks in this step."""
        self._step += 1
        # When a step is planned, the one before the last is over, and with it what it loaded.
        for request_id in [id for id, (step, _) in self._leases.items() if step < self._step - 2]:
            self._end_promise(request_id)
        loads, self._loads = self._loads, []
        return Plan(loads, [save for id, before in _scheduled(output) if (save := self._save(id, before, output))])

    def _save(self, request_id: str, computed_tokens: int, output: SchedulerOutput) -> Save | None:
        known = self._known.get(request_id)
        if known is None:
            return None
        first = computed_tokens // self._block_size
        end = (computed_tokens + output.num_scheduled_tokens[request_id]) // self._block_size
        # The hash of a block of generated tokens comes when all are known, perhaps a step later.
        end = min(end, len(known.request.block_hashes))
        # After a load that failed the request is sent back.
        known.stored = min(known.stored, first)
        if end <= known.stored or time.monotonic() < self._away_until:
            return None
        known.stored = end
        block_ids = output.kv_connector_block_state.get_block_ids(request_id)[0][:end]
        return Save(list(known.request.block_hashes[:end]), first, block_ids, known.adapter)

    def sources(self, request: Request, external_tokens: int) -> dict[CacheHitSource, int]:
        """From which tier the tokens come that were found last."""
        disk = self._of(request).tiers.count("disk") * self._block_size
        counts = {CacheHitSource.DISK: disk, CacheHitSource.HOST: external_tokens - disk}
        return {source: count for source, count in counts.items() if count > 0}

    def finished(self, request_id: str) -> None:
        self._known.pop(request_id, None)
        self._end_promise(request_id)

    def close(self) -> None:
        for request_id in list(self._leases):
            self._end_promise(request_id)
        for rank in self._ranks:
            rank.store.close()

    def _of(self, request: Request) -> Known:
        if request.request_id not in self._known:
            self._known[request.request_id] = Known(request, self._adapter(request))
        return self._known[request.request_id]

    def _adapter(self, request: Request) -> str:
        lora = request.lora_request
        if lora is None:
            return ""
        key = (lora.lora_name, lora.lora_path)
        if key not in self._adapters:
            self._adapters[key] = f"{lora.lora_name} {digest_of_files(Path(lora.lora_path))}"
        return self._adapters[key]

    def _promise(self, request_id: str, leases: list[kvstore.Lease]) -> None:
        self._end_promise(request_id)
        self._leases[request_id] = (self._step, leases)

    def _end_promise(self, request_id: str) -> None:
        for lease in self._leases.pop(request_id, (0, []))[1]:
            lease.release()


def _scheduled(output: SchedulerOutput) -> Iterable[tuple[str, int]]:
    """Requests of a step and the tokens of each that were computed before it."""
    for new in output.scheduled_new_reqs:
        yield new.req_id, new.num_computed_tokens
    yield from zip(output.scheduled_cached_reqs.req_ids, output.scheduled_cached_reqs.num_computed_tokens)


def _prefix(space: kvstore.Namespace, keys: list[bytes]) -> kvstore.Prefix:
    return space.prefix(keys=[bytes(key) for key in keys])


# ---- In a worker -----------------------------------------------------------------------------------------------------


class Pages:
    """The engine's KV memory: for each layer rows of bytes, one row a block."""

    def __init__(self, layers: list[torch.Tensor]) -> None:
        # `view` refuses where a page is not one piece of memory.
        self._rows = [layer.view(torch.uint8).view(layer.shape[0], -1) for layer in layers]
        self.block_bytes = sum(rows.shape[1] for rows in self._rows)

    def _parts(self, block_id: int, block: torch.Tensor) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        return zip((rows[block_id] for rows in self._rows), block.split([rows.shape[1] for rows in self._rows]))

    def write(self, block_id: int, block: torch.Tensor) -> None:
        """Copies the bytes of a block into its pages."""
        for page, part in self._parts(block_id, block):
            page.copy_(part)

    def read(self, block_id: int, block: torch.Tensor) -> None:
        """Copies the pages of a block out."""
        for page, part in self._parts(block_id, block):
            part.copy_(page)


class DigestLog:
    """For tests: one line for every block that was loaded or saved, with rank and key and a digest of its bytes."""

    def __init__(self, path: str, rank: int) -> None:
        self._rank = rank
        self._file = open(path, "a", buffering=1) if path else None  # noqa: SIM115

    def note(self, what: str, key: bytes, read: Callable[[], torch.Tensor]) -> None:
        if self._file:
            digest = hashlib.blake2b(read().numpy(), digest_size=16).hexdigest()
            self._file.write(f"{what} {self._rank}/{key.hex()} {digest}\n")


class Committer:
    """Commits what was prepared, on a thread of its own."""

    def __init__(self, stats: StatsBox) -> None:
        self._stats = stats
        self._queue: queue.SimpleQueue[kvstore.Reservation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kvstore-commit", daemon=True)
        self._thread.start()

    def add(self, reservation: kvstore.Reservation) -> None:
        self._queue.put(reservation)

    def _run(self) -> None:
        while (reservation := self._queue.get()) is not None:
            try:
                block_bytes = len(reservation.blocks[0])
                count = len(reservation)
                visible = reservation.commit()
                self._stats.add(saved_blocks=visible, saved_bytes=visible * block_bytes, dropped_blocks=count - visible)
            except kvstore.KVStoreError as error:
                logger.warning("a commit failed: %s", error)
            del reservation

    def close(self, seconds: float) -> None:
        self._queue.put(None)
        self._thread.join(seconds)


class Transfers:
    """A worker's half: copies between the engine's pages and the store. Nothing here ever fails a step."""

    def __init__(self, identity: kvstore.Identity, rank: int, settings: Settings) -> None:
        self._block_bytes = identity.block_bytes
        # Two connections, since a commit takes as long as the daemon copies, and a load must not wait for it.
        self._loading = Namespaces(identity, rank, settings, f"loads {rank}")
        self._saving = Namespaces(identity, rank, settings, f"saves {rank}")
        self._log = DigestLog(settings.digest_log, rank)
        self._failed: set[int] = set()
        # Pages that hold something else than the engine believes, until it has computed them.
        self._stale: set[int] = set()
        self._pages: Pages | None = None
        self.stats = StatsBox()
        self._committer = Committer(self.stats)

    def register(self, layers: list[torch.Tensor]) -> None:
        pages = Pages(layers)
        if pages.block_bytes != self._block_bytes:
            raise ValueError(f"a block has {pages.block_bytes} bytes, but {self._block_bytes} were expected")
        self._pages = pages

    def load(self, plan: Plan) -> None:
        for load in plan.loads:
            start = time.perf_counter()
            try:
                loaded = self._load(load)
            except kvstore.KVStoreError as error:
                logger.warning("a load failed: %s", error)
                loaded = 0
            failed = load.block_ids[loaded:]
            self._stale.difference_update(load.block_ids[:loaded])
            self._stale.update(failed)
            self._failed.update(failed)
            self.stats.add(
                loaded_blocks=loaded,
                loaded_bytes=loaded * self._block_bytes,
                load_seconds=time.perf_counter() - start,
                failed_blocks=len(failed),
            )

    def _load(self, load: Load) -> int:
        space = self._loading.of(load.adapter)
        lease = space.acquire(_prefix(space, load.keys))
        if not lease:
            # A daemon that was started again is only found at the next attempt, and this is worth one.
            time.sleep(RECONNECT_SECONDS)
            lease = space.acquire(_prefix(space, load.keys))
        with lease:
            blocks = lease.torch(torch.uint8, (-1,))[load.first :] if lease else []
            for block_id, block in zip(load.block_ids, blocks):
                self._pages.write(block_id, block)
            loaded = len(blocks) if lease and lease.is_current else 0
            del blocks
        for key, block_id in zip(load.keys[load.first :], load.block_ids[:loaded]):
            self._log.note("load", key, lambda id=block_id: self._copy(id))
        return loaded

    def _copy(self, block_id: int) -> torch.Tensor:
        block = torch.empty(self._block_bytes, dtype=torch.uint8)
        self._pages.read(block_id, block)
        return block

    def save(self, plan: Plan) -> None:
        for save in plan.saves:
            start = time.perf_counter()
            computed = save.block_ids[save.first :]
            if self._stale.isdisjoint(save.block_ids[: save.first]):
                self._stale.difference_update(computed)
                try:
                    dropped = self._save(save)
                except kvstore.KVStoreError as error:
                    logger.warning("a save failed: %s", error)
                    dropped = len(computed)
            else:
                # Computed from pages that were not loaded: the engine will compute them again.
                self._stale.update(computed)
                dropped = len(computed)
            self.stats.add(save_seconds=time.perf_counter() - start, dropped_blocks=dropped)

    def _save(self, save: Save) -> int:
        """Copies what is missing to the places there are. Returns how many computed blocks got none."""
        space = self._saving.of(save.adapter)
        reservation = space.reserve(_prefix(space, save.keys))
        if not reservation:
            return len(save.block_ids) - save.first
        for number, place in zip(reservation.block_numbers, reservation.torch(torch.uint8, (-1,))):
            self._pages.read(save.block_ids[number], place)
            self._log.note("save", save.keys[number], lambda place=place: place)
        placed = sum(number >= save.first for number in reservation.block_numbers)
        self._committer.add(reservation)
        return len(save.block_ids) - save.first - placed

    def take_failed(self) -> set[int]:
        """Pages that were not loaded since the last call."""
        failed, self._failed = self._failed, set()
        return failed

    def close(self) -> None:
        self._committer.close(seconds=5)
        self._loading.store.close()
        self._saving.store.close()


# ---- The connector ---------------------------------------------------------------------------------------------------


class KVStoreConnector(KVConnectorBase_V1):
    """What vLLM loads: one in the scheduler, one in each worker."""

    _cache_hit_source = CacheHitSource.HOST

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        check(vllm_config, kv_cache_config)
        settings = Settings.of(self._kv_transfer_config.kv_connector_extra_config)
        identity = identity_of(vllm_config, kv_cache_config, settings)
        self._layer_names = kv_cache_config.kv_cache_groups[0].layer_names
        self._lookups: Lookups | None = None
        self._transfers: Transfers | None = None
        if role == KVConnectorRole.SCHEDULER:
            self._lookups = Lookups(identity, settings)
        else:
            self._transfers = Transfers(identity, vllm_config.parallel_config.rank, settings)

    @property
    def requires_kv_delivery(self) -> bool:
        return False

    # In the scheduler.

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        return self._lookups.find(request, num_computed_tokens), False

    def get_external_cache_hit_sources(self, request: Request, num_external_tokens: int) -> dict[CacheHitSource, int]:
        return self._lookups.sources(request, num_external_tokens)

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        self._lookups.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        return self._lookups.plan(scheduler_output)

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        self._lookups.finished(request.request_id)
        return False, None

    # In a worker.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._transfers.register([kv_caches[name] for name in self._layer_names])

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        self._transfers.load(self._get_connector_metadata())

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Everything was loaded before the forward pass."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Whole blocks are saved after it."""

    def wait_for_save(self) -> None:
        self._transfers.save(self._get_connector_metadata())

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._transfers.take_failed()

    # In both.

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        return (self._lookups or self._transfers).stats.take()

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats | None:
        return KVStoreStats(data)

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: Any
    ) -> KVConnectorPromMetrics | None:
        return KVStorePromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def shutdown(self) -> None:
        (self._lookups or self._transfers).close()
