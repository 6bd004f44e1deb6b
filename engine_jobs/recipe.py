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

from engine_jobs.errors import UserError
from engine_jobs.lifecycle import Lifecycle
from engine_jobs.load.spec import Tuning
from engine_jobs.smoke_test.decode import Json
from engine_jobs.smoke_test.spec import SmokeTest

WORK_DIR = "/mnt/work"
"""Where a Job's pod sees the work volume."""

DISK_DIR = "/mnt/disk"
"""Where a Job's pod sees the model's own disk."""


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
    """A checkpoint on the Hugging Face Hub, at a resolved commit. `config` is its config.json; None where it was not read
    (rendering has no network)."""

    model: str
    revision: str
    config: Mapping[str, Json] | None = None


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the smoke test asks. `expect` is the whole answer, word for word; None: any answer that is not empty.
    `model` says which of a server's several models is asked; None where there is one."""

    prompt: str
    max_tokens: int
    expect: str | None
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The GPU type that a model is built for and served on, from the catalog. `node_selector`: the labels of its nodes."""

    name: str
    architecture: str
    memory_bytes: int
    node_selector: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Model:
    """One entry of the stack file's `models`, as a recipe sees it. `sources` by the name that each is served under: that of
    the entry itself where it has one. `store`: URL of the artifact store (s3:// or gs://). `disk_claim`: the
    PersistentVolumeClaim of the model's own disk, filled from the store and served from; None: served from the store."""

    name: str
    sources: Mapping[str, Source]
    questions: tuple[Question, ...]
    job_resources: Resources
    predictor_resources: Resources
    transformer_resources: Resources
    store: str
    gpu: Gpu | None = None
    disk_claim: str | None = None

    @property
    def source(self) -> Source:
        """The checkpoint of a recipe that serves one. Raises UserError where the entry has several."""
        if len(self.sources) > 1:
            raise UserError(
                f"sources: this recipe serves one checkpoint, and here are {len(self.sources)}; write `source`"
            )
        (source,) = self.sources.values()
        return source

    @property
    def question(self) -> Question:
        """The question of a recipe that serves one checkpoint. Raises UserError for another number of questions."""
        if len(self.questions) != 1:
            raise UserError(
                f"smokeTests: this recipe asks one question, and here are {len(self.questions)}; write `smokeTest`"
            )
        return self.questions[0]


class ImageReference(Protocol):
    """Gives the full reference of one of the project's images, built with other values of its build arguments if any are given."""

    def __call__(self, name: str, arguments: Mapping[str, str] = ..., /) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What a recipe may know of where it runs. `hub_endpoint` is None for huggingface.co."""

    image: ImageReference
    namespace: str
    hub_endpoint: str | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One container of a Job: its name and its whole command line."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A Job of the build chain: its steps run one after the other in one pod, each to its end. `env`: plain variables (never
    secrets). `node_selector`: the nodes that it must run on, a GPU type's for instance. `shared_memory`: size of /dev/shm, a
    quantity. `mounts_disk`: the model's disk is at DISK_DIR."""

    name: str
    image: str
    steps: tuple[Step, ...]
    resources: Resources
    timeout_seconds: int
    needs_hub_token: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    shared_memory: str | None = None
    mounts_disk: bool = False


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
    """A KServe ServingRuntime (a ClusterServingRuntime if `cluster_wide`: then `name` must tell the stack's namespace from others'):
    the server's container and the model format it serves. `command` is the container's args: it
    replaces the image's CMD, not its entrypoint. `ready_path` is asked at `ready_port`; None: the first of `ports`.
    `shared_memory`: size of /dev/shm, a quantity."""

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
    ready_port: int | None = None
    shared_memory: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cluster_wide: bool = False


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
    """A KServe InferenceService of a runtime's format, its model from `storage_uri` (s3://, gs:// or pvc://). `node_selector`:
    the nodes that the predictor must run on. `runtime_version` replaces the tag of the runtime's image."""

    storage_uri: str
    resources: Resources
    transformer: Transformer | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    runtime_version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that one model needs. `smoke_test` takes the InferenceService's name, for the service is named by what it serves.
    `lifecycle`: how its runtime is kept upstream. `files`: the text of every configuration file that the build writes into the
    artifact, by its path there, for whoever reviews it. `warnings`: what a preview should say, each with its fix. `tuning`: what of
    each of the server's models can be searched by a load test, and where the stack file keeps it. `afterwards`: Jobs that run once
    the smoke test has passed (a benchmark, say), of the InferenceService's name."""

    build: Build
    runtime: Runtime
    service: Service
    smoke_test: Callable[[str], SmokeTest] = field(compare=False)
    lifecycle: Lifecycle
    files: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    tuning: tuple[Tuning, ...] = ()
    afterwards: Callable[[str], tuple[JobSpec, ...]] = field(default=lambda _: (), compare=False)


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
    """The artifact of `model` built by `recipe` from `inputs` (builder's image, flags, …), to which the checkpoints' ids and
    commits and the GPU architecture are added: all that may change the result, and nothing else."""
    address: dict[str, Json] = {
        **inputs,
        "schema": 2,
        "recipe": recipe,
        "sources": _addresses(model),
        "gpuArchitecture": model.gpu.architecture if model.gpu else None,
    }
    key = content_key(address)
    slug = "+".join(source.model.replace("/", "--").lower() for source in model.sources.values())
    return Artifact(path=f"{recipe}/{slug[:120]}/{key[:16]}", key=key, inputs=address)


def _addresses(model: Model) -> Json:
    """One checkpoint by what it is (its name in the stack file changes no byte), several by the names they are served under."""
    addresses = {name: f"{source.model}@{source.revision}" for name, source in model.sources.items()}
    return dict(addresses) if len(addresses) > 1 else next(iter(addresses.values()))
