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

Without a daemon everything is computed as without a store. A daemon that does not answer is waited for once: in a step
of the engine at most one and a half times `kvstore.timeout_ms` in vain. Then the scheduler tells the workers, or they
tell it, and nothing asks the daemon again until a thread beside the engine has got an answer from it. Nothing that goes
wrong here is raised into a running engine: it is a miss, a block that is not stored, or a load that failed.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import kvstore
import torch
import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats
from vllm.platforms import current_platform
from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec
from vllm.v1.metrics.cache_hit_source import CacheHitSource
from vllm.v1.metrics.utils import create_metric_per_engine

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.lora.request import LoRARequest
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

# A little longer than a client waits before it looks again for a daemon that it has lost.
RECONNECT_SECONDS = 0.06

# vLLM's null block: it stands where a request has no block, and what is in it means nothing.
NULL_BLOCK = 0

# Not vLLM's own logger, which is set up by name; messages pass through its handlers all the same.
logger = logging.getLogger("vllm.kvstore")


# ---- What goes wrong -------------------------------------------------------------------------------------------------

Found = TypeVar("Found")


class Complaints:
    """Logs the same trouble once a minute at most."""

    def __init__(self) -> None:
        self._silent_until: dict[tuple[str, str], float] = {}

    def __call__(self, what: str, why: object) -> None:
        now, key = time.monotonic(), (what, type(why).__name__)
        if now >= self._silent_until.get(key, 0):
            self._silent_until[key] = now + 60
            logger.warning("%s: %s: %s", what, type(why).__name__, why)


complain = Complaints()


class Patience:
    """Asks the daemon, and stops asking when that costs too much.

    After half of the deadline was waited in vain in one step, or after a refusal, the daemon is away: nothing asks it
    until a thread has got an answer from it. The pause before that grows when trouble comes back within a minute. Waits
    of less than a twentieth of the deadline do not count: many misses in a step are no trouble.
    """

    FIRST_PAUSE, LONGEST_PAUSE, CALM = 0.1, 60.0, 60.0

    def __init__(self, timeout_ms: int, stores: list[kvstore.Store]) -> None:
        self._limit = timeout_ms / 2000
        self._stores = stores
        self._in_vain = 0.0
        self._pause = self.FIRST_PAUSE
        self._calm_at = 0.0
        self._is_closed = threading.Event()
        self.is_away = False

    def new_step(self) -> None:
        self._in_vain = 0.0

    def ask(self, what: str, call: Callable[[], Found]) -> Found | None:
        """What a call returns. None if that is empty, or the call failed, or the daemon is away."""
        if self.is_away:
            return None
        start = time.monotonic()
        try:
            found = call()
        except Exception as error:  # noqa: BLE001
            complain(what, error)
            self.go_away()
            return None
        if found:
            return found
        seconds = time.monotonic() - start
        self._in_vain += seconds if seconds > self._limit / 10 else 0
        if self._in_vain > self._limit:
            complain(what, TimeoutError("the daemon does not answer"))
            self.go_away()
        return None

    def go_away(self) -> None:
        if self.is_away or self._is_closed.is_set():
            return
        is_calm = time.monotonic() >= self._calm_at
        self._pause = self.FIRST_PAUSE if is_calm else min(2 * self._pause, self.LONGEST_PAUSE)
        self.is_away = True
        threading.Thread(target=self._wait, args=(self._pause,), name="kvstore-away", daemon=True).start()

    def _wait(self, pause: float) -> None:
        while not self._is_closed.wait(pause):
            if all(map(self._answers, self._stores)):
                self._calm_at = time.monotonic() + self.CALM
                self.is_away = False
                return

    def _answers(self, store: kvstore.Store) -> bool:
        try:
            return store.ping() is not None
        except kvstore.KVStoreError:
            return False

    def close(self) -> None:
        self._is_closed.set()


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


WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


