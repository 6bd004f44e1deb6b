"""An engine folder as trtllm-build leaves it: config.json {version, pretrained_config, build_config}, rank<N>.engine.

TensorRT-LLM only logs that an engine is of another version than its own; TensorRT then fails on the plan with «Serialization
assertion …», or reads it. So the version is compared before anything is published.
"""

import json
from pathlib import Path
from typing import Any, Final

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.versions import releases, same_version

CONFIG: Final = "config.json"


def check_engine(folder: Path, version: str, tensor_parallel: int, pipeline_parallel: int) -> None:
    """Raises UserError for a folder that is no engine, an engine of another version than `version`, one that was made for another
    number of ranks, and one that lacks a rank's file."""
    config = _config(folder / CONFIG)
    found = config.get("version")
    if not isinstance(found, str) or not same_version(found, version):
        fitting = [
            r.triton for r in releases().values() if isinstance(found, str) and same_version(r.tensorrt_llm, found)
        ]
        other = f", or pin tritonVersion {' or '.join(fitting)}" if fitting else ""
        raise UserError(
            f"{folder / CONFIG}: the engine's version is {found}, and the image that serves has TensorRT-LLM {version}, which can't read "
            f"it; build it again in that image{other}"
        )
    mapping = config.get("pretrained_config", {}).get("mapping", {})
    split = (mapping.get("tp_size"), mapping.get("pp_size"))
    if split != (tensor_parallel, pipeline_parallel):
        raise UserError(
            f"{folder / CONFIG}: the engine was made for tp_size {split[0]} and pp_size {split[1]}, and tensorParallelSize is "
            f"{tensor_parallel} and pipelineParallelSize {pipeline_parallel}; convert and build it again"
        )
    world_size = tensor_parallel * pipeline_parallel
    if mapping.get("world_size", world_size) != world_size:
        raise UserError(
            f"{folder / CONFIG}: the engine's world_size is {mapping['world_size']}, and tensorParallelSize {tensor_parallel} times "
            f"pipelineParallelSize {pipeline_parallel} is {world_size}; convert and build it again"
        )
    missing = [name for name in rank_files(world_size) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} missing: the build did not end; run it again")


def rank_files(world_size: int) -> tuple[str, ...]:
    """The engine's own file of each rank."""
    return tuple(f"rank{rank}.engine" for rank in range(world_size))


def _config(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} is missing: {file.parent} is not the output of trtllm-build") from None
    except ValueError as error:
        raise UserError(f"{file}: not JSON: {error}; build the engine again") from error
    if not isinstance(content, dict) or not isinstance(content.get("pretrained_config", {}), dict):
        raise UserError(f"{file}: not an engine's config.json; build the engine again")
    return content
