"""An engine folder: config.json {version, pretrained_config, build_config} and rank{N}.engine, as `trtllm-build` leaves it.

The stand-in's rank files are safetensors of that rank's weights whose header says so; config.json says so under `builder`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.cpu_stand_in.checkpoint import Config, mapping_of, read_json, whole_weights
from engine_jobs.tensorrt_llm.cpu_stand_in.folders import CONFIG
from engine_jobs.tensorrt_llm.cpu_stand_in.tensor_file import Floats, TensorFile, write_tensors
from engine_jobs.tensorrt_llm.versions import same_version

BUILDER = "llm-serving CPU stand-in (no TensorRT engine: weights for a numpy Llama)"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an engine was built for: requests at once, beams, tokens of a prompt, of prompt and answer, and of one step."""

    max_batch_size: int
    max_beam_width: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int


@dataclass(frozen=True, kw_only=True)
class Engine:
    """`pretrained` is the checkpoint's configuration, `weights` the whole model's by Hugging Face's names, in fp32."""

    version: str
    pretrained: Config
    build: Config
    weights: Mapping[str, Floats]

    @property
    def limits(self) -> Limits:
        return Limits(**{name: self.build[name] for name in Limits.__dataclass_fields__})


def write_engine(folder: Path, version: str, pretrained: Config, build: Config, ranks: list[dict[str, Floats]]) -> None:
    """Into an empty folder."""
    config = {"version": version, "builder": BUILDER, "pretrained_config": pretrained, "build_config": build}
    (folder / CONFIG).write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    for rank, weights in enumerate(ranks):
        about = {"builder": BUILDER, "version": version, "rank": str(rank)}
        write_tensors(folder / f"rank{rank}.engine", weights, pretrained["dtype"], about)


def read_engine(folder: Path, expected_version: str | None = None) -> Engine:
    """Raises UserError for a folder that is no engine, a real TensorRT engine, or one of another version than expected."""
    config = read_json(folder / CONFIG, "an engine folder")
    missing = [key for key in ("version", "pretrained_config", "build_config") if key not in config]
    if missing:
        raise UserError(
            f"{folder / CONFIG} has no {', '.join(missing)}: it is not an engine's, but perhaps a checkpoint's."
        )
    version = str(config["version"])
    if expected_version and not same_version(version, expected_version):
        raise UserError(
            f"the engine in {folder} was built by TensorRT-LLM {version}, and this server has {expected_version}. Build it "
            "again with the image that matches the serving image."
        )
    world_size = mapping_of(config["pretrained_config"]).world_size
    found = sorted(path.name for path in folder.glob("rank*.engine"))
    wanted = sorted(f"rank{rank}.engine" for rank in range(world_size))
    if found != wanted:
        raise UserError(
            f"{folder} has {found or 'no rank file'}, and config.json's world_size {world_size} needs {wanted}."
        )
    ranks = [_rank(folder / f"rank{rank}.engine", version) for rank in range(world_size)]
    pretrained = config["pretrained_config"]
    try:
        weights = whole_weights(pretrained, ranks)
    except (KeyError, ValueError) as error:
        raise UserError(f"{folder}: the rank files don't fit config.json ({error}). Build the engine again.") from None
    return Engine(version=version, pretrained=pretrained, build=config["build_config"], weights=weights)


def _rank(path: Path, version: str) -> dict[str, Floats]:
    try:
        file = TensorFile(path)
        about = file.metadata()
    except UserError as error:
        raise UserError(
            f"{path} is none of the CPU stand-in's engines, and a TensorRT engine needs a GPU: {error}"
        ) from None
    if about.get("builder") != BUILDER or about.get("version") != version:
        raise UserError(
            f"{path} was written by {about.get('builder')} {about.get('version')}, config.json by {version}."
        )
    return {name: file.read(name) for name in file.entries}
