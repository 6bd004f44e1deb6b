"""What a recipe hands to the platform: plain, immutable descriptions of Jobs, a runtime, a service and a smoke test.

A recipe is pure: the same model, settings and platform give the same `Plan`, with no engine, cluster or network. It knows its
programs' flags; `components/` knows Kubernetes and Pulumi; neither knows the other's.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from engine_jobs.smoke_test.decode import Json
from engine_jobs.smoke_test.spec import SmokeTest

WORK_DIR = "/mnt/work"
"""Where a Job's pod sees the work volume."""


class StackModel(BaseModel):
    """A part of a stack file: camelCase keys, unknown keys refused, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class RecipeSettings(StackModel):
    """The `recipe:` part of a model's entry; each recipe's own subclass adds its flags and pins `name`."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a container asks for. `memory` is request and limit (a served model has no use for being over-committed);
    `cpu` is a request, and a limit only where `cpu_limit` says so. Kubernetes quantities."""

    cpu: str
    memory: str
    cpu_limit: str | None = None
    gpus: int = 0

    @property
    def requests(self) -> dict[str, str]:
        return {"cpu": self.cpu, "memory": self.memory, **self._gpus()}

    @property
    def limits(self) -> dict[str, str]:
        cpu = {"cpu": self.cpu_limit} if self.cpu_limit else {}
        return {**cpu, "memory": self.memory, **self._gpus()}

    def _gpus(self) -> dict[str, str]:
        return {"nvidia.com/gpu": str(self.gpus)} if self.gpus else {}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint on the Hugging Face Hub, at a resolved commit."""

    model: str
    revision: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the smoke test asks. `expect` is the whole answer, word for word; None: any answer that is not empty."""

    prompt: str
    max_tokens: int
    expect: str | None


@dataclass(frozen=True, kw_only=True)
class Model:
    """One entry of the stack file's `models`, as a recipe sees it."""

    name: str
    source: Source
    question: Question
    job_resources: Resources
    predictor_resources: Resources
    transformer_resources: Resources
    gpu_architecture: str | None


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What a recipe may know of where it runs. `image` gives the full reference of one of the project's images;
    `store` is the artifact store's URL, `hub_endpoint` None for huggingface.co."""

    image: Callable[[str], str]
    store: str
    namespace: str
    hub_endpoint: str | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One container of a Job: its name and its whole command line."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A Job of the build chain: its steps run one after the other in one pod, each to its end."""

    name: str
    image: str
    steps: tuple[Step, ...]
    resources: Resources
    timeout_seconds: int
    needs_hub_token: bool = False


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a build makes, named by its content: `key` is the sha256 (64 hex) over `inputs`; `path` is its folder in the store."""

    path: str
    key: str
    inputs: Mapping[str, Json]

    @property
    def short_key(self) -> str:
        return self.key[:16]


@dataclass(frozen=True, kw_only=True)
class Build:
    """The chain of Jobs that makes an artifact, in order."""

    artifact: Artifact
    jobs: tuple[JobSpec, ...]


@dataclass(frozen=True, kw_only=True)
class Port:
    """A container's port; KServe reads a name with `h2c` as gRPC."""

    name: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A KServe ServingRuntime: the server's container and the model format it serves."""

    name: str
    image: str
    command: tuple[str, ...]
    ports: tuple[Port, ...]
    protocol_versions: tuple[str, ...]
    model_format: str
    model_format_version: str
    metrics_port: int
    metrics_path: str
    resources: Resources
    ready_path: str
    start_timeout_seconds: int
    shared_memory: str | None = None


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A KServe transformer: the container between the caller and the predictor."""

    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    storage_uri: str
    resources: Resources


@dataclass(frozen=True, kw_only=True)
class Service:
    """A KServe InferenceService of a runtime's format, its model from `storage_uri`."""

    storage_uri: str
    resources: Resources
    transformer: Transformer | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that one model needs. `smoke_test` takes the InferenceService's name, for the service is named by what it serves."""

    build: Build
    runtime: Runtime
    service: Service
    smoke_test: Callable[[str], SmokeTest] = field(compare=False)


S_contra = TypeVar("S_contra", bound=RecipeSettings, contravariant=True)


class Recipe(Protocol[S_contra]):
    """A way to serve a model. A folder of engine_jobs whose `recipe.py` has a `RECIPE` of this form is a recipe."""

    @property
    def settings(self) -> type[RecipeSettings]: ...

    def plan(self, model: Model, settings: S_contra, platform: Platform) -> Plan: ...


def canonical_json(value: Any) -> str:
    """A JSON value as text that is the same for the same value: keys sorted, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_key(value: Any) -> str:
    """The sha256 (64 hex) of a JSON value in canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def artifact(recipe: str, model: Model, inputs: Mapping[str, Json]) -> Artifact:
    """The artifact of `model` built by `recipe` from `inputs` (builder's image, flags, …), to which the checkpoint's id and
    commit and the GPU architecture are added: all that may change the result, and nothing else."""
    address: dict[str, Json] = {
        **inputs,
        "schema": 1,
        "recipe": recipe,
        "model": model.source.model,
        "revision": model.source.revision,
        "gpuArchitecture": model.gpu_architecture,
    }
    key = content_key(address)
    slug = model.source.model.replace("/", "--").lower()
    return Artifact(path=f"{recipe}/{slug}/{key[:16]}", key=key, inputs=address)
