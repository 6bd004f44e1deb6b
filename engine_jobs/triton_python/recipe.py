"""Triton's Python backend with transformers: any causal language model of the Hub, several in one server, batched in flight."""

import dataclasses
import math
from pathlib import Path

from engine_jobs.build_chain import BuildChain
from engine_jobs.errors import UserError
from engine_jobs.lifecycle import read_lifecycle
from engine_jobs.load.spec import Tuning
from engine_jobs.recipe import (
    Artifact,
    Build,
    JobSpec,
    Model,
    Plan,
    Platform,
    Question,
    Runtime,
    Service,
    artifact,
    content_key,
)
from engine_jobs.smoke_test.decode import Json
from engine_jobs.smoke_test.spec import HttpProbe, InferenceServiceTarget, SmokeTest, v2_probes
from engine_jobs.triton_ports import GRPC_PORT, HTTP_PORT, METRICS_PORT
from engine_jobs.triton_python.memory import check_memory, model_memory
from engine_jobs.triton_python.model_config import DynamicBatching, ServedModel, config_texts, models_text
from engine_jobs.triton_python.settings import ServedModelSettings, TritonPythonSettings
from engine_jobs.triton_runtime import triton_runtime

NAME = "triton-python"
REPOSITORY_IMAGE = "triton-python-repository"
GPU_IMAGE, CPU_IMAGE = "triton-python", "triton-python-cpu"


class TritonPythonRecipe:
    settings = TritonPythonSettings

    def plan(self, model: Model, settings: TritonPythonSettings, platform: Platform) -> Plan:
        _check(model, settings)
        gpu = model.predictor_resources.gpus > 0
        served = [_served(name, settings.of(name), gpu=gpu) for name in model.sources]
        image = platform.image(REPOSITORY_IMAGE)
        made = artifact(NAME, model, {"builder": image, "models": models_text(served)})
        chain = BuildChain(
            model=model, platform=platform, artifact=made, timeout_seconds=settings.build_timeout_seconds
        )
        runtime = _runtime(model, served, settings, platform)
        service = Service(
            storage_uri=chain.storage_uri,
            resources=model.predictor_resources,
            node_selector=model.gpu.node_selector if model.gpu else {},
        )
        return Plan(
            build=Build(artifact=made, jobs=_jobs(chain, served, image)),
            runtime=runtime,
            service=service,
            smoke_test=lambda name: _smoke_test(name, model, served, platform, _subject(made, runtime, service)),
            lifecycle=read_lifecycle(Path(__file__).parent),
            files={
                f"{name}/config.pbtxt": text for each in served for name, text in sorted(config_texts(each).items())
            },
            tuning=_tuning(model, settings),
        )


def _check(model: Model, settings: TritonPythonSettings) -> None:
    """Raises UserError for what can't be served."""
    if unknown := sorted(set(settings.models) - set(model.sources)):
        raise UserError(f"recipe.models: {', '.join(unknown)}: not in sources ({', '.join(model.sources)})")
    if settings.transformers is not None and not model.predictor_resources.gpus:
        raise UserError("recipe.transformers: only the GPU image is built with another transformers")
    asked = {question.model or next(iter(model.sources)) for question in model.questions}
    if unasked := sorted(set(model.sources) - asked):
        raise UserError(f"smokeTests: nothing is asked of {', '.join(unasked)}")
    if model.gpu is not None:
        parts = [
            part
            for name, source in model.sources.items()
            if source.config is not None and (part := model_memory(name, source.config, settings.of(name)))
        ]
        check_memory(parts, model.gpu)


def _served(name: str, settings: ServedModelSettings, *, gpu: bool) -> ServedModel:
    batching = settings.dynamic_batching
    parameters = {
        "dtype": settings.dtype,
        "max_length": str(settings.max_length or 0),
        "max_sequences": str(settings.max_sequences),
        "max_tokens": str(settings.max_tokens),
        "batching": settings.batching,
        "cuda_graphs": str(settings.cuda_graphs).lower(),
        "exclude_input_in_output": str(settings.exclude_input_in_output).lower(),
    }
    if settings.max_output_length:
        parameters["max_output_length"] = str(settings.max_output_length)
    return ServedModel(
        name=name,
        output_tensor=settings.output_tensor,
        instances=settings.instances,
        max_batch_size=settings.max_batch_size,
        dynamic_batching=DynamicBatching(**batching.model_dump()) if batching else None,
        gpu=gpu,
        parameters=parameters,
    )


