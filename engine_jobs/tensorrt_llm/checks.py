"""All that is checked of a model and its settings before anything is built."""

from dataclasses import dataclass

from engine_jobs.errors import UserError
from engine_jobs.recipe import Gpu, Model
from engine_jobs.tensorrt_llm import flags
from engine_jobs.tensorrt_llm.engine_plan import EnginePlan
from engine_jobs.tensorrt_llm.flags import FlagValue, Table
from engine_jobs.tensorrt_llm.limits import check_limits
from engine_jobs.tensorrt_llm.memory import check_memory
from engine_jobs.tensorrt_llm.model_configs import CPU_STAND_IN
from engine_jobs.tensorrt_llm.model_shape import ModelShape, model_shape
from engine_jobs.tensorrt_llm.settings import EngineSettings
from engine_jobs.tensorrt_llm.versions import pinned_release


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A plan that can be built and served, and what a preview should say of it."""

    plan: EnginePlan
    warnings: tuple[str, ...]


def checked(model: Model, settings: EngineSettings) -> Checked:
    """Raises UserError, a line for each mistake, for versions, flags, values, GPUs, a split and a size that can't work. What needs
    the model's config.json is left out where it was not read."""
    release = pinned_release(settings.triton_version, settings.tensorrt_llm_version)
    warnings = _check_flags(settings)
    plan = EnginePlan(
        release=release,
        convert=settings.convert,
        build=settings.build,
        serving=settings.serving,
        tensor_parallel=settings.tensor_parallel_size,
        pipeline_parallel=settings.pipeline_parallel_size,
    )
    shape = _shape(model)
    if shape is not None:
        shape.check_split(plan.tensor_parallel, plan.pipeline_parallel)
    warnings += check_limits(plan, shape)
    if settings.backend != CPU_STAND_IN:
        gpu = _check_gpus(model, plan)
        if shape is not None:
            warnings += check_memory(plan, shape, gpu)
    return Checked(plan=plan, warnings=warnings)


def _check_flags(settings: EngineSettings) -> tuple[str, ...]:
    """The mistakes of all three tables at once."""
    release = pinned_release(settings.triton_version, settings.tensorrt_llm_version)
    tables: tuple[tuple[Table, dict[str, FlagValue]], ...] = (
        ("convert", dict(settings.convert)),
        ("build", dict(settings.build)),
        ("serving", dict(settings.serving)),
    )
    problems: list[str] = []
    warnings: tuple[str, ...] = ()
    for table, values in tables:
        try:
            warnings += flags.check(table, values, release)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return warnings


def _shape(model: Model) -> ModelShape | None:
    config = model.source.config
    return None if config is None else model_shape(config, model.source.model)


def _check_gpus(model: Model, plan: EnginePlan) -> Gpu:
    """An engine runs on the GPU type that it was built on, and on one for each rank."""
    if model.gpu is None:
        raise UserError(
            "gpu: missing: TensorRT builds an engine for a GPU type; name the one that will serve, such as nvidia-l4"
        )
    served, building = model.predictor_resources.gpus, model.job_resources.gpus
    if served != plan.world_size:
        raise UserError(
            f"resources.predictor.gpus is {served}, and tensorParallelSize {plan.tensor_parallel} times pipelineParallelSize "
            f"{plan.pipeline_parallel} is {plan.world_size}, a GPU for each rank; set it to {plan.world_size}"
        )
    if building < 1:
        raise UserError("resources.jobs.gpus is 0, and trtllm-build tries its kernels on a GPU; set it to 1")
    return model.gpu
