"""What `triton import` makes of a checkpoint, and what of it is served.

triton_cli 0.1.3 writes the models preprocessing, postprocessing, tensorrt_llm and NAME (the BLS model under the model's own name),
decoupled and without an ensemble. Its files name folders of the machine that it ran on and leave most variables unfilled; so the
served folder has the same models with every variable filled, written as for any other engine.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.flags import FlagValue
from engine_jobs.tensorrt_llm.model_configs import REPOSITORY
from engine_jobs.tensorrt_llm.versions import pinned_release

RELEASES: Final = Path(__file__).parent / "data" / "releases.toml"
BLS: Final = "tensorrt_llm_bls"
OTHERS: Final = ("preprocessing", "postprocessing", "tensorrt_llm")
"""Names that the import gives itself."""

ENGINE_DEST_PATH: Final = "ENGINE_DEST_PATH"

ENGINE_BATCH_SIZE: Final = 2048
"""max_batch_size of the LLM API's BuildConfig in TensorRT-LLM 0.17, which is all that the import builds with."""

BACKEND_FREE_FRACTION: Final = 0.9
"""The backend's own default, which is what holds where Triton CLI leaves the variable unfilled."""

T = TypeVar("T")


def serving_values(given: Mapping[str, FlagValue]) -> dict[str, FlagValue]:
    """The template variables as triton_cli 0.1.3 fills them (trt_llm/engine_config_parser.py), and what is given over them."""
    return {
        "triton_max_batch_size": ENGINE_BATCH_SIZE,
        "decoupled_mode": True,
        "max_queue_size": 0,
        "max_queue_delay_microseconds": 0,
        "batching_strategy": "inflight_fused_batching",
        "exclude_input_in_output": True,
        "logits_datatype": "TYPE_FP32",
        "encoder_input_features_data_type": "TYPE_FP16",
        "preprocessing_instance_count": 1,
        "postprocessing_instance_count": 1,
        "bls_instance_count": 1,
        "kv_cache_free_gpu_mem_fraction": BACKEND_FREE_FRACTION,
        **given,
    }


def imported_paths(files: Mapping[str, T], name: str) -> dict[str, T]:
    """The artifact's files by their paths, with the import's models in place of the five."""
    bls, ensemble = f"{REPOSITORY}/{BLS}/", f"{REPOSITORY}/ensemble/"
    return {
        path.replace(bls, f"{REPOSITORY}/{name}/", 1): content
        for path, content in files.items()
        if not path.startswith(ensemble)
    }


def imported_texts(texts: Mapping[str, str], name: str) -> dict[str, str]:
    """`imported_paths` of configuration files, the BLS model's own name in its among them."""
    made = imported_paths(texts, name)
    config = f"{REPOSITORY}/{name}/config.pbtxt"
    return made | {config: made[config].replace(f'name: "{BLS}"', f'name: "{name}"', 1)}


def triton_cli_version() -> str:
    """The release of Triton CLI that the images install."""
    return str(_data()["version"])


def triton_cli_commit() -> str:
    """The commit of that release."""
    return str(_data()["commit"])


def triton_releases() -> tuple[str, ...]:
    """The Triton releases that it imports for."""
    return tuple(_data()["triton"])


def import_memory() -> str:
    """What its README asks for to build a 7B model, as a quantity."""
    return str(_data()["memory"])


def check_import(triton_version: str, name: str) -> None:
    """Raises UserError for a Triton release that this Triton CLI does not import for, and a name that is taken."""
    if triton_version not in triton_releases():
        inside = pinned_release(triton_version, None).tensorrt_llm
        raise UserError(
            f"tritonVersion: Triton CLI {triton_cli_version()} imports for Triton {' and '.join(triton_releases())}, and {triton_version} "
            f"(TensorRT-LLM {inside}) is pinned; take one of them, or `way: manual`"
        )
    if name in (*OTHERS, BLS, "ensemble"):
        raise UserError(f"importName: {name!r} is what the import calls a model of its own; take another name")


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(RELEASES.read_text(encoding="utf-8"))