def _jobs(chain: BuildChain, served: list[ServedModel], image: str) -> tuple[JobSpec, ...]:
    checkpoints = (
        argument for each in served for argument in ("--checkpoint", f"{each.name}={chain.checkpoint(each.name)}")
    )
    repository = chain.step(
        "repository",
        *("python", "-m", "engine_jobs.triton_python.repository", "--models", models_text(served)),
        *(*checkpoints, "--output-dir", f"{chain.work}/repository"),
    )
    return (
        chain.fetch(),
        chain.job("repository", repository, image=image),
        chain.publish(f"{chain.work}/repository"),
        *chain.to_disk(),
    )


def _runtime(model: Model, served: list[ServedModel], settings: TritonPythonSettings, platform: Platform) -> Runtime:
    loaded = (f"--load-model={name}" for each in served for name in (each.engine, each.name))
    explicit = ("--model-control-mode=explicit", *loaded) if settings.model_control == "explicit" else ()
    arguments = {"TRANSFORMERS": settings.transformers.requirement} if settings.transformers else {}
    on_gpu = model.predictor_resources.gpus > 0
    return triton_runtime(
        model,
        name="triton-python",
        image=platform.image(GPU_IMAGE, arguments) if on_gpu else platform.image(CPU_IMAGE),
        command=(
            *("tritonserver", "--model-repository=/mnt/models", f"--http-port={HTTP_PORT}", f"--grpc-port={GRPC_PORT}"),
            *(f"--metrics-port={METRICS_PORT}", "--disable-auto-complete-config", *explicit),
        ),
        start_timeout_seconds=settings.start_timeout_seconds,
        shared_memory=settings.shared_memory,
        env={"OMP_NUM_THREADS": str(_threads(model.predictor_resources.cpu_limit or model.predictor_resources.cpu))},
    )


def _threads(cpu: str) -> int:
    """Whole cores of a Kubernetes quantity, 1 at least: PyTorch would take all that the node has."""
    cores = int(cpu.removesuffix("m")) / 1000 if cpu.endswith("m") else float(cpu)
    return max(1, math.ceil(cores))


def _subject(made: Artifact, runtime: Runtime, service: Service) -> str:
    return content_key([made.key, repr(runtime), repr(service)])


def _smoke_test(service: str, model: Model, served: list[ServedModel], platform: Platform, subject: str) -> SmokeTest:
    by_name = {each.name: each for each in served}
    live, ready, _ = v2_probes(served[0].name)
    probes = [live, ready]
    probes += [dataclasses.replace(v2_probes(each.name)[2], name=f"v2 metadata of {each.name}") for each in served]
    for question in model.questions:
        probes += _questions(by_name[question.model or served[0].name], question)
    return SmokeTest(
        name=model.name,
        subject=subject,
        target=InferenceServiceTarget(name=service, namespace=platform.namespace),
        probes=tuple(probes),
    )


def _questions(served: ServedModel, question: Question) -> list[HttpProbe]:
    """The question three times: as the v2 protocol's inference, by generate, and streamed."""
    shape: list[Json] = [1, 1] if served.max_batch_size else [1]
    tensors: list[Json] = [
        {"name": "text_input", "datatype": "BYTES", "shape": shape, "data": [question.prompt]},
        {"name": "max_tokens", "datatype": "INT32", "shape": shape, "data": [question.max_tokens]},
    ]
    body: Json = {"text_input": question.prompt, "max_tokens": question.max_tokens}
    generated = f"/{served.output_tensor}"
    asked: tuple[tuple[str, str, Json, str], ...] = (
        ("infer", f"{served.name}/infer", {"inputs": tensors}, "/outputs/0/data/0"),
        ("stream", f"{served.engine}/generate_stream", body, generated),
        ("generate", f"{served.name}/generate", body, generated),
    )
    return [
        HttpProbe(
            name=f"{served.name} {kind}: {question.prompt}",
            method="POST",
            path=f"/v2/models/{path}",
            body=content,
            answer=pointer,
            expect_text=question.expect,
        )
        for kind, path, content, pointer in asked
    ]


def _tuning(model: Model, settings: TritonPythonSettings) -> tuple[Tuning, ...]:
    """What `make tune` may search, where the server lets models be loaded."""
    if settings.model_control != "explicit":
        return ()
    several = len(model.sources) > 1
    asked = {question.model or next(iter(model.sources)): question.prompt for question in model.questions}
    return tuple(
        Tuning(
            model=name,
            probe=f"{name} generate: {asked[name]}",
            max_batch_size=f"{prefix}maxBatchSize",
            instances=f"{prefix}instances",
            dynamic_batching=f"{prefix}dynamicBatching",
            queue_delay_us=f"{prefix}dynamicBatching.maxQueueDelayMicroseconds",
        )
        for name in model.sources
        for prefix in (f"models.{name}." if several else "",)
    )


RECIPE = TritonPythonRecipe()
