"""The dimensions of a Llama-like model, from its config.json, and how TensorRT-LLM may split them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from engine_jobs.errors import UserError
from engine_jobs.smoke_test.decode import Json

ARCHITECTURES: Final = ("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM")
"""What examples/llama/convert_checkpoint.py converts from Hugging Face (its LLaMAForCausalLM), of what is served as text."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """`experts` is 1 where the model is no mixture; `dtype` the checkpoint's own; `max_positions`: tokens it was made for."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    experts: int
    tied_embeddings: bool
    max_positions: int | None
    dtype: str

    def check_split(self, tensor_parallel: int, pipeline_parallel: int) -> None:
        """Raises UserError where TensorRT-LLM can't split the model so: heads and the MLP go evenly over the tensor-parallel ranks,
        KV heads too, or each is repeated on an equal number of ranks; a pipeline stage has a layer at least."""
        problems = []
        for what, count in (("attention heads", self.heads), ("MLP columns", self.intermediate)):
            if count % tensor_parallel:
                problems.append(f"tensorParallelSize {tensor_parallel} does not divide the model's {count} {what}")
        more, fewer = max(self.kv_heads, tensor_parallel), min(self.kv_heads, tensor_parallel)
        if more % fewer:
            problems.append(
                f"tensorParallelSize {tensor_parallel} and the model's {self.kv_heads} KV heads: one must divide the other"
            )
        if pipeline_parallel > self.layers:
            problems.append(f"pipelineParallelSize {pipeline_parallel} is above the model's {self.layers} layers")
        if problems:
            fitting = [n for n in range(1, self.heads + 1) if self.splits(n)]
            raise UserError("\n".join([*problems, f"tensorParallelSize may be {', '.join(map(str, fitting))}"]))

    def splits(self, tensor_parallel: int) -> bool:
        return (
            self.heads % tensor_parallel == 0
            and self.intermediate % tensor_parallel == 0
            and (self.kv_heads % tensor_parallel == 0 or tensor_parallel % self.kv_heads == 0)
        )


def model_shape(config: Mapping[str, Json], model: str) -> ModelShape:
    """Raises UserError for an architecture that the converter does not know, and for a config.json without the dimensions."""
    architectures = config.get("architectures")
    named = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if not set(named) & set(ARCHITECTURES):
        raise UserError(
            f"{model} is a {', '.join(named) or 'model of no known architecture'}, and this recipe converts Llama-like checkpoints: "
            f"{', '.join(ARCHITECTURES)}; the recipe `triton-python` serves the others"
        )
    heads = _number(config, "num_attention_heads", model)
    hidden = _number(config, "hidden_size", model)
    positions = config.get("max_position_embeddings")
    dtype = config.get("dtype") or config.get("torch_dtype")
    return ModelShape(
        layers=_number(config, "num_hidden_layers", model),
        hidden=hidden,
        intermediate=_number(config, "intermediate_size", model),
        heads=heads,
        kv_heads=_number(config, "num_key_value_heads", model, heads),
        head_size=_number(config, "head_dim", model, hidden // heads),
        vocabulary=_number(config, "vocab_size", model),
        experts=_number(config, "num_local_experts", model, 1),
        tied_embeddings=config.get("tie_word_embeddings") is True,
        max_positions=positions if isinstance(positions, int) else None,
        dtype=dtype if isinstance(dtype, str) else "float16",
    )


def _number(config: Mapping[str, Json], key: str, model: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{model}: its config.json has {key} {value!r}, and a whole number above 0 is needed")
    return value
