"""From a Hugging Face Llama to TensorRT-LLM's checkpoint: its config.json and each rank's weights, and back to whole weights.

As TensorRT-LLM does it (tensorrt_llm/models/llama/{config,convert}.py, tensorrt_llm/models/modeling_utils.py at v0.17.0):
rank = pp_rank * tp_size + tp_rank, and layers are counted anew in every pipeline stage. Shapes are [out, in] throughout.
Per tensor-parallel rank: rows of qkv (its query heads, then its key heads, then its value heads), of mlp.fc (gate_proj), of
mlp.gate (up_proj) and of lm_head; columns of attention.dense and mlp.proj; all of the embeddings and the norms.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.cpu_stand_in.tensor_file import TYPES, Floats

ARCHITECTURE = "LlamaForCausalLM"
Config = dict[str, Any]
Read = Callable[[str], Floats]
"""A Hugging Face tensor by its name."""

ROTARY_SCALINGS = ("default", "linear", "llama3")


@dataclass(frozen=True, kw_only=True)
class Mapping2D:
    """How many ranks share each layer (`tp`) and how many groups of layers there are (`pp`)."""

    tp: int
    pp: int

    @property
    def world_size(self) -> int:
        return self.tp * self.pp


def read_json(path: Path, what: str) -> Config:
    """Raises UserError for a file that is absent or is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {path.parent} is not {what}.") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object.")
    return content


def pretrained_config(hf: Config, dtype: str, mapping: Mapping2D, source: Path) -> Config:
    """TensorRT-LLM's config.json for the Hugging Face config `hf`. Raises UserError for what it cannot be."""
    architectures = hf.get("architectures") or [None]
    if architectures[0] != ARCHITECTURE:
        raise UserError(f"{source}: architecture {architectures[0]}; this command converts {ARCHITECTURE} alone.")
    try:
        hidden, heads, layers = hf["hidden_size"], hf["num_attention_heads"], hf["num_hidden_layers"]
        vocabulary, inner = hf["vocab_size"], hf["intermediate_size"]
    except KeyError as error:
        raise UserError(f"{source}: the key {error.args[0]!r} is missing.") from None
    kv_heads = hf.get("num_key_value_heads") or heads
    for key in ("attention_bias", "mlp_bias"):
        if hf.get(key):
            raise UserError(f"{source}: {key} is true, which the CPU stand-in has no code for. Use a GPU stack.")
    if hf.get("quantization_config"):
        raise UserError(f"{source}: a quantized checkpoint, which the CPU stand-in can't convert. Use a GPU stack.")
    _check_split(mapping, {"num_attention_heads": heads, "intermediate_size": inner}, kv_heads, layers)
    rope = hf.get("rope_parameters") or {}
    scaling = hf.get("rope_scaling") or (rope if rope.get("rope_type", "default") != "default" else None)
    kind = (scaling or {}).get("rope_type", (scaling or {}).get("type", "default"))
    if kind not in ROTARY_SCALINGS:
        raise UserError(f"{source}: rope_scaling of type {kind!r}; known here: {', '.join(ROTARY_SCALINGS)}.")
    return {
        "architecture": ARCHITECTURE,
        "dtype": dtype,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_size": hf.get("head_dim") or hidden // heads,
        "intermediate_size": inner,
        "hidden_act": hf.get("hidden_act", "silu"),
        "norm_epsilon": hf.get("rms_norm_eps", 1e-6),
        "logits_dtype": "float32",
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": hf.get("max_position_embeddings", 2048),
        "rotary_base": hf.get("rope_theta") or rope.get("rope_theta", 10000.0),
        "rotary_scaling": scaling,
        "mlp_bias": False,
        "attn_bias": False,
        "qk_layernorm": False,
        "residual_mlp": False,
        "moe": {"num_experts": 0, "top_k": 0, "normalization_mode": 1},
        "use_parallel_embedding": False,
        "embedding_sharding_dim": 0,
        "mapping": {
            "world_size": mapping.world_size,
            "gpus_per_node": 8,
            "cp_size": 1,
            "tp_size": mapping.tp,
            "pp_size": mapping.pp,
            "moe_tp_size": mapping.tp,
            "moe_ep_size": 1,
        },
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None, "group_size": 128, "exclude_modules": None},
    }


def _check_split(mapping: Mapping2D, divided: Mapping[str, int], kv_heads: int, layers: int) -> None:
    if mapping.tp < 1 or mapping.pp < 1:
        raise UserError(f"--tp_size {mapping.tp} and --pp_size {mapping.pp} must be 1 or more.")
    for name, value in divided.items():
        if value % mapping.tp:
            raise UserError(f"--tp_size {mapping.tp} does not divide the model's {name} {value}. Choose one that does.")
    if kv_heads % mapping.tp and mapping.tp % kv_heads:
        raise UserError(
            f"--tp_size {mapping.tp} and the model's num_key_value_heads {kv_heads}: one must divide the other, so that "
            "every rank has whole key-value heads."
        )
    if layers % mapping.pp:
        raise UserError(f"--pp_size {mapping.pp} does not divide the model's {layers} layers. Choose one that does.")


