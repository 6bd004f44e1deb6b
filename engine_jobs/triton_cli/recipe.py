"""Triton CLI and the manual build: «Deploying Hugging Face Llama2-7b Model in Triton», each of its ways.

`manual` is the engine by TensorRT-LLM's own commands and the five-model repository, as the recipe `trtllm` has it. `import` is
`triton import`: no build flags, and the model served under its own name.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine_jobs.build_chain import BuildChain
from engine_jobs.errors import UserError
from engine_jobs.lifecycle import read_lifecycle
from engine_jobs.recipe import Artifact, Build, JobSpec, Model, Plan, Platform, artifact, canonical_json, content_key
from engine_jobs.smoke_test.spec import InferenceServiceTarget, SmokeTest, v2_probes
from engine_jobs.tensorrt_llm import served
from engine_jobs.tensorrt_llm.build_jobs import (
    REPOSITORY_IMAGE,
    REPOSITORY_RESOURCES,
    SHARED_MEMORY,
    STAND_IN_VERSION_VARIABLE,
    artifact_inputs,
    build_jobs,
    image_of,
)
from engine_jobs.tensorrt_llm.checks import checked
from engine_jobs.tensorrt_llm.engine_plan import EnginePlan
from engine_jobs.tensorrt_llm.model_configs import CPU_STAND_IN
from engine_jobs.tensorrt_llm.repository_files import repository_files
from engine_jobs.triton_cli.benchmark_job import benchmark_job
from engine_jobs.triton_cli.imported import (
    ENGINE_DEST_PATH,
    check_import,
    import_memory,
    imported_texts,
    serving_values,
    triton_cli_version,
)
from engine_jobs.triton_cli.settings import TritonCliSettings

NAME = "triton-cli"
IMPORT_REPOSITORY_IMAGE = "triton-cli-repository"
GIBIBYTES = {"Gi": 1.0, "Ti": 1024.0, "Mi": 1 / 1024, "G": 1e9 / 2**30, "M": 1e6 / 2**30, "T": 1e12 / 2**30}


class TritonCliRecipe:
    settings = TritonCliSettings

    def plan(self, model: Model, settings: TritonCliSettings, platform: Platform) -> Plan:
        return _import(model, settings, platform) if settings.way == "import" else _manual(model, settings, platform)


def _manual(model: Model, settings: TritonCliSettings, platform: Platform) -> Plan:
    if settings.import_name is not None:
        raise UserError("importName: `way: manual` imports nothing, and serves under ensemble; leave it out")
    engine = checked(model, settings)
    plan = engine.plan
    if settings.benchmark and settings.benchmark.streaming and plan.served("decoupled_mode") is not True:
        raise UserError(
            "benchmark.streaming true and serving.decoupled_mode false: an answer comes whole, and there is no first token to measure; "
            "set decoupled_mode true, or leave streaming out"
        )
    builder = platform.image(image_of(plan, settings.backend))
    inputs = artifact_inputs(plan, settings, builder, platform.image(REPOSITORY_IMAGE))
    chain = _chain(model, settings, platform, artifact(NAME, model, {**inputs, "way": "manual"}))
    return _plan(
        chain,
        settings,
        plan,
        jobs=build_jobs(chain, plan, settings),
        files=repository_files(plan.serving, plan.release, settings.backend, plan.world_size),
        warnings=engine.warnings,
        asked=served.ENSEMBLE,
        smoke_test=lambda name, subject: served.smoke_test(name, model, plan, platform, subject),
    )


def _import(model: Model, settings: TritonCliSettings, platform: Platform) -> Plan:
    name = settings.import_name or model.name
    _refuse_flags(settings)
    check_import(settings.triton_version, name)
    settings = settings.model_copy(update={"serving": serving_values(settings.serving)})
    engine = checked(model, settings)
    plan = engine.plan
    builder = platform.image(_import_image(plan, settings.backend))
    inputs = artifact_inputs(plan, settings, builder, platform.image(IMPORT_REPOSITORY_IMAGE))
    made = artifact(NAME, model, {**inputs, "way": "import", "importName": name, "tritonCli": triton_cli_version()})
    chain = _chain(model, settings, platform, made)
    return _plan(
        chain,
        settings,
        plan,
        jobs=_import_jobs(chain, plan, settings, name),
        files=imported_texts(repository_files(plan.serving, plan.release, settings.backend, plan.world_size), name),
        warnings=(*engine.warnings, *_memory_warning(model, settings)),
        asked=name,
        smoke_test=lambda service, subject: _imported_smoke_test(service, model, name, platform, subject),
    )


def _plan(
    chain: BuildChain,
    settings: TritonCliSettings,
    plan: EnginePlan,
    *,
    jobs: tuple[JobSpec, ...],
    files: dict[str, str],
    warnings: tuple[str, ...],
    asked: str,
    smoke_test: Callable[[str, str], SmokeTest],
) -> Plan:
    """What both ways have in common. `asked`: the model that a benchmark measures."""
    model, platform, benchmark = chain.model, chain.platform, settings.benchmark
    runtime = served.runtime(model, plan, settings, platform)
    service = served.service(model, chain)
    subject = content_key([chain.artifact.key, repr(runtime), repr(service)])
    return Plan(
        build=Build(artifact=chain.artifact, jobs=jobs),
        runtime=runtime,
        service=service,
        smoke_test=lambda name: smoke_test(name, subject),
        lifecycle=read_lifecycle(Path(__file__).parent),
        files=files,
        warnings=warnings,
        afterwards=lambda name: (
            (benchmark_job(name, asked, model, benchmark, platform, plan.release),) if benchmark else ()
        ),
    )


def _chain(model: Model, settings: TritonCliSettings, platform: Platform, made: Artifact) -> BuildChain:
    return BuildChain(model=model, platform=platform, artifact=made, timeout_seconds=settings.build_timeout_seconds)


def _refuse_flags(settings: TritonCliSettings) -> None:
    problems = [
        f"{table}: `triton import` takes no flags and builds with TensorRT-LLM's defaults, and here are {', '.join(flags)}; leave them "
        "out, or take `way: manual`"
        for table, flags in (("convert", settings.convert), ("build", settings.build))
        if flags
    ]
    if settings.world_size > 1:
        problems.append(
            f"tensorParallelSize {settings.tensor_parallel_size} times pipelineParallelSize {settings.pipeline_parallel_size}: "
            "`triton import` builds for one GPU; take `way: manual`"
        )
    if problems:
        raise UserError("\n".join(problems))


def _memory_warning(model: Model, settings: TritonCliSettings) -> tuple[str, ...]:
    wanted = model.job_resources.memory
    unit = wanted.lstrip("0123456789.")
    given = float(wanted.removesuffix(unit)) * GIBIBYTES.get(unit, 2**-30)
    if settings.backend == CPU_STAND_IN or given >= float(import_memory().removesuffix("Gi")):
        return ()
    return (
        f"resources.jobs.memory {wanted} is below {import_memory()}, which Triton CLI asks for to import a model of 7 billion weights; "
        "its build child is killed without a word where it is short: raise it",
    )


def _import_image(plan: EnginePlan, backend: str) -> str:
    return "triton-cli-cpu" if backend == CPU_STAND_IN else f"triton-cli-{plan.release.triton}"


def _import_jobs(chain: BuildChain, plan: EnginePlan, settings: TritonCliSettings, name: str) -> tuple[JobSpec, ...]:
    """`triton import` in place of convert and build: from the fetched checkpoint, so that the commit is the pinned one."""
    engines, repository = f"{chain.work}/engines", f"{chain.work}/models"
    version = plan.release.tensorrt_llm
    imported = chain.step(
        "import",
        *("python", "-m", "engine_jobs.triton_cli.import_model", "--name", name, "--engines-dir", engines),
        *("--repository-dir", repository, "--tensorrt-llm-version", version, "--"),
        *("triton", "import", "-m", name, "-s", f"hf:{chain.checkpoint()}", "--backend", "tensorrtllm"),
        *("--repo", repository),
    )
    assemble = chain.step(
        "repository",
        *("python", "-m", "engine_jobs.triton_cli.repository", "--name", name, "--engine-dir", f"{engines}/{name}"),
        *("--checkpoint-dir", chain.checkpoint(), "--output-dir", f"{chain.work}/repository"),
        *("--triton-version", plan.release.triton, "--backend", settings.backend),
        *("--serving", canonical_json(dict(plan.serving))),
    )
    environment = {ENGINE_DEST_PATH: engines}
    if settings.backend == CPU_STAND_IN:
        environment[STAND_IN_VERSION_VARIABLE] = version
    image = chain.platform.image(_import_image(plan, settings.backend))
    return (
        chain.fetch(),
        replace(chain.job("import", imported, image=image, shared_memory=SHARED_MEMORY), env=environment),
        chain.job(
            "repository",
            assemble,
            image=chain.platform.image(IMPORT_REPOSITORY_IMAGE),
            resources=REPOSITORY_RESOURCES,
        ),
        chain.publish(f"{chain.work}/repository"),
        *chain.to_disk(),
    )


def _imported_smoke_test(service: str, model: Model, name: str, platform: Platform, subject: str) -> SmokeTest:
    """The question at once and as a stream: the import's models are decoupled, and their one endpoint does both."""
    question, end = model.question, served.end_id(model)
    return SmokeTest(
        name=model.name,
        subject=subject,
        target=InferenceServiceTarget(name=service, namespace=platform.namespace),
        probes=(
            *v2_probes(name),
            served.generate_probe(name, question, end),
            served.generate_probe(name, question, end, stream=True),
        ),
    )


RECIPE = TritonCliRecipe()
