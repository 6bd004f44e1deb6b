"""What a stack file may say of the recipe `torchserve-accelerate`."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from engine_jobs.recipe import RecipeSettings
from engine_jobs.torchserve_accelerate.configuration import ServerConfig

TORCHSERVE_VERSION = "0.12.0"
"""The release in the images, TorchServe's last."""

SIZE_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
"""As accelerate.utils.convert_file_size_to_int has them."""

Size = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(KB|MB|GB|KiB|MiB|GiB)$")]
Device = Annotated[str, StringConstraints(pattern=r"^([0-9]+|cpu)$")]
PlacedOn = Annotated[str, StringConstraints(pattern=r"^([0-9]+|cuda:[0-9]+|cpu|disk)$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Requirement = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(\[[a-z0-9,_-]+\])?==[A-Za-z0-9.+!-]+$")
]
JavaOptions = Annotated[str, StringConstraints(pattern=r"^(-[A-Za-z0-9:+=./,_%@-]+( -[A-Za-z0-9:+=./,_%@-]+)*)?$")]


def size_bytes(size: str) -> int:
    """The bytes of a size such as 10GB."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]+)", size).groups()  # type: ignore[union-attr]
    return int(float(number) * SIZE_UNITS[unit])


class SetupConfig(BaseModel):
    """setup_config.json, key by key under its own name: how Accelerate loads the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    revision: str = Field(
        default="main",
        description="The revision that the archive says it is of. What is served is the commit of `source`, archived.",
    )
    max_memory: dict[Device, Size] | None = Field(
        default=None,
        description='What the model may use of each GPU, by number, and of the memory: {"0": 10GB, cpu: 10GB}. '
        "A GPU that is not named stays empty; left out: all that is free.",
    )
    low_cpu_mem_usage: bool = Field(
        default=True, description="Load by shard, with no more memory than the largest takes."
    )
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, PlacedOn | int] = Field(
        default="auto", description="Where the layers go: a strategy, or the device of each module by name."
    )
    offload_folder: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")] | None = Field(
        default="offload", description="A folder for what fits neither GPUs nor memory, beside the unpacked model."
    )
    offload_state_dict: bool = Field(
        default=True, description="Keep the part for the memory on the disk while the shards are loaded."
    )
    torch_dtype: Literal["float16", "bfloat16", "float32", "auto"] = Field(
        default="float16", description="Type of the weights and of what is computed; auto: the checkpoint's."
    )
    max_length: int = Field(
        default=80,
        ge=2,
        description="Longest text in tokens, prompt included.",
        json_schema_extra={"type": ["integer", "string"]},
    )

    @model_validator(mode="after")
    def _loads(self) -> "SetupConfig":
        if not self.low_cpu_mem_usage:
            raise ValueError("device_map needs low_cpu_mem_usage: true; Accelerate places nothing without it")
        return self


class TorchServeAccelerateSettings(RecipeSettings):
    """What a stack file may say of this recipe."""

    name: Literal["torchserve-accelerate"]
    model_name: ModelName | None = Field(
        default=None, description="torch-model-archiver --model-name, the model's in URLs; left out: the entry's name."
    )
    version: Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)*$")] = Field(
        default="1.0", description="torch-model-archiver --version."
    )
    requirements: tuple[Requirement, ...] = Field(
        default=("transformers==4.57.6", "accelerate==1.10.1"),
        description="torch-model-archiver -r: what the handler imports beside torch, pinned. "
        "The default is the newest for Python 3.9, which TorchServe's GPU image has.",
    )
    setup_config: SetupConfig = Field(default=SetupConfig(), description="setup_config.json, under its own keys.")
    install_py_dep_per_model: bool = Field(
        default=True,
        description="TorchServe installs the requirements when it starts, from a package index. "
        "false: the image has them, as torchserve-cpu does.",
    )
    workers: int = Field(
        default=ServerConfig.workers,
        ge=1,
        description="Processes, each with the whole model (minWorkers and maxWorkers).",
    )
    batch_size: int = Field(
        default=ServerConfig.batch_size, ge=1, description="Requests that are generated together, at most."
    )
    max_batch_delay: int = Field(
        default=ServerConfig.max_batch_delay,
        ge=0,
        description="How long a batch waits for more requests, in milliseconds.",
    )
    response_timeout: int = Field(
        default=ServerConfig.response_timeout,
        ge=1,
        description="After how many seconds a request is given up and its worker started again; TorchServe's own default "
        "of 120 is short for a large model.",
    )
    job_queue_size: int = Field(default=ServerConfig.job_queue_size, ge=1, description="Requests that may wait.")
    number_of_netty_threads: int = Field(
        default=ServerConfig.number_of_netty_threads, ge=1, description="Threads that read and write HTTP."
    )
    max_request_size: int = Field(default=ServerConfig.max_request_size, ge=1, description="Of a request, in bytes.")
    max_response_size: int = Field(default=ServerConfig.max_response_size, ge=1, description="Of an answer, in bytes.")
    vmargs: JavaOptions = Field(default=ServerConfig.vmargs, description="Java's options, such as -Xmx512m.")
    runtime_version: str = Field(default=TORCHSERVE_VERSION, description="The TorchServe that serves.")
    build_timeout_seconds: int = Field(
        default=4 * 3600, ge=1, description="How long each Job of the build may take, in seconds."
    )
    start_timeout_seconds: int = Field(
        default=ServerConfig.startup_timeout,
        ge=1,
        description="How long the server may take to unpack and load the model, in seconds (startupTimeout).",
    )

    @field_validator("runtime_version")
    @classmethod
    def _known_version(cls, version: str) -> str:
        if version != TORCHSERVE_VERSION:
            raise ValueError(
                f"{version}: the images have TorchServe {TORCHSERVE_VERSION}, its last release; write that, or leave it out"
            )
        return version

    @field_validator("requirements")
    @classmethod
    def _what_the_handler_imports(cls, requirements: tuple[str, ...]) -> tuple[str, ...]:
        missing = {"transformers", "accelerate"} - {re.split(r"[\[=]", line)[0].lower() for line in requirements}
        if missing:
            raise ValueError(f"{' and '.join(sorted(missing))} missing: the handler imports it; add it with a version")
        return requirements

    def server(self, entry: str) -> ServerConfig:
        """TorchServe's settings of the stack file's entry of this name."""
        return ServerConfig(
            model_name=self.model_name or entry,
            version=self.version,
            workers=self.workers,
            batch_size=self.batch_size,
            max_batch_delay=self.max_batch_delay,
            response_timeout=self.response_timeout,
            startup_timeout=self.start_timeout_seconds,
            job_queue_size=self.job_queue_size,
            number_of_netty_threads=self.number_of_netty_threads,
            max_request_size=self.max_request_size,
            max_response_size=self.max_response_size,
            install_py_dep_per_model=self.install_py_dep_per_model,
            vmargs=self.vmargs,
        )
