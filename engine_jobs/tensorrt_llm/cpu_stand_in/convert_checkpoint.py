"""`convert_checkpoint.py`: the CPU stand-in of TensorRT-LLM's examples/llama/convert_checkpoint.py.

    convert_checkpoint.py --model_dir CHECKPOINT --output_dir DIR [--dtype float16] [--tp_size 1] [--pp_size 1]

writes what the real one does: DIR/config.json and DIR/rank{N}.safetensors. It takes all of the real one's flags, and refuses
by name those whose effect it has not (quantization, Meta's own checkpoints, MoE).
"""

import json
from collections.abc import Sequence
from pathlib import Path

from engine_jobs.durable import print_line
from engine_jobs.errors import UserError, run
from engine_jobs.tensorrt_llm.cpu_stand_in.checkpoint import (
    Config,
    Mapping2D,
    chosen_dtype,
    pretrained_config,
    rank_weights,
    read_json,
    shapes,
)
from engine_jobs.tensorrt_llm.cpu_stand_in.command_flags import STAND_IN, command_parser, given, stood_in_version
from engine_jobs.tensorrt_llm.cpu_stand_in.folders import CONFIG, written
from engine_jobs.tensorrt_llm.cpu_stand_in.tensor_file import Floats, TensorFile, write_tensors
from engine_jobs.tensorrt_llm.flags import default

DONE = {
    "model_dir", "output_dir", "dtype", "tp_size", "pp_size", "workers", "load_by_shard", "load_model_on_cpu", "log_level",
    "save_config_only",
}  # fmt: skip
NEUTRAL_AT_ONE = {"cp_size", "moe_tp_size", "moe_ep_size"}
WITHOUT_EFFECT = {
    "vocab_size", "n_positions", "n_layer", "n_head", "n_kv_head", "n_embd", "inter_size", "multiple_of", "ffn_dim_multiplier",
    "rms_norm_eps", "hidden_act", "rotary_base", "calib_dataset", "calib_size", "calib_max_seq_length", "group_size",
    "weight_only_precision", "disable_weight_only_quant_plugin", "moe_renorm_mode",
}  # fmt: skip
"""What the real command ignores too where it reads a Hugging Face checkpoint and does not quantize it."""


class HuggingFaceCheckpoint:
    """The folder's config.json and its tensors by name, from one or several safetensors files."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where `folder` is not a checkpoint, or one without safetensors."""
        self.folder = folder
        self.config = read_json(folder / CONFIG, "a Hugging Face checkpoint")
        index = folder / "model.safetensors.index.json"
        names = ["model.safetensors"]
        if index.is_file():
            names = sorted(set(read_json(index, "a checkpoint").get("weight_map", {}).values()))
        self._files: dict[str, TensorFile] = {}
        for name in names:
            if not (folder / name).is_file():
                raise UserError(f"{folder / name} is missing; only safetensors checkpoints are read. Fetch it again.")
            file = TensorFile(folder / name)
            self._files |= dict.fromkeys(file.entries, file)

    def check(self, wanted: dict[str, tuple[int, ...]]) -> None:
        """Raises UserError for a tensor that is absent or of another shape than config.json gives it."""
        for name, shape in wanted.items():
            source = self._source(name)
            if source not in self._files:
                raise UserError(f"{self.folder} has no tensor {name}.")
            found = self._files[source].entries[source].shape
            if found != shape:
                raise UserError(f"{self.folder}: {name} is {list(found)}, and config.json makes it {list(shape)}.")

    def read(self, name: str) -> Floats:
        source = self._source(name)
        return self._files[source].read(source)

    def _source(self, name: str) -> str:
        """A model with tied embeddings has no lm_head of its own, or one that is not to be used."""
        if name == "lm_head.weight" and self.config.get("tie_word_embeddings"):
            return "model.embed_tokens.weight"
        return name


def convert(model_dir: Path, output_dir: Path, dtype: str, mapping: Mapping2D, *, config_only: bool = False) -> Config:
    """Writes the TensorRT-LLM checkpoint and returns its config.json. Raises UserError."""
    source = HuggingFaceCheckpoint(model_dir)
    config = pretrained_config(source.config, chosen_dtype(dtype, source.config), mapping, model_dir / CONFIG)
    source.check(shapes(config))
    with written(output_dir) as folder:
        text = json.dumps({**config, "producer": {"name": STAND_IN, "version": stood_in_version()}}, indent=4)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        for rank in range(0 if config_only else mapping.world_size):
            weights = rank_weights(config, rank, source.read)
            write_tensors(folder / f"rank{rank}.safetensors", weights, config["dtype"], {"producer": STAND_IN})
            print_line(f"rank {rank}: {len(weights)} tensors")
    return config


def main(argv: Sequence[str]) -> None:
    parser = command_parser("convert_checkpoint.py", "convert", "a Hugging Face Llama to a TensorRT-LLM checkpoint.")
    flags = vars(parser.parse_args(argv))
    _refuse_undone({name for name in given(flags) if not (name in NEUTRAL_AT_ONE and flags[name] in (1, -1))})
    if flags["model_dir"] is None:
        parser.error("--model_dir is needed: the folder of a Hugging Face checkpoint")
    print_line(f"{STAND_IN} {stood_in_version()}: the same files as convert_checkpoint.py's, computed with numpy")
    output = Path(flags["output_dir"] or "tllm_checkpoint")
    mapping = Mapping2D(
        tp=1 if flags["tp_size"] is None else flags["tp_size"], pp=1 if flags["pp_size"] is None else flags["pp_size"]
    )
    dtype = flags["dtype"] or default("dtype", stood_in_version())
    config = convert(Path(flags["model_dir"]), output, dtype, mapping, config_only=flags["save_config_only"])
    print_line(f"wrote {mapping.world_size} rank(s) in {config['dtype']} to {output}")


def _refuse_undone(names: set[str]) -> None:
    undone = sorted(names - DONE - WITHOUT_EFFECT)
    if undone:
        raise UserError(
            f"{', '.join('--' + name for name in undone)}: the CPU stand-in doesn't do this (it converts a plain Hugging "
            "Face Llama). Leave it out, or use a GPU stack."
        )


if __name__ == "__main__":
    run(main)
