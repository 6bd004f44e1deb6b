"""TorchServe with Hugging Face Accelerate: a checkpoint in a model archive, spread over GPUs, memory and disk."""

import json
import re
from dataclasses import fields
from pathlib import Path

from engine_jobs.build_chain import BuildChain
from engine_jobs.errors import UserError
from engine_jobs.lifecycle import read_lifecycle
from engine_jobs.recipe import (
    Build,
    JobSpec,
    Model,
    Plan,
    Platform,
    Port,
    Runtime,
    Service,
    artifact,
    content_key,
)
from engine_jobs.smoke_test.spec import HttpProbe, InferenceServiceTarget, SmokeTest
from engine_jobs.torchserve_accelerate.configuration import (
    CONFIG_PROPERTIES,
    INFERENCE_PORT,
    METRICS_PORT,
    SERVED_PATH,
    ServerConfig,
    archived_texts,
    config_properties,
)
from engine_jobs.torchserve_accelerate.settings import SetupConfig, TorchServeAccelerateSettings, size_bytes

NAME = "torchserve-accelerate"
BUILDER = "torch-model-archiver"
READY_PORT = 8086
MEMORY_UNITS = {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "": 1,
}


class TorchServeAccelerateRecipe:
    settings = TorchServeAccelerateSettings

    def plan(self, model: Model, settings: TorchServeAccelerateSettings, platform: Platform) -> Plan:
        """Raises UserError for a device map that names a GPU which the predictor does not have, or more memory than it has."""
        warnings = placement_warnings(model, settings)
        server = settings.server(model.name)
        setup_config = settings.setup_config.model_dump(exclude_none=True)
        builder = platform.image(BUILDER)
        said = settings.model_dump(
            mode="json", by_alias=True, exclude={"name", "build_timeout_seconds", "runtime_version"}
        )
        made = artifact(NAME, model, {"builder": builder, "settings": {**said, "modelName": server.model_name}})
        chain = BuildChain(
            model=model, platform=platform, artifact=made, timeout_seconds=settings.build_timeout_seconds
        )
        runtime = _runtime(model, settings, platform)
        service = Service(
            storage_uri=chain.storage_uri,
            resources=model.predictor_resources,
            node_selector=model.gpu.node_selector if model.gpu else {},
            runtime_version=image_tag(runtime.image),
        )
        archived = archived_texts(server, setup_config, settings.requirements)
        return Plan(
            build=Build(artifact=made, jobs=_jobs(chain, server, settings, builder)),
            runtime=runtime,
            service=service,
            smoke_test=lambda name: _smoke_test(
                name, model, server, platform, content_key([made.key, repr(runtime), repr(service)])
            ),
            lifecycle=read_lifecycle(Path(__file__).parent),
            files={
                CONFIG_PROPERTIES: config_properties(server),
                **{f"{server.archive}/{name}": text for name, text in archived.items()},
            },
            warnings=warnings,
        )


def _jobs(
    chain: BuildChain, server: ServerConfig, settings: TorchServeAccelerateSettings, builder: str
) -> tuple[JobSpec, ...]:
    setup_config = settings.setup_config.model_dump(exclude_none=True)
    command = [
        *("python", "-m", "engine_jobs.torchserve_accelerate.archive"),
        *("--checkpoint-dir", chain.checkpoint(), "--output-dir", f"{chain.work}/archive"),
        *("--model-name", server.model_name, "--version", server.version),
        *("--setup-config", json.dumps(setup_config, separators=(",", ":"))),
    ]
    for requirement in settings.requirements:
        command += ["--requirement", requirement]
    for field in fields(ServerConfig):
        if field.type is int:
            command += [f"--{field.name.replace('_', '-')}", str(getattr(server, field.name))]
    command.append(f"--vmargs={server.vmargs}")
    if server.install_py_dep_per_model:
        command.append("--install-py-dep-per-model")
    return (
        chain.fetch(),
        chain.job("archive", chain.step("archive", *command), image=builder),
        chain.publish(f"{chain.work}/archive"),
        *chain.to_disk(),
    )


