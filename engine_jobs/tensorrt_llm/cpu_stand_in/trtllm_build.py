"""`trtllm-build`: the CPU stand-in of TensorRT-LLM's engine builder.

    trtllm-build --checkpoint_dir DIR --output_dir DIR [--max_batch_size 4] [--gemm_plugin float16] …

takes the real command's flags (those of the version it stands in for; others are an error), records them in config.json's
build_config as the real one does, and packs each rank's weights into rank{N}.engine.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine_jobs.durable import print_line
from engine_jobs.errors import UserError, run
from engine_jobs.tensorrt_llm.cpu_stand_in.checkpoint import Config, mapping_of, rank_weights, read_json, shapes
from engine_jobs.tensorrt_llm.cpu_stand_in.command_flags import STAND_IN, command_parser, given, stood_in_version
from engine_jobs.tensorrt_llm.cpu_stand_in.engine import write_engine
from engine_jobs.tensorrt_llm.cpu_stand_in.folders import CONFIG, written
from engine_jobs.tensorrt_llm.cpu_stand_in.tensor_file import Floats, TensorFile
from engine_jobs.tensorrt_llm.flags import accepted, default

NOT_RECORDED = {
    "checkpoint_dir", "output_dir", "model_config", "build_config", "model_cls_file", "model_cls_name", "workers", "log_level",
    "fast_build", "paged_kv_cache", "gather_all_token_logits", "logits_dtype", "auto_parallel", "gpus_per_node", "cluster_key",
    "lora_dir", "lora_ckpt_source", "lora_target_modules", "max_lora_rank",
}  # fmt: skip
UNDONE = ("model_config", "build_config", "model_cls_file", "lora_dir", "speculative_decoding_mode", "weight_streaming")
FEATURES = {
    "context_fmha": True, "bert_context_fmha_fp32_acc": False, "remove_input_padding": True, "tokens_per_block": 64,
    "use_paged_context_fmha": False, "use_fp8_context_fmha": False, "multiple_profiles": False, "paged_state": True,
    "streamingllm": False, "reduce_fusion": False, "user_buffer": False, "use_fused_mlp": True, "pp_reduce_scatter": False,
}  # fmt: skip
"""plugin.py's own defaults (v0.17.0); a plugin without one here is `auto` for the first of these and off for the rest."""
BUILD_DEFAULTS = {
    "max_encoder_input_len": 1024, "max_prompt_embedding_table_size": 0, "max_draft_len": 0,
    "profiling_verbosity": "layer_names_only",
}  # fmt: skip
LIMITS = ("max_input_len", "max_seq_len", "max_batch_size", "max_beam_width", "max_num_tokens")
AUTO_PLUGINS = ("bert_attention_plugin", "gpt_attention_plugin", "moe_plugin", "mamba_conv1d_plugin", "nccl_plugin")


def build_config(flags: Mapping[str, Any], pretrained: Config, version: str) -> tuple[Config, list[str]]:
    """config.json's build_config for the flags that were given (None: not given), and what the builder changed of them."""
    notes: list[str] = []
    known = {
        **BUILD_DEFAULTS,
        **{name: default(name, version) for name in LIMITS if name != "max_seq_len"},
        "max_seq_len": pretrained["max_position_embeddings"],
    }

    def value(name: str) -> Any:
        return known.get(name) if flags.get(name) is None else flags[name]

    made = {
        name: value(name) for name in accepted("build", version) if name not in NOT_RECORDED and not _is_plugin(name)
    }
    for name in LIMITS:
        if made[name] < 1:
            raise UserError(f"--{name} {made[name]} must be 1 or more.")
    if made["max_input_len"] > made["max_seq_len"]:
        notes.append(f"max_input_len is {made['max_input_len']}, lowered to max_seq_len {made['max_seq_len']}")
        made["max_input_len"] = made["max_seq_len"]
    most = made["max_seq_len"] * made["max_batch_size"] * made["max_beam_width"]
    if made["max_num_tokens"] > most:
        notes.append(f"max_num_tokens is {made['max_num_tokens']}, lowered to all that a batch can have, {most}")
        made["max_num_tokens"] = most
    made["opt_num_tokens"] = made["opt_num_tokens"] or min(
        made["max_num_tokens"], made["max_batch_size"] * made["max_beam_width"]
    )
    if flags.get("gather_all_token_logits"):
        made |= {"gather_context_logits": True, "gather_generation_logits": True}
    if made.get("kv_cache_type") is None:
        made["kv_cache_type"] = "disabled" if flags.get("paged_kv_cache") == "disable" else "paged"
    made |= {"strongly_typed": True, "plugin_config": _plugin_config(flags, pretrained, version), "lora_config": {}}
    return made, notes