def digest_of_files(path: Path, suffixes: tuple[str, ...] = WEIGHTS) -> str | None:
    """A name for weights: of each file its name, its size, and 64 KiB from each of 64 places. None without files."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in suffixes)
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)} {size}".encode())
        with open(file, "rb") as opened:
            for place in range(64):
                opened.seek(size * place // 64)
                digest.update(opened.read(64 << 10))
    return digest.hexdigest() if files else None


def revision_of(config: VllmConfig, settings: Settings) -> str:
    """Which weights: as the settings say, or a digest of the files, also of those that came from a hub."""
    if settings.revision:
        return settings.revision
    model = config.model_config
    path = Path(model.model)
    if not path.exists():
        path = snapshot_of(model.model, model.revision, config.load_config.download_dir)
    if path is None or (digest := digest_of_files(path)) is None:
        raise ValueError(
            f"KVStoreConnector: no weights are found for {model.model!r}, so nothing tells them from other weights of "
            "this name; say which they are with kvstore.revision"
        )
    return digest


def snapshot_of(model: str, revision: str | None, cache: str | None) -> Path | None:
    """Where the engine has put the files of a model of Hugging Face's hub. Asks nobody."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(model, revision=revision, cache_dir=cache, local_files_only=True))
    except Exception as error:  # noqa: BLE001
        complain("the files of the model", error)
        return None


class Adapters:
    """Names for LoRA adapters that are others when their files are.

    An adapter whose files change under one name and path has no name from then on: vLLM's own cache goes by these two,
    so its pages may be the old ones or the new.
    """

    SUFFIXES = (*WEIGHTS, ".json")

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[Any, str]] = {}

    def name(self, lora: LoRARequest | None) -> str | None:
        """Empty without an adapter. None for one whose weights are not known; then nothing is looked up or stored."""
        if lora is None:
            return ""
        try:
            return self._name(lora)
        except Exception as error:  # noqa: BLE001
            complain(f"adapter {lora.lora_name} is not cached", error)
            return None

    def _name(self, lora: LoRARequest) -> str:
        path, key = Path(lora.lora_path).expanduser(), (lora.lora_name, lora.lora_path)
        stamp = self._stamp(path)
        if lora.load_inplace:
            self._known[key] = (None, "")
        if key not in self._known:
            digest = digest_of_files(path, self.SUFFIXES) if path.is_dir() else None
            if digest is None:
                raise ValueError(f"{lora.lora_path} is no directory with weights")
            self._known[key] = (stamp, f"{lora.lora_name} {digest}")
        was, name = self._known[key]
        if was != stamp:
            raise ValueError(f"{lora.lora_path} was loaded in place, or its files have changed since they were loaded")
        return name

    def _stamp(self, path: Path) -> list[tuple[str, int, int, int]]:
        files = sorted(file for file in path.rglob("*") if file.suffix in self.SUFFIXES)
        return [(str(file), (now := file.stat()).st_ino, now.st_size, now.st_mtime_ns) for file in files]


def length_of(model: ModelConfig) -> int:
    """The longest request, where the numbers depend on it: LongRoPE's factors and Llama 4's temperatures do. Else 0."""
    description = model.hf_config.to_json_string()
    return model.max_model_len if any(name in description for name in ("longrope", "llama4")) else 0


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
    return kvstore.Identity(
        model=str(model.served_model_name or model.model),
        revision=revision_of(config, settings),
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
            "longest request": length_of(model),
            "model config": hashlib.sha256(model.hf_config.to_json_string().encode()).digest(),
            "block hash": str(config.cache_config.prefix_caching_hash_algo),
        },
    )