def _runtime(model: Model, settings: TorchServeAccelerateSettings, platform: Platform) -> Runtime:
    """TorchServe without KServe's wrapper: the wrapper gives up after 5 minutes of loading, and would be a second process with a
    version of KServe's own in an image that is no longer made."""
    return Runtime(
        name="torchserve-accelerate",
        image=platform.image("torchserve" if model.predictor_resources.gpus else "torchserve-cpu"),
        command=(
            *("python", "-m", "engine_jobs.torchserve_accelerate.serve"),
            f"--ts-config={SERVED_PATH}/{CONFIG_PROPERTIES}",
            f"--ready-port={READY_PORT}",
        ),
        ports=(Port(name="http1", number=INFERENCE_PORT),),
        protocol_versions=("v1",),
        model_format="pytorch",
        model_format_version="1",
        metrics_port=METRICS_PORT,
        metrics_path="/metrics",
        resources=model.predictor_resources,
        ready_path="/ready",
        ready_port=READY_PORT,
        start_timeout_seconds=settings.start_timeout_seconds,
    )


def image_tag(image: str) -> str | None:
    """The tag of an image's reference, which runtimeVersion would replace: KServe puts it after the last ':', so one that is pinned
    by digest must go without."""
    tag = image.rpartition("/")[2].partition(":")[2]
    return tag if tag and "@" not in tag else None


def placement_warnings(model: Model, settings: TorchServeAccelerateSettings) -> tuple[str, ...]:
    """What of the placement can't be meant. Raises UserError for what can't be at all."""
    config, gpus = settings.setup_config, model.predictor_resources.gpus
    limits = config.max_memory or {}
    named = sorted(int(device) for device in limits if device.isdigit())
    warnings = []
    if gpus and (absent := [number for number in {*named, *_mapped_gpus(config)} if number >= gpus]):
        raise UserError(
            f"models.{model.name}: setupConfig names GPU {min(absent)}, and resources.predictor.gpus is {gpus} "
            f"(numbers 0 to {gpus - 1}): ask for more GPUs, or take it out"
        )
    if not gpus and named:
        warnings.append(
            f"setupConfig.max_memory names GPU {named[0]}, and resources.predictor.gpus is 0: it is ignored"
        )
    if named and (idle := [number for number in range(gpus) if number not in named]):
        warnings.append(
            f"setupConfig.max_memory names GPU {', '.join(map(str, named))}, and resources.predictor.gpus is {gpus}: GPU "
            f"{', '.join(map(str, idle))} stays empty, and what does not fit is computed from memory; "
            f'add "{idle[0]}": {limits[str(named[0])]}, or ask for {len(named)}'
        )
    if model.gpu:
        for number in named:
            wanted = limits[str(number)]
            if size_bytes(wanted) > model.gpu.memory_bytes:
                raise UserError(
                    f"models.{model.name}: setupConfig.max_memory gives GPU {number} {wanted}, and {model.gpu.name} has "
                    f"{model.gpu.memory_bytes / 1e9:.0f} GB: lower it, or choose a larger GPU"
                )
    memory = model.predictor_resources.memory
    if "cpu" in limits and size_bytes(limits["cpu"]) > _quantity_bytes(memory):
        warnings.append(
            f"setupConfig.max_memory lets {limits['cpu']} of the model be in memory, and resources.predictor.memory is "
            f"{memory}: the pod would be killed before; lower the one or raise the other"
        )
    if gpus and settings.workers > 1:
        warnings.append(
            f"workers is {settings.workers}: each loads the whole model, onto the same {gpus} GPUs; 1 is what batchSize "
            "works with"
        )
    return tuple(warnings)


def _mapped_gpus(config: SetupConfig) -> set[int]:
    """The GPUs that a device map names by number."""
    if isinstance(config.device_map, str):
        return set()
    devices = (str(device).removeprefix("cuda:") for device in config.device_map.values())
    return {int(device) for device in devices if device.isdigit()}


def _quantity_bytes(quantity: str) -> int:
    """The bytes of a Kubernetes quantity of memory."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]
    return int(float(number) * MEMORY_UNITS[unit])


def _smoke_test(service: str, model: Model, server: ServerConfig, platform: Platform, subject: str) -> SmokeTest:
    question = model.question
    path = f"/v1/models/{server.model_name}:predict"
    return SmokeTest(
        name=model.name,
        subject=subject,
        target=InferenceServiceTarget(name=service, namespace=platform.namespace),
        request_timeout_s=float(server.response_timeout),
        probes=(
            HttpProbe(name="ping", path="/ping", answer="/status", expect_text="Healthy"),
            HttpProbe(
                name="empty prompt refused", method="POST", path=path, body={"instances": [""]}, expect_status=400
            ),
            HttpProbe(
                name="predict",
                method="POST",
                path=path,
                body={"instances": [{"data": question.prompt, "max_new_tokens": question.max_tokens}]},
                answer="/predictions/0",
                expect_text=question.expect,
            ),
        ),
    )


RECIPE = TorchServeAccelerateRecipe()