def _is_plugin(name: str) -> bool:
    return name.endswith("_plugin") or name in FEATURES


def _plugin_config(flags: Mapping[str, Any], pretrained: Config, version: str) -> Config:
    """Every plugin and feature of this version: True or False, a number, a data type (`auto` is the model's own), or None."""
    made: Config = {"dtype": pretrained["dtype"], "paged_kv_cache": flags.get("paged_kv_cache") != "disable"}
    for name in accepted("build", version):
        if not _is_plugin(name):
            continue
        value = flags.get(name)
        if value in ("enable", "disable"):
            value = value == "enable" or (None if name.endswith("_plugin") else False)
        elif value is None or value is False:
            value = FEATURES.get(name, "auto" if name in AUTO_PLUGINS else None)
        made[name] = pretrained["dtype"] if value == "auto" else value
    return made


def read_ranks(folder: Path) -> tuple[Config, list[dict[str, Floats]]]:
    """A checkpoint's configuration and each rank's tensors. Raises UserError for a rank that is absent or does not fit."""
    config = read_json(folder / CONFIG, "a TensorRT-LLM checkpoint")
    if "mapping" not in config:
        raise UserError(
            f"{folder / CONFIG} has no mapping: this is no TensorRT-LLM checkpoint. Run convert_checkpoint.py first."
        )
    expected_shapes = shapes(config)
    ranks = []
    for rank in range(mapping_of(config).world_size):
        path = folder / f"rank{rank}.safetensors"
        if not path.is_file():
            raise UserError(f"{path} is missing, though config.json has {mapping_of(config).world_size} ranks.")
        file = TensorFile(path)
        expected = rank_weights(config, rank, lambda name: _zeros(expected_shapes[name]))
        for name, tensor in expected.items():
            if name not in file.entries or file.entries[name].shape != tensor.shape:
                raise UserError(f"{path}: {name} is absent or not {list(tensor.shape)}. Convert the checkpoint again.")
        ranks.append({name: file.read(name) for name in expected})
    return config, ranks


def main(argv: Sequence[str]) -> None:
    version = stood_in_version()
    parser = command_parser("trtllm-build", "build", "an engine folder from a TensorRT-LLM checkpoint.")
    flags = vars(parser.parse_args(argv))
    undone = [f"--{name}" for name in UNDONE if name in given(flags)]
    if undone:
        raise UserError(f"{', '.join(undone)}: the CPU stand-in doesn't do this. Leave it out, or use a GPU stack.")
    if flags["checkpoint_dir"] is None:
        parser.error("--checkpoint_dir is needed: what convert_checkpoint.py wrote")
    print_line(f"{STAND_IN} {version}: the engines hold weights for numpy, and no GPU runs them")
    build(Path(flags["checkpoint_dir"]), Path(flags["output_dir"] or "engine_outputs"), flags)


def build(checkpoint: Path, output: Path, flags: Mapping[str, Any], beside: Sequence[Path] = ()) -> Config:
    """Writes the engine folder, with copies of the files `beside` it, and returns its build_config. Raises UserError."""
    version = stood_in_version()
    pretrained, ranks = read_ranks(checkpoint)
    config, notes = build_config(flags, pretrained, version)
    for note in notes:
        print_line(f"[TensorRT-LLM] [W] {note}")
    pretrained = {key: value for key, value in pretrained.items() if key != "producer"}
    if flags.get("logits_dtype"):
        pretrained["logits_dtype"] = flags["logits_dtype"]
    with written(output) as folder:
        write_engine(folder, version, pretrained, config, ranks)
        for file in beside:
            shutil.copyfile(file, folder / file.name)
    print_line(
        f"wrote {len(ranks)} engine(s) for batches of {config['max_batch_size']} and {config['max_seq_len']} tokens to {output}"
    )
    return config


def _zeros(shape: tuple[int, ...]) -> Floats:
    """An array of this shape that takes no memory."""
    return np.broadcast_to(np.float32(0), shape)


if __name__ == "__main__":
    run(main)
