"""The text files of an artifact that Triton serves with TensorRT-LLM: what a preview shows and the program writes."""

from collections.abc import Mapping

from engine_jobs.tensorrt_llm.flags import FlagValue
from engine_jobs.tensorrt_llm.launch import SCRIPT, launch_script
from engine_jobs.tensorrt_llm.model_configs import CPU_STAND_IN, REPOSITORY, SERVED_DIR, model_config_texts
from engine_jobs.tensorrt_llm.versions import Release


def repository_files(
    serving: Mapping[str, FlagValue], release: Release, backend: str, world_size: int, served_dir: str = SERVED_DIR
) -> dict[str, str]:
    """Text by its path in the artifact: config.pbtxt of the five models, and the script that starts Triton. `serving`: template
    variables, which must have passed `flags.check`; `served_dir`: the artifact's folder where Triton runs."""
    configs = model_config_texts(serving, release.described, backend, served_dir)
    return {
        **{f"{REPOSITORY}/{model}/config.pbtxt": text for model, text in configs.items()},
        SCRIPT: launch_script(world_size, served_dir, one_process=backend == CPU_STAND_IN),
    }