def check(config: VllmConfig, cache: KVCacheConfig) -> None:
    """Says at the start what this connector does not do, instead of doing it wrong.

    Kinds of attention are named, not classes with all that derive from them: managers of others put the null block
    where a block is not needed any more. Where a model has full attention and sliding windows vLLM makes one group of
    full attention of them for a connector like this: no block is given up, and each holds numbers of all its tokens.
    """
    specs = [group.kv_cache_spec for group in cache.kv_cache_groups]
    spec = specs[0] if len(specs) == 1 and type(specs[0]) in (FullAttentionSpec, MLAAttentionSpec) else None
    kinds = ", ".join(type(spec).__name__ for spec in specs) or "none"
    problems = {
        "kv_load_failure_policy must be 'recompute'": config.kv_transfer_config.kv_load_failure_policy != "recompute",
        f"one group of full attention layers is supported, not {kinds}": spec is None,
        "attention to later tokens is not supported": spec is not None and spec.non_causal,
        "hashes must be of whole blocks": spec is not None and cache.hash_block_size not in (None, spec.block_size),
        "decode context parallelism is not supported": config.parallel_config.decode_context_parallel_size > 1,
        "speculative decoding is not supported": config.speculative_config is not None,
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

    def acquire(self, adapter: str, keys: list[bytes]) -> kvstore.Lease:
        space = self.of(adapter)
        return space.acquire(_prefix(space, keys))

    def reserve(self, adapter: str, keys: list[bytes]) -> kvstore.Reservation:
        space = self.of(adapter)
        return space.reserve(_prefix(space, keys))


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
    # Only says that the pages from `first` on are computed; nothing is stored.
    is_held: bool


@dataclass
class Plan(KVConnectorMetadata):
    """What a step loads before its forward pass and saves after it."""

    loads: list[Load] = field(default_factory=list)
    saves: list[Save] = field(default_factory=list)
    # Pages that some worker could not load in an earlier step.
    failed: set[int] = field(default_factory=set)
    # The daemon did not answer the scheduler, so the workers do not ask it.
    is_away: bool = False


@dataclass
class Away(KVConnectorWorkerMetadata):
    """From a worker to the scheduler: the daemon does not answer."""

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        return self


# ---- In the scheduler ------------------------------------------------------------------------------------------------


@dataclass
class Known:
    """What is known of a request in flight."""

    request: Request
    # None where it is not known which weights compute it.
    adapter: str | None
    # Leading blocks that are stored, or were handed to the workers to be stored.
    stored: int = 0
    # Leading blocks that were there at first, or of which the workers know that they are computed; None at first.
    told: int | None = None
    # First block of the load that was promised last.
    first: int = 0
    tiers: list[str] = field(default_factory=list)
    is_counted: bool = False


class Lookups:
    """The scheduler's half: finds blocks, promises them, and plans loads and saves."""

    def __init__(self, identity: kvstore.Identity, settings: Settings, batches: int) -> None:
        ranks = range(identity.tensor_parallel_size * identity.pipeline_parallel_size)
        self._ranks = [Namespaces(identity, rank, settings, f"scheduler {rank}") for rank in ranks]
        self._block_size = identity.tokens_per_block
        self._known: dict[str, Known] = {}
        self._loads: list[Load] = []
        self._leases: dict[str, tuple[int, list[kvstore.Lease]]] = {}
        self._adapters = Adapters()
        # Of all names since the last reset, so that nothing from before it is found.
        self._reset = ""
        self._step = 0
        # Steps until it is known what other workers could not load; a single worker knows at once.
        self._unsure_steps = batches if len(ranks) > 1 else 0
        self._unsure: dict[int, int] = {}
        self._failed: set[int] = set()
        self._patience = Patience(settings.timeout_ms, [rank.store for rank in self._ranks])
        self.stats = StatsBox()

    def find(self, request: Request, computed_tokens: int) -> int:
        """Tokens beyond `computed_tokens` that can be loaded. At least one token of a prompt is left to compute."""
        known = self._of(request)
        known.first, known.told, known.tiers = computed_tokens // self._block_size, None, []
        keys = request.block_hashes[: (request.num_tokens - 1) // self._block_size]
        if known.adapter is None or request.skip_reading_prefix_cache:
            return 0
        if len(keys) <= known.first:
            # Stored when it was computed. If not, the next block of this request brings all before it along.
            known.stored = known.first
            return 0
        start = time.perf_counter()
        leases = self._acquire(known.adapter, keys)
        found = min(map(len, leases), default=0)
        self._promise(request.request_id, leases)
        known.stored = max(known.stored, found)
        known.tiers = leases[0].tiers[known.first : found] if leases else []
        hits = max(0, found - known.first)
        # A request that waits for pages is looked up again in every step.
        counts = {} if known.is_counted else {"lookups": 1, "hit_blocks": hits}
        known.is_counted = True
        self.stats.add(lookup_seconds=time.perf_counter() - start, **counts)
        return hits * self._block_size

    def _acquire(self, adapter: str, keys: list[bytes]) -> list[kvstore.Lease]:
        """A lease of every rank; none if one rank has nothing, and then the others are not asked."""
        leases: list[kvstore.Lease] = []
        for rank in self._ranks:
            lease = self._patience.ask("a lookup failed", lambda rank=rank: rank.acquire(adapter, keys))
            if not lease:
                return []
            leases.append(lease)
        return leases

    def allocated(self, request: Request, block_ids: list[int], external_tokens: int) -> None:
        """The engine has pages for what was found."""
        if external_tokens == 0:
            return
        known = self._of(request)
        end = known.first + external_tokens // self._block_size
        keys = list(request.block_hashes[:end])
        self._loads.append(Load(keys, known.first, block_ids[known.first : end], known.adapter))

    def broken(self, block_ids: list[int]) -> None:
        """Pages that the engine believes to be loaded, and nobody can say with what: they are reported as failed."""
        self._loads.append(Load([], 0, block_ids, ""))

    def plan(self, output: SchedulerOutput) -> Plan:
        """The loads that were allocated, and a save for each request that fills blocks in this step."""
        loads, self._loads = self._loads, []
        plan = Plan(loads)
        try:
            self._begin_step(loads)
            plan.is_away = self._patience.is_away
            plan.failed, self._failed = self._failed, set()
            plan.saves = [save for id, before in _scheduled(output) if (save := self._save(id, before, output))]
        except Exception as error:  # noqa: BLE001
            # The loads are promised. Without the saves less is stored.
            complain("no saves are planned", error)
        return plan

    def _begin_step(self, loads: list[Load]) -> None:
        self._step += 1
        self._patience.new_step()
        # When a step is planned, the one before the last is over, and with it what it loaded.
        for request_id in [id for id, (step, _) in self._leases.items() if step < self._step - 2]:
            self._end_promise(request_id)
        if self._unsure_steps:
            since = self._step - self._unsure_steps
            self._unsure = {page: step for page, step in self._unsure.items() if step > since}
            self._unsure |= {page: self._step for load in loads for page in load.block_ids}

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
        known.told = first if known.told is None else min(known.told, first)
        if end <= min(known.stored, known.told):
            return None
        block_ids = output.kv_connector_block_state.get_block_ids(request_id)[0][:end]
        is_held = known.adapter is None or self._patience.is_away or not self._unsure.keys().isdisjoint(block_ids)
        if is_held and end <= known.told:
            return None
        told = min(known.told, end)
        save = Save(list(known.request.block_hashes[:end]), told, block_ids, known.adapter or "", is_held)
        known.told = max(known.told, end)
        if not is_held:
            known.stored = end
        return save

    def sources(self, request: Request, external_tokens: int) -> dict[CacheHitSource, int]:
        """From which tier the tokens come that were found last."""
        disk = self._of(request).tiers.count("disk") * self._block_size
        counts = {CacheHitSource.DISK: disk, CacheHitSource.HOST: external_tokens - disk}
        return {source: count for source, count in counts.items() if count > 0}

    def heard(self, output: KVConnectorOutput) -> None:
        """What the workers say about a step that is over."""
        if output.kv_connector_worker_meta:
            self._patience.go_away()
        if self._unsure_steps:
            self._failed |= output.invalid_block_ids

    def reset(self) -> None:
        """From now on nothing is found that was stored before, which the engine's new weights did not compute."""
        self._reset = f"reset {secrets.token_hex(16)} "
        self._known.clear()
        self._adapters = Adapters()

    def finished(self, request_id: str) -> None:
        self._known.pop(request_id, None)
        self._end_promise(request_id)

    def close(self) -> None:
        self._patience.close()
        for request_id in list(self._leases):
            self._end_promise(request_id)
        for rank in self._ranks:
            rank.store.close()

    def _of(self, request: Request) -> Known:
        if request.request_id not in self._known:
            name = self._adapters.name(request.lora_request)
            self._known[request.request_id] = Known(request, name if name is None else self._reset + name)
        return self._known[request.request_id]

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
        if block_id == NULL_BLOCK:
            raise ValueError("the null block belongs to nobody")
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
            except Exception as error:  # noqa: BLE001
                # The thread goes on: without it reservations would pile up.
                complain("a commit failed", error)
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
        self._patience = Patience(settings.timeout_ms, [self._loading.store, self._saving.store])
        self._may_retry = False
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
        self._patience.new_step()
        self._may_retry = True
        self._stale |= plan.failed
        for load in plan.loads:
            start = time.perf_counter()
            try:
                loaded = self._load(load) if load.keys and not plan.is_away else 0
            except Exception as error:  # noqa: BLE001
                complain("a load failed", error)
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
        lease = self._acquire(load)
        if not lease:
            return 0
        with lease:
            blocks = lease.torch(torch.uint8, (-1,))[load.first :]
            for block_id, block in zip(load.block_ids, blocks):
                self._pages.write(block_id, block)
            loaded = len(blocks) if lease.is_current else 0
            del blocks
        for key, block_id in zip(load.keys[load.first :], load.block_ids[:loaded]):
            self._log.note("load", key, lambda id=block_id: self._copy(id))
        return loaded

    def _acquire(self, load: Load) -> kvstore.Lease | None:
        lease = self._patience.ask("a load failed", lambda: self._loading.acquire(load.adapter, load.keys))
        if lease or self._patience.is_away or not self._may_retry:
            return lease
        # A daemon that was started again is only found at the next attempt, and this is worth one in a step.
        self._may_retry = False
        time.sleep(RECONNECT_SECONDS)
        return self._patience.ask("a load failed", lambda: self._loading.acquire(load.adapter, load.keys))

    def _copy(self, block_id: int) -> torch.Tensor:
        block = torch.empty(self._block_bytes, dtype=torch.uint8)
        self._pages.read(block_id, block)
        return block

    def save(self, plan: Plan) -> None:
        for save in plan.saves:
            start = time.perf_counter()
            computed = save.block_ids[save.first :]
            is_good = self._stale.isdisjoint(save.block_ids[: save.first])
            if is_good:
                self._stale.difference_update(computed)
            else:
                # Computed from pages that were not loaded: the engine will compute them again.
                self._stale.update(computed)
            dropped = len(computed)
            if save.is_held and not plan.is_away:
                dropped = 0
            elif is_good and not save.is_held:
                try:
                    dropped = self._save(save)
                except Exception as error:  # noqa: BLE001
                    complain("a save failed", error)
            self.stats.add(save_seconds=time.perf_counter() - start, dropped_blocks=dropped)

    def _save(self, save: Save) -> int:
        """Copies what is missing to the places there are. Returns how many computed blocks got none."""
        count = len(save.block_ids) - save.first
        reservation = self._patience.ask("a save failed", lambda: self._saving.reserve(save.adapter, save.keys))
        if not reservation:
            return count
        for number, place in zip(reservation.block_numbers, reservation.torch(torch.uint8, (-1,))):
            self._pages.read(save.block_ids[number], place)
            self._log.note("save", save.keys[number], lambda place=place: place)
        placed = sum(number >= save.first for number in reservation.block_numbers)
        self._committer.add(reservation)
        return count - placed

    @property
    def is_away(self) -> bool:
        """Whether the daemon does not answer."""
        return self._patience.is_away

    def take_failed(self) -> set[int]:
        """Pages that were not loaded since the last call."""
        failed, self._failed = self._failed, set()
        return failed

    def close(self) -> None:
        self._patience.close()
        self._committer.close(seconds=5)
        self._loading.store.close()
        self._saving.store.close()


# ---- The connector ---------------------------------------------------------------------------------------------------


def guarded(otherwise: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A hook that answers `otherwise` where it would raise: an exception would end the engine."""

    def guard(hook: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(hook)
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return hook(*arguments, **named)
            except Exception as error:  # noqa: BLE001
                complain(hook.__name__, error)
                return otherwise

        return call

    return guard


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
            self._lookups = Lookups(identity, settings, vllm_config.max_concurrent_batches)
        else:
            self._transfers = Transfers(identity, vllm_config.parallel_config.rank, settings)

    @property
    def requires_kv_delivery(self) -> bool:
        return False

    # In the scheduler.

    @guarded((0, False))
    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        return self._lookups.find(request, num_computed_tokens), False

    @guarded({})
    def get_external_cache_hit_sources(self, request: Request, num_external_tokens: int) -> dict[CacheHitSource, int]:
        return self._lookups.sources(request, num_external_tokens)

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        block_ids = blocks.get_block_ids()[0]
        try:
            self._lookups.allocated(request, block_ids, num_external_tokens)
        except Exception as error:  # noqa: BLE001
            complain("a load is not planned", error)
            self._lookups.broken(block_ids)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        return self._lookups.plan(scheduler_output)

    @guarded(None)
    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        self._lookups.heard(connector_output)

    @guarded((False, None))
    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        self._lookups.finished(request.request_id)
        return False, None

    @guarded(False)
    def reset_cache(self) -> bool | None:
        """Called in the scheduler alone; the workers have the new name with every load and save."""
        self._lookups.reset()
        return True

    # In a worker.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._transfers.register([kv_caches[name] for name in self._layer_names])

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        self._transfers.load(self._get_connector_metadata())

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Everything was loaded before the forward pass."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Whole blocks are saved after it."""

    @guarded(None)
    def wait_for_save(self) -> None:
        self._transfers.save(self._get_connector_metadata())

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._transfers.take_failed()

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        return Away() if self._transfers.is_away else None

    # In both.

    @guarded(None)
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

    @guarded(None)
    def shutdown(self) -> None:
        (self._lookups or self._transfers).close()
