"""Whether the models of a server fit its GPU: weights and KV caches, estimated from each config.json. Sizes are bytes of one GPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from engine_jobs.errors import UserError
from engine_jobs.recipe import Gpu
from engine_jobs.smoke_test.decode import Json
from engine_jobs.triton_python.settings import ServedModelSettings

TYPE_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
RUNTIME_BYTES: Final = 1 << 30
"""The CUDA context and PyTorch's own work spaces: about so much for each process on a GPU."""
DEFAULT_LENGTH: Final = 2048
"""What served/loading.py takes at most where no length is set: 16 rows of a model's whole context rarely fit."""


@dataclass(frozen=True, kw_only=True)
class ModelMemory:
    """`kv`: the cache of `max_sequences` rows of `max_length` tokens."""

    name: str
    weights: int
    kv: int
    rows: str

    @property
    def total(self) -> int:
        return self.weights + self.kv + RUNTIME_BYTES


def model_memory(name: str, config: Mapping[str, Json], settings: ServedModelSettings) -> ModelMemory | None:
    """None where config.json lacks the dimensions that its kind of model is known by."""
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    layers = _number(config, "num_hidden_layers", "n_layer", "num_layers")
    heads = _number(config, "num_attention_heads", "n_head", "num_heads")
    vocabulary = _number(config, "vocab_size")
    if not (hidden and layers and heads and vocabulary):
        return None
    multi_query = config.get("multi_query") is True and config.get("new_decoder_architecture") is not True
    kv_heads = _number(config, "num_key_value_heads", "num_kv_heads") or (1 if multi_query else heads)
    kv_heads = 1 if multi_query else kv_heads
    head = _number(config, "head_dim") or hidden // heads
    inner = _number(config, "intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner") or 4 * hidden
    gated = 3 if config.get("hidden_act") in ("silu", "swiglu") else 2
    weight = layers * (hidden * head * (2 * heads + 2 * kv_heads) + gated * hidden * inner)
    ends = vocabulary * hidden * (1 if config.get("tie_word_embeddings", True) else 2)
    item = TYPE_BYTES.get(settings.dtype) or TYPE_BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 4)
    positions = _number(config, "max_position_embeddings", "n_positions", "seq_length") or DEFAULT_LENGTH
    length = settings.max_length or min(positions, DEFAULT_LENGTH)
    kv = settings.max_sequences * length * 2 * layers * kv_heads * head * item
    return ModelMemory(
        name=name, weights=(weight + ends) * item, kv=kv, rows=f"{settings.max_sequences} x {length} tokens"
    )


def check_memory(parts: list[ModelMemory], gpu: Gpu) -> None:
    """Raises UserError, with the parts, where they are more than the GPU has."""
    needed = sum(part.total for part in parts)
    if needed <= gpu.memory_bytes:
        return
    lines = [
        f"    {part.name}: weights {part.weights / 1e9:.1f} GB, KV cache of {part.rows} {part.kv / 1e9:.1f} GB, "
        f"PyTorch itself {RUNTIME_BYTES / 1e9:.1f} GB"
        for part in parts
    ]
    raise UserError(
        f"the server needs about {needed / 1e9:.1f} GB and {gpu.name} has {gpu.memory_bytes / 1e9:.1f} GB; lower maxSequences or "
        "maxLength, serve fewer models, or choose a larger GPU:\n" + "\n".join(lines)
    )


def _number(config: Mapping[str, Json], *names: str) -> int | None:
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)
