"""FasterTransformer: a BLOOM checkpoint converted to FT's binaries and served by Triton, with a tokenizing KServe transformer."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from engine_jobs.build_chain import BuildChain
from engine_jobs.fastertransformer.model_config import CPU_STAND_IN, NAME, VERSION, model_config_text
from engine_jobs.lifecycle import read_lifecycle
from engine_jobs.recipe import (
    Build,
    JobSpec,
    Model,
    Plan,
    Platform,
    RecipeSettings,
    Runtime,
    Service,
    Transformer,
    artifact,
    content_key,
)
from engine_jobs.smoke_test.spec import (
    ExpectedOutput,
    GrpcProbe,
    HttpProbe,
    InferenceServiceTarget,
    SmokeTest,
    Tensor,
    v2_probes,
)
from engine_jobs.triton_ports import GRPC_PORT, HTTP_PORT
from engine_jobs.triton_runtime import triton_runtime

Backend = Literal["fastertransformer", "python-cpu-stand-in"]

GRPC_PROBE = GrpcProbe(
    name="gRPC",
    model=NAME,
    component="predictor",
    inputs=(
        Tensor(name="input_ids", datatype="UINT32", shape=(1, 3), data=(5, 6, 7)),
        Tensor(name="input_lengths", datatype="UINT32", shape=(1, 1), data=(3,)),
        Tensor(name="request_output_len", datatype="UINT32", shape=(1, 1), data=(4,)),
    ),
    expect_output=ExpectedOutput(name="output_ids", prefix=(5, 6, 7)),
)
"""Token ids that every BLOOM has; FT's output begins with its input."""


class FasterTransformerSettings(RecipeSettings):
    """What a stack file may say of this recipe."""

    name: Literal["fastertransformer"]
    tensor_parallel_size: int = Field(
        default=1, ge=1, description="Number of GPUs that the model is split over; divides its heads."
    )
    data_type: Literal["fp16", "fp32"] = Field(default="fp16", description="Type of the converted weights.")
    backend: Backend = Field(
        default="fastertransformer",
        description="Triton's backend: `fastertransformer` on a GPU; `python-cpu-stand-in` reads the same files with numpy.",
    )
    build_timeout_seconds: int = Field(
        default=4 * 3600, ge=1, description="How long each Job of the build may take, in seconds."
    )
    start_timeout_seconds: int = Field(
        default=1200, ge=1, description="How long the server may take to load the model, in seconds."
    )


class FasterTransformerRecipe:
    settings = FasterTransformerSettings

    def plan(self, model: Model, settings: FasterTransformerSettings, platform: Platform) -> Plan:
        image = platform.image("fastertransformer-converter")
        made = artifact(
            NAME,
            model,
            {
                "builder": image,
                "tensorParallelSize": settings.tensor_parallel_size,
                "dataType": settings.data_type,
                "backend": settings.backend,
            },
        )
        chain = BuildChain(
            model=model, platform=platform, artifact=made, timeout_seconds=settings.build_timeout_seconds
        )
        runtime = _runtime(model, settings, platform)
        service = _service(model, chain, platform)
        return Plan(
            build=Build(artifact=made, jobs=_jobs(chain, settings, image)),
            runtime=runtime,
            service=service,
            smoke_test=lambda name: _smoke_test(
                name, model, platform, content_key([made.key, repr(runtime), repr(service)])
            ),
            lifecycle=read_lifecycle(Path(__file__).parent),
            files={
                f"{NAME}/config.pbtxt": model_config_text(
                    backend=settings.backend,
                    data_type=settings.data_type,
                    tensor_parallel_size=settings.tensor_parallel_size,
                )
            },
        )


def _jobs(chain: BuildChain, settings: FasterTransformerSettings, image: str) -> tuple[JobSpec, ...]:
    split = str(settings.tensor_parallel_size)
    convert = chain.step(
        "convert",
        *("python", "-m", "engine_jobs.fastertransformer.convert"),
        *("--input-dir", chain.checkpoint(), "--output-dir", f"{chain.work}/weights"),
        *("--tensor-parallel-size", split, "--data-type", settings.data_type),
    )
    repository = chain.step(
        "repository",
        *("python", "-m", "engine_jobs.fastertransformer.repository"),
        *("--weights-dir", f"{chain.work}/weights/{split}-gpu", "--checkpoint-dir", chain.checkpoint()),
        *("--output-dir", f"{chain.work}/repository", "--backend", settings.backend),
        *("--tensor-parallel-size", split, "--data-type", settings.data_type),
    )
    return (
        chain.fetch(),
        chain.job("convert", convert, repository, image=image),
        chain.publish(f"{chain.work}/repository"),
        *chain.to_disk(),
    )


def _runtime(model: Model, settings: FasterTransformerSettings, platform: Platform) -> Runtime:
    return triton_runtime(
        model,
        name="tritonserver-ft",
        image=platform.image("triton-cpu" if settings.backend == CPU_STAND_IN else "triton-ft"),
        command=(
            "tritonserver",
            "--model-store=/mnt/models",
            f"--grpc-port={GRPC_PORT}",
            f"--http-port={HTTP_PORT}",
            "--allow-grpc=true",
            "--allow-http=true",
        ),
        start_timeout_seconds=settings.start_timeout_seconds,
        shared_memory="256Mi",
    )


def _service(model: Model, chain: BuildChain, platform: Platform) -> Service:
    return Service(
        storage_uri=chain.storage_uri,
        resources=model.predictor_resources,
        node_selector=model.gpu.node_selector if model.gpu else {},
        transformer=Transformer(
            image=platform.image("transformer"),
            command=("python", "-m", "engine_jobs.fastertransformer.transformer"),
            args=("--model_name", NAME, "--protocol", "v2", "--tokenizer_path", "/mnt/models/"),
            storage_uri=f"{chain.storage_uri}/{NAME}/{VERSION}/tokenizer",
            resources=model.transformer_resources,
        ),
    )


def _smoke_test(service: str, model: Model, platform: Platform, subject: str) -> SmokeTest:
    question = model.question
    return SmokeTest(
        name=model.name,
        subject=subject,
        target=InferenceServiceTarget(name=service, namespace=platform.namespace),
        probes=(
            *v2_probes(NAME),
            GRPC_PROBE,
            HttpProbe(
                name="predict",
                method="POST",
                path=f"/v1/models/{NAME}:predict",
                body={"inputs": [{"input": question.prompt, "output_len": str(question.max_tokens)}]},
                answer="/0/0",
                expect_text=question.expect,
            ),
        ),
    )


RECIPE = FasterTransformerRecipe()
