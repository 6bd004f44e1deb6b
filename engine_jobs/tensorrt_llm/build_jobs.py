"""The Jobs that make an engine with TensorRT-LLM's own commands, and the folder that Triton serves it from."""

from dataclasses import replace
from typing import Final

from engine_jobs.build_chain import BuildChain
from engine_jobs.recipe import JobSpec, Resources, canonical_json
from engine_jobs.smoke_test.decode import Json
from engine_jobs.tensorrt_llm.engine_plan import EnginePlan
from engine_jobs.tensorrt_llm.flags import command_line
from engine_jobs.tensorrt_llm.model_configs import CPU_STAND_IN
from engine_jobs.tensorrt_llm.settings import EngineSettings
from engine_jobs.tensorrt_llm.versions import EXAMPLES_DIR

REPOSITORY_IMAGE: Final = "trtllm-repository"
CPU_IMAGE: Final = "trtllm-cpu"
STAND_IN_SCRIPT: Final = f"{EXAMPLES_DIR}/examples/llama/convert_checkpoint.py"
STAND_IN_VERSION_VARIABLE: Final = "TRTLLM_STAND_IN_VERSION"

SHARED_MEMORY: Final = "2Gi"
"""What the tutorial gives the container (--shm-size=2g)."""

REPOSITORY_RESOURCES: Final = Resources(cpu="250m", memory="1Gi")


def image_of(plan: EnginePlan, backend: str) -> str:
    """The name of the image that builds and serves."""
    return CPU_IMAGE if backend == CPU_STAND_IN else plan.release.image


def environment(plan: EnginePlan, backend: str) -> dict[str, str]:
    """The variables of the image: which version the stand-in stands in for, and of which it takes engines."""
    return {STAND_IN_VERSION_VARIABLE: plan.release.tensorrt_llm} if backend == CPU_STAND_IN else {}


def artifact_inputs(plan: EnginePlan, settings: EngineSettings, builder: str, assembler: str) -> dict[str, Json]:
    """What the artifact's content depends on. `builder`, `assembler`: full references of the images."""
    return {
        "builder": builder,
        "assembler": assembler,
        "tensorrtLlmVersion": plan.release.tensorrt_llm,
        "backend": settings.backend,
        "convert": _json(settings.convert),
        "build": _json(settings.build),
        "serving": _json(settings.serving),
        "tensorParallelSize": plan.tensor_parallel,
        "pipelineParallelSize": plan.pipeline_parallel,
    }


def build_jobs(chain: BuildChain, plan: EnginePlan, settings: EngineSettings) -> tuple[JobSpec, ...]:
    """From the Hub to the store, and to the model's disk where it has one. `convert` and `build` run in the image that serves, on the
    GPU type that serves; the engine is checked before it is published."""
    image = chain.platform.image(image_of(plan, settings.backend))
    checkpoint, engine = f"{chain.work}/trtllm-checkpoint", f"{chain.work}/engine"
    script = STAND_IN_SCRIPT if settings.backend == CPU_STAND_IN else plan.release.convert_script
    split = (str(plan.tensor_parallel), str(plan.pipeline_parallel))
    sizes = ("--tensor-parallel-size", split[0], "--pipeline-parallel-size", split[1])
    convert = chain.step(
        "convert",
        *("python3", script, "--model_dir", chain.checkpoint(), "--output_dir", checkpoint),
        *("--tp_size", split[0], "--pp_size", split[1]),
        *command_line("convert", plan.convert, plan.release),
    )
    build = chain.step(
        "build",
        *("trtllm-build", "--checkpoint_dir", checkpoint, "--output_dir", engine),
        *command_line("build", plan.build, plan.release),
    )
    check = chain.step(
        "check",
        *("python", "-m", "engine_jobs.tensorrt_llm.check_engine", "--engine-dir", engine),
        *("--tensorrt-llm-version", plan.release.tensorrt_llm, *sizes),
    )
    assemble = chain.step(
        "repository",
        *("python", "-m", "engine_jobs.tensorrt_llm.repository", "--engine-dir", engine),
        *("--checkpoint-dir", chain.checkpoint(), "--output-dir", f"{chain.work}/repository"),
        *("--triton-version", plan.release.triton, "--backend", settings.backend, *sizes),
        *("--serving", canonical_json(_json(settings.serving))),
    )
    assembler = chain.platform.image(REPOSITORY_IMAGE)
    version = environment(plan, settings.backend)
    return (
        chain.fetch(),
        replace(chain.job("convert", convert, image=image, shared_memory=SHARED_MEMORY), env=version),
        replace(chain.job("build", build, image=image, shared_memory=SHARED_MEMORY), env=version),
        chain.job("repository", check, assemble, image=assembler, resources=REPOSITORY_RESOURCES),
        chain.publish(f"{chain.work}/repository"),
        *chain.to_disk(),
    )


def _json(values: object) -> Json:
    """A mapping of flags as JSON has it."""
    assert hasattr(values, "items")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
