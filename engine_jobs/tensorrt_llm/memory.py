"""Whether a model fits its GPUs: weights, activations and KV cache for the given limits, estimated from the model's config.json.

The weights are counted, the KV cache too; activations and what CUDA itself takes are estimates (TensorRT plans the former at build
time). All sizes are bytes of one GPU, the fullest one.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from engine_jobs.errors import UserError
from engine_jobs.recipe import Gpu
from engine_jobs.tensorrt_llm.engine_plan import EnginePlan
from engine_jobs.tensorrt_llm.model_shape import ModelShape

TYPE_BYTES: Final = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
WEIGHT_ONLY_BYTES: Final = {"int8": 1.0, "int8_gptq": 1.0, "int4": 0.5, "int4_gptq": 0.5625, "int4_awq": 0.5625}
"""A weight's bytes with its scales, for groups of 128 weights and finer."""

RUNTIME_BYTES: Final = 1 << 30
"""The CUDA context, cuBLAS's and NCCL's work spaces: about so much on any GPU."""

DEFAULT_FREE_FRACTION: Final = 0.9


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """`kv_token`: the cache of one token; `kv_pool`: what Triton sets aside for all of it, before a limit in tokens;
    `request_tokens`, `full_tokens`: tokens of the longest request with its beams, and of a full batch of them."""

    gpu: Gpu
    weights: int
    activations: int
    kv_token: int
    kv_pool: int
    pool_fraction: float
    request_tokens: int
    full_tokens: int

    @property
    def fixed(self) -> int:
        return self.weights + self.activations + RUNTIME_BYTES

    def table(self) -> str:
        """The parts, a line each, in GB (10^9 bytes)."""
        rows = (
            (self.gpu.name, self.gpu.memory_bytes),
            ("weights", self.weights),
            ("activations and logits (estimate)", self.activations),
            ("CUDA itself (estimate)", RUNTIME_BYTES),
            (f"KV cache, {self.pool_fraction:g} of what is left", max(self.kv_pool, 0)),
            (f"  needed for one longest request, {self.request_tokens} tokens", self.request_tokens * self.kv_token),
            (f"  needed for a full batch of them, {self.full_tokens} tokens", self.full_tokens * self.kv_token),
        )
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"    {name:<{width}} {size / 1e9:8.2f} GB" for name, size in rows)


def check_memory(plan: EnginePlan, shape: ModelShape, gpu: Gpu) -> tuple[str, ...]:
    """Warnings, each with the table of the parts. Raises UserError, with the table, for a model that can't fit the GPU."""
    estimate = estimate_memory(plan, shape, gpu)
    if estimate is None:
        return ()
    if estimate.fixed > gpu.memory_bytes:
        raise UserError(
            f"the model does not fit {gpu.name}: {estimate.fixed / 1e9:.1f} GB are needed on each of {plan.world_size} GPU(s) before any "
            f"KV cache, of {gpu.memory_bytes / 1e9:.1f} GB; {_remedy(plan, shape)}\n{estimate.table()}"
        )
    limit = plan.served("max_tokens_in_paged_kv_cache")
    needed = min(estimate.request_tokens, limit or estimate.request_tokens)
    if needed * estimate.kv_token > estimate.kv_pool:
        raise UserError(
            f"the KV cache does not fit {gpu.name}: {needed} tokens need {needed * estimate.kv_token / 1e9:.1f} GB, and "
            f"{max(estimate.kv_pool, 0) / 1e9:.1f} GB are there for it; lower build.max_seq_len or build.max_num_tokens, raise "
            f"serving.kv_cache_free_gpu_mem_fraction, or {_remedy(plan, shape)}\n{estimate.table()}"
        )
    return tuple(_warnings(plan, estimate))


def estimate_memory(plan: EnginePlan, shape: ModelShape, gpu: Gpu) -> MemoryEstimate | None:
    """None where nothing bounds the length of a request: no max_seq_len, and none in the model's config.json."""
    max_seq_len = plan.max_seq_len(shape.max_positions)
    if max_seq_len is None:
        return None
    type_bytes = TYPE_BYTES.get(plan.data_type(shape.dtype), 2.0)
    weights, activations = _weights(plan, shape, type_bytes), _activations(plan, shape, type_bytes)
    fraction = plan.served("kv_cache_free_gpu_mem_fraction")
    fraction = DEFAULT_FREE_FRACTION if fraction is None else float(fraction)
    window = plan.served("max_attention_window_size") or max_seq_len
    request_tokens = min(max_seq_len, window) * plan.served("max_beam_width")
    return MemoryEstimate(
        gpu=gpu,
        weights=weights,
        activations=activations,
        kv_token=_kv_token(plan, shape, type_bytes),
        kv_pool=int(fraction * (gpu.memory_bytes - weights - activations - RUNTIME_BYTES)),
        pool_fraction=fraction,
        request_tokens=request_tokens,
        full_tokens=request_tokens * min(plan.built("max_batch_size"), plan.served("triton_max_batch_size")),
    )


