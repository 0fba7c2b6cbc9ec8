"""One vLLM engine process: answers the requests of a job file, greedily, and prints one JSON object a request.

    python engine.py JOB.json

Started by bench.py and test.py, which kill it with SIGKILL between runs. A job's fields and their meaning are those of
`Job`; a request is `{"tokens": [...]}`, with `"reset": true` after the engine's own prefix cache was emptied. And
`{"wait": true}` prints `{"waiting": true}` and goes on when a line comes on standard input; `{"batch": [...]}` gives
several requests to the engine at once; `"salt"` is its `cache_salt`; `"adapter"` is the name of one of the job's
adapters. `"reset_connector": true` resets the connector as well, as after other weights were loaded.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Job:
    """What an engine is started with."""

    model: str
    dtype: str = "bfloat16"
    kv_transfer: dict[str, Any] | None = None
    prefix_caching: bool = True
    # Blocks of KV memory; 0 for what 1 GiB holds.
    kv_blocks: int = 0
    max_batched_tokens: int = 8192
    # Longest request; its KV must fit into the memory.
    max_model_len: int = 8192
    # Scheduler and worker as processes of their own, as vLLM does by default.
    processes: bool = False
    # Workers that share each layer, a processor each; more than one are always processes of their own.
    tensor_parallel: int = 1
    # Directories of LoRA adapters by the names that requests call them.
    adapters: dict[str, str] = field(default_factory=dict)
    max_tokens: int = 16
    logprobs: bool = False
    warm_up_tokens: int = 1024
    requests: list[dict[str, Any]] = field(default_factory=list)


def set_environment(job: Job) -> None:
    """Must be done before vLLM is imported."""
    here = Path(__file__).resolve().parent
    os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_CPU_KVCACHE_SPACE="1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ["PYTHONPATH"] = f"{here}:{os.environ.get('PYTHONPATH', '')}"
    sys.path.insert(0, str(here))
    if job.tensor_parallel > 1:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, range(job.tensor_parallel)))
    elif job.processes:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{(os.cpu_count() or 2) - 1}"
    else:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 2))


def make_engine(job: Job) -> Any:
    from vllm import LLM
    from vllm.config import KVTransferConfig

    return LLM(
        model=job.model,
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype=job.dtype,
        max_model_len=job.max_model_len,
        max_num_seqs=8,
        max_num_batched_tokens=job.max_batched_tokens,
        enable_prefix_caching=job.prefix_caching,
        num_gpu_blocks_override=job.kv_blocks or None,
        disable_log_stats=False,
        kv_transfer_config=KVTransferConfig(**job.kv_transfer) if job.kv_transfer else None,
        tensor_parallel_size=job.tensor_parallel,
        **({"enable_lora": True, "max_loras": 1, "max_lora_rank": 8} if job.adapters else {}),
    )


class Engine:
    """An engine that is warm: it has answered one long request that no other shares a block with."""

    def __init__(self, job: Job) -> None:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        self._adapters = {
            name: LoRARequest(name, number, path) for number, (name, path) in enumerate(job.adapters.items(), 1)
        }
        self.llm = make_engine(job)
        self.parameters = SamplingParams(
            temperature=0,
            max_tokens=job.max_tokens,
            ignore_eos=True,
            detokenize=False,
            logprobs=1 if job.logprobs else None,
        )
        if job.warm_up_tokens:
            self.answer([[random.SystemRandom().randrange(3, 8000) for _ in range(job.warm_up_tokens)]])

    def answer(
        self, prompts: list[list[int]], salt: str | None = None, adapter: str | None = None
    ) -> list[dict[str, Any]]:
        start = time.perf_counter()
        extra = {"cache_salt": salt} if salt else {}
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt, **extra} for prompt in prompts],
            self.parameters,
            use_tqdm=False,
            lora_request=self._adapters[adapter] if adapter else None,
        )
        seconds = time.perf_counter() - start
        return [self._result(output, seconds) for output in outputs]

    def connector_metrics(self) -> dict[str, float]:
        """What vLLM's own metrics have of the connector, and its preemptions, over everything that this engine did.
        `LLM.get_metrics` makes whole numbers of them."""
        from prometheus_client import REGISTRY

        return {
            metric.name.removeprefix("vllm:kvstore_"): sum(
                sample.value for sample in metric.samples if sample.name.endswith("_total")
            )
            for metric in REGISTRY.collect()
            if metric.name.startswith("vllm:kvstore_") or metric.name == "vllm:num_preemptions"
        }

    def _result(self, output: Any, seconds: float) -> dict[str, Any]:
        answer = output.outputs[0]
        result = {
            "tokens": list(answer.token_ids),
            "finish": answer.finish_reason,
            "cachedTokens": output.num_cached_tokens,
            "firstTokenMilliseconds": round(output.metrics.first_token_latency * 1000, 3),
            "milliseconds": round(seconds * 1000, 3),
        }
        if answer.logprobs:
            # As hexadecimal floats, to compare them bit by bit.
            result["logprobs"] = [
                next(iter(step[token].logprob.hex() for token in [id]))
                for step, id in zip(answer.logprobs, answer.token_ids)
            ]
        return result


def run(job: Job) -> None:
    engine = Engine(job)
    print(json.dumps({"ready": True}), flush=True)
    for request in job.requests:
        if request.get("wait"):
            print(json.dumps({"waiting": True}), flush=True)
            sys.stdin.readline()
            continue
        if request.get("reset"):
            engine.llm.reset_prefix_cache(reset_connector=request.get("reset_connector", False))
        prompts = request.get("batch") or [request["tokens"]]
        for result in engine.answer(prompts, request.get("salt"), request.get("adapter")):
            print(json.dumps({"result": result}), flush=True)
    print(json.dumps({"done": True, "metrics": engine.connector_metrics()}), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    given = Job(**json.loads(Path(sys.argv[1]).read_text()))
    set_environment(given)
    run(given)