def mapping_of(config: Config) -> Mapping2D:
    return Mapping2D(tp=config["mapping"]["tp_size"], pp=config["mapping"]["pp_size"])


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Of the Hugging Face tensors that a conversion reads."""
    hidden, inner, width = config["hidden_size"], config["intermediate_size"], config["head_size"]
    query, key = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    made: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        made |= {
            f"{prefix}.self_attn.q_proj.weight": (query, hidden),
            f"{prefix}.self_attn.k_proj.weight": (key, hidden),
            f"{prefix}.self_attn.v_proj.weight": (key, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, query),
            f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}.mlp.up_proj.weight": (inner, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, inner),
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
        }
    return made | {"model.norm.weight": (hidden,), "lm_head.weight": (config["vocab_size"], hidden)}


def rank_weights(config: Config, rank: int, read: Read) -> dict[str, Floats]:
    """One rank's tensors by TensorRT-LLM's names."""
    mapping = mapping_of(config)
    stage, own = divmod(rank, mapping.tp)
    layers = config["num_hidden_layers"] // mapping.pp
    weights: dict[str, Floats] = {}
    if stage == 0:
        weights["transformer.vocab_embedding.weight"] = read("model.embed_tokens.weight")
    for local in range(layers):
        source, target = f"model.layers.{stage * layers + local}", f"transformer.layers.{local}"
        weights |= {
            f"{target}.{name}": tensor for name, tensor in _layer(config, mapping.tp, own, source, read).items()
        }
    if stage == mapping.pp - 1:
        head = read("lm_head.weight")
        weights["transformer.ln_f.weight"] = read("model.norm.weight")
        weights["lm_head.weight"] = _rows(np.pad(head, ((0, -len(head) % mapping.tp), (0, 0))), mapping.tp, own)
    return weights


def _layer(config: Config, tp: int, own: int, source: str, read: Read) -> dict[str, Floats]:
    def key_or_value(name: str) -> Floats:
        """Its rows of this rank; a rank with less than a head of its own has one that it shares with others."""
        tensor = read(f"{source}.self_attn.{name}.weight")
        copies = max(1, tp // config["num_key_value_heads"])
        by_head = tensor.reshape(config["num_key_value_heads"], -1, tensor.shape[-1])
        return _rows(np.repeat(by_head, copies, axis=0), tp, own).reshape(-1, tensor.shape[-1])

    query = _rows(read(f"{source}.self_attn.q_proj.weight"), tp, own)
    return {
        "attention.qkv.weight": np.concatenate([query, key_or_value("k_proj"), key_or_value("v_proj")]),
        "attention.dense.weight": _columns(read(f"{source}.self_attn.o_proj.weight"), tp, own),
        "mlp.fc.weight": _rows(read(f"{source}.mlp.gate_proj.weight"), tp, own),
        "mlp.gate.weight": _rows(read(f"{source}.mlp.up_proj.weight"), tp, own),
        "mlp.proj.weight": _columns(read(f"{source}.mlp.down_proj.weight"), tp, own),
        "input_layernorm.weight": read(f"{source}.input_layernorm.weight"),
        "post_layernorm.weight": read(f"{source}.post_attention_layernorm.weight"),
    }


def _rows(tensor: Floats, ranks: int, own: int) -> Floats:
    return np.split(tensor, ranks, axis=0)[own]


def _columns(tensor: Floats, ranks: int, own: int) -> Floats:
    return np.ascontiguousarray(np.split(tensor, ranks, axis=1)[own])


def whole_weights(config: Config, ranks: list[dict[str, Floats]]) -> dict[str, Floats]:
    """The whole model's tensors by Hugging Face's names, from all ranks' parts: the inverse of `rank_weights`."""
    mapping = mapping_of(config)
    layers = config["num_hidden_layers"] // mapping.pp
    width, kv_heads = config["head_size"], config["num_key_value_heads"]
    query = config["num_attention_heads"] * width // mapping.tp
    key = max(1, kv_heads // mapping.tp) * width
    every = max(1, mapping.tp // kv_heads)
    last = ranks[-mapping.tp :]
    whole = {
        "model.embed_tokens.weight": ranks[0]["transformer.vocab_embedding.weight"],
        "model.norm.weight": last[0]["transformer.ln_f.weight"],
        "lm_head.weight": np.concatenate([rank["lm_head.weight"] for rank in last])[: config["vocab_size"]],
    }
    for layer in range(config["num_hidden_layers"]):
        stage, local = divmod(layer, layers)
        group = ranks[stage * mapping.tp : (stage + 1) * mapping.tp]
        source, target = f"transformer.layers.{local}", f"model.layers.{layer}"
        fused = [rank[f"{source}.attention.qkv.weight"] for rank in group]
        by_kind = [np.split(rank, [query, query + key]) for rank in fused]

        def joined(name: str, axis: int, group: list[dict[str, Floats]] = group, source: str = source) -> Floats:
            return np.concatenate([rank[f"{source}.{name}.weight"] for rank in group], axis=axis)

        whole |= {
            f"{target}.self_attn.q_proj.weight": np.concatenate([kinds[0] for kinds in by_kind]),
            f"{target}.self_attn.k_proj.weight": np.concatenate([kinds[1] for kinds in by_kind[::every]]),
            f"{target}.self_attn.v_proj.weight": np.concatenate([kinds[2] for kinds in by_kind[::every]]),
            f"{target}.self_attn.o_proj.weight": joined("attention.dense", 1),
            f"{target}.mlp.gate_proj.weight": joined("mlp.fc", 0),
            f"{target}.mlp.up_proj.weight": joined("mlp.gate", 0),
            f"{target}.mlp.down_proj.weight": joined("mlp.proj", 1),
            f"{target}.input_layernorm.weight": group[0][f"{source}.input_layernorm.weight"],
            f"{target}.post_attention_layernorm.weight": group[0][f"{source}.post_layernorm.weight"],
        }
    return whole


def chosen_dtype(wanted: str, hf: Config) -> str:
    """`auto` is the checkpoint's own type, and fp16 for an fp32 one, as TensorRT-LLM infers it."""
    if wanted != "auto":
        return wanted
    own = hf.get("dtype") or hf.get("torch_dtype") or "float16"
    return "float16" if own == "float32" or own not in TYPES else str(own)