def _weights(plan: EnginePlan, shape: ModelShape, type_bytes: float) -> int:
    """The layers of a pipeline stage, split over its ranks; the embedding is whole on each unless it is split by a flag."""
    ranks = plan.tensor_parallel
    kv_heads = max(shape.kv_heads // ranks, 1)
    attention = shape.hidden * shape.head_size * (2 * shape.heads // ranks + 2 * kv_heads)
    mlp = shape.experts * 3 * shape.hidden * shape.intermediate // ranks
    layers = math.ceil(shape.layers / plan.pipeline_parallel)
    linear = layers * (attention + mlp) * _weight_bytes(plan, type_bytes)
    embedding = shape.vocabulary * shape.hidden * type_bytes
    split = plan.convert.get("use_parallel_embedding") is True
    ends = [embedding / ranks if split else embedding, embedding / ranks]
    shared = plan.pipeline_parallel == 1 and shape.tied_embeddings
    at_ends = max(ends) if shared or plan.pipeline_parallel > 1 else sum(ends)
    norms = (2 * layers + 1) * shape.hidden * type_bytes
    return int(linear + at_ends + norms)


def _weight_bytes(plan: EnginePlan, type_bytes: float) -> float:
    if plan.convert.get("use_weight_only") is True:
        return WEIGHT_ONLY_BYTES[str(plan.convert.get("weight_only_precision", "int8"))]
    if any(plan.convert.get(name) is True for name in ("use_fp8", "use_fp8_rowwise")) or "smoothquant" in plan.convert:
        return 1.0
    if any(plan.convert.get(name) is True for name in ("use_nvfp4", "use_qserve")):
        return 0.5625
    return type_bytes


def _activations(plan: EnginePlan, shape: ModelShape, type_bytes: float) -> int:
    """For each token of a step: the residual stream, its norm, Q, K, V and the attention's output, both halves of the MLP and
    their product; and logits in float32 for each sequence."""
    ranks = plan.tensor_parallel
    qkv = shape.head_size * (shape.heads // ranks + 2 * max(shape.kv_heads // ranks, 1))
    token = 3 * shape.hidden + qkv + 3 * shape.intermediate // ranks
    sequences = plan.built("max_batch_size") * plan.built("max_beam_width")
    gathered = plan.built("max_num_tokens") if plan.build.get("gather_context_logits") is True else 0
    return int(plan.built("max_num_tokens") * token * type_bytes + (sequences + gathered) * shape.vocabulary * 4)


def _kv_token(plan: EnginePlan, shape: ModelShape, type_bytes: float) -> int:
    quantized = any(plan.convert.get(name) is True for name in ("int8_kv_cache", "fp8_kv_cache"))
    kv_heads = max(shape.kv_heads // plan.tensor_parallel, 1)
    layers = math.ceil(shape.layers / plan.pipeline_parallel)
    return int(2 * layers * kv_heads * shape.head_size * (1 if quantized else type_bytes))


def _warnings(plan: EnginePlan, estimate: MemoryEstimate) -> Iterator[str]:
    limit = plan.served("max_tokens_in_paged_kv_cache")
    tokens = estimate.kv_pool // max(estimate.kv_token, 1)
    if limit is not None and limit < tokens:
        return  # The limits say so already, and the memory is not what bounds it.
    if estimate.full_tokens > tokens:
        at_once = tokens // max(estimate.request_tokens, 1)
        yield (
            f"the KV cache holds {tokens} tokens on {estimate.gpu.name}, {at_once} of the longest requests at once, and the limits allow "
            f"{estimate.full_tokens}; further ones wait: lower build.max_seq_len or the batch sizes, or take a larger GPU\n"
            f"{estimate.table()}"
        )


def _remedy(plan: EnginePlan, shape: ModelShape) -> str:
    bigger = next((n for n in range(plan.tensor_parallel + 1, shape.heads + 1) if shape.splits(n)), None)
    split = f", raise tensorParallelSize to {bigger}" if bigger else ""
    quantized = "" if plan.convert.get("use_weight_only") is True else ", convert with use_weight_only true"
    return f"take a larger GPU{split}{quantized}"
