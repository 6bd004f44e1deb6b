"""The stack file's settings: parsed and checked once, here, so that nothing else needs to doubt them.

An error names the file, the key, and the fix. What a recipe may say is the recipe's own (`engine_jobs.<recipe>.recipe`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_snake

from engine_jobs.errors import UserError
from engine_jobs.recipe import RecipeSettings, Resources, StackModel
from engine_jobs.recipes import recipes
from stacks.gpus import gpus, known_gpu

PROJECT = "llm-serving"
STACKS_DIR = Path(__file__).parent

if TYPE_CHECKING:
    AnyRecipeSettings = RecipeSettings
else:
    _settings = tuple(recipe.settings for recipe in recipes().values())
    AnyRecipeSettings = (
        Annotated[Union[_settings], Field(discriminator="name")] if len(_settings) > 1 else _settings[0]  # noqa: UP007
    )

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=30)]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
PERSISTENT_DISK = r"^projects/[a-z0-9:.-]+/(zones|regions)/[a-z0-9-]+/disks/[a-z0-9-]+$"
GpuName = Annotated[str, AfterValidator(known_gpu), Field(json_schema_extra={"enum": sorted(gpus())})]
HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+$")]


class ClusterSettings(StackModel):
    """Which Kubernetes: a context of the kubeconfig in use (`KUBECONFIG` or ~/.kube/config)."""

    context: str = Field(description="The kubeconfig context to deploy to.")


class GatewaySettings(StackModel):
    """The Gateway (Gateway API) that KServe routes through, and where it is reached."""

    name: str = Field(description="The Gateway object's name.")
    namespace: str = Field(description="The Gateway object's namespace.")
    domain: str = Field(description="KServe's ingress domain: hosts are <name>-<namespace>.<domain>.")
    address: HttpUrl = Field(description="Where the gateway answers for you: http(s)://host[:port].")
    cluster_address: HttpUrl = Field(description="Where the gateway answers for a pod.")


class HubSettings(StackModel):
    """The Hugging Face Hub. Its token is the secret config `hfToken`, else HF_TOKEN or what `hf auth login` stored."""

    endpoint: HttpUrl | None = Field(default=None, description="A Hub other than huggingface.co.")


class StoreSettings(StackModel):
    """A bucket that holds built engines. S3: credentials are the secret configs `s3AccessKeyId` and `s3SecretAccessKey`, else
    those that boto3 finds. GCS: application default credentials, in the cluster those of the pods' ServiceAccounts."""

    url: Annotated[
        str,
        StringConstraints(pattern=r"^(s3|gs)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*$"),
        Field(description="The bucket and a folder in it: s3://BUCKET/PREFIX or gs://BUCKET/PREFIX."),
    ]
    region: str = Field(default="us-east-1", description="S3 only: the bucket's region.")
    endpoint: HttpUrl | None = Field(
        default=None, description="An endpoint other than AWS's or Google's, as pods and you reach it."
    )
    create: bool = Field(
        default=False,
        description="Make the bucket if it is not there (an endpoint without an infrastructure of its own).",
    )

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]


class DiskSettings(StackModel):
    """A disk. One of `persistentDisk`, `hostPath` and `storageClass` says where it is; none: the cluster's default class."""

    size: Quantity
    persistent_disk: Annotated[str, StringConstraints(pattern=PERSISTENT_DISK)] | None = Field(
        default=None, description="A Compute Engine disk that exists: projects/PROJECT/zones/ZONE/disks/NAME."
    )
    host_path: str | None = Field(default=None, description="A folder of the (single) node, which uid 1000 can write.")
    storage_class: str | None = Field(default=None, description="The StorageClass to claim from.")

    @model_validator(mode="after")
    def _one_place(self) -> "DiskSettings":
        named = [n for n in ("persistentDisk", "hostPath", "storageClass") if getattr(self, to_snake(n))]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} exclude each other; keep one")
        return self


class LifecycleSettings(StackModel):
    """What the stack thinks of runtimes that their makers no longer keep."""

    forbid: frozenset[Literal["frozen", "end-of-life"]] = Field(
        default=frozenset(), description="Refuse models whose runtime has such a status; else a preview warns."
    )


class ImageSettings(StackModel):
    """Where the project's images are. Each is tagged by its content: <registry>/<name>:<tag>; `pinned` replaces single ones."""

    registry: str = Field(
        description="Registry and path before the image's name, for example europe-docker.pkg.dev/acme/llm."
    )
    pinned: dict[str, str] = Field(default_factory=dict, description="Full references (with a digest) by image name.")


class PlatformSettings(StackModel):
    """What all models of the stack share."""

    namespace: DnsLabel = Field(description="The namespace of the models, their Jobs and their secrets.")
    cluster: ClusterSettings
    gateway: GatewaySettings
    hub: HubSettings = HubSettings()
    stores: dict[DnsLabel, StoreSettings] = Field(min_length=1, description="The artifact stores, by name.")
    work_volume: DiskSettings = Field(
        default=DiskSettings(size="20Gi"), description="The disk that build Jobs work on."
    )
    images: ImageSettings
    lifecycle: LifecycleSettings = LifecycleSettings()
    gpu_node_label: str = Field(
        default="cloud.google.com/gke-accelerator", description="The node label that says which GPU a node has."
    )


class SourceSettings(StackModel):
    """The checkpoint on the Hub."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")]
    revision: str = Field(default="main", description="A branch, tag or commit; resolved to a commit at preview.")


class ResourceSettings(StackModel):
    """What a container asks for, as Kubernetes quantities."""

    cpu: Quantity
    memory: Quantity
    cpu_limit: Quantity | None = None
    gpus: int = Field(default=0, ge=0)

    def resources(self) -> Resources:
        return Resources(cpu=self.cpu, memory=self.memory, cpu_limit=self.cpu_limit, gpus=self.gpus)


class ModelResourceSettings(StackModel):
    """By part: the build's Jobs, the server, the transformer before it."""

    jobs: ResourceSettings = ResourceSettings(cpu="1", memory="4Gi")
    predictor: ResourceSettings = ResourceSettings(cpu="1", memory="8Gi", cpu_limit="1", gpus=1)
    transformer: ResourceSettings = ResourceSettings(cpu="1", memory="2Gi", cpu_limit="1")


class SmokeTestSettings(StackModel):
    """What the deployment is asked before it is called done."""

    prompt: Annotated[str, StringConstraints(min_length=1)]
    max_tokens: int = Field(default=18, ge=1, description="How many tokens to generate at most.")
    expect: str | None = Field(
        default=None, description="The whole answer, word for word; left out: any that is not empty."
    )
    model: DnsLabel | None = Field(
        default=None, description="Which of `sources` is asked; needed if there are several."
    )


class ModelSettings(StackModel):
    """One server: a model, or several that share it, where the recipe can."""

    source: SourceSettings | None = Field(default=None, description="The checkpoint, served under the entry's name.")
    sources: dict[DnsLabel, SourceSettings] = Field(
        default_factory=dict, description="Several checkpoints in one server, by the name that each is served under."
    )
    recipe: AnyRecipeSettings
    store: DnsLabel | None = Field(
        default=None, description="The artifact store, by name; may be left out if there is one."
    )
    disk: DiskSettings | None = Field(
        default=None,
        description="A disk of its own, filled from the store by a Job and served from, read-only.",
    )
    gpu: GpuName | None = Field(default=None, description="The GPU type that it is built for and served on.")
    resources: ModelResourceSettings = ModelResourceSettings()
    smoke_test: SmokeTestSettings | None = Field(default=None, description="The question to ask.")
    smoke_tests: tuple[SmokeTestSettings, ...] = Field(default=(), description="Several questions.")

    @property
    def questions(self) -> tuple[SmokeTestSettings, ...]:
        return (self.smoke_test,) if self.smoke_test else self.smoke_tests

    @model_validator(mode="after")
    def _sources_and_questions(self) -> "ModelSettings":
        if (self.source is None) == (not self.sources):
            raise ValueError("give either source or sources")
        if (self.smoke_test is None) == (not self.smoke_tests):
            raise ValueError("give either smokeTest or smokeTests: nothing is deployed unasked")
        for question in self.questions:
            if self.sources and question.model not in self.sources:
                raise ValueError(f"smoke test {question.prompt!r}: model: name one of {', '.join(self.sources)}")
        return self

    def named_sources(self, name: str) -> dict[str, SourceSettings]:
        """The checkpoints by the names that they are served under; `name` is the entry's."""
        return dict(self.sources) or ({name: self.source} if self.source else {})


class Settings(StackModel):
    """A stack file's `config`, without the `llm-serving:` before each key."""

    platform: PlatformSettings
    models: dict[DnsLabel, ModelSettings]
    hf_token: Any = Field(default=None, description="Secret: the Hub token (pulumi config set --secret hfToken).")
    s3_access_key_id: Any = Field(default=None, description="Secret: the store's access key id.")
    s3_secret_access_key: Any = Field(default=None, description="Secret: the store's secret access key.")

    @field_validator("models")
    @classmethod
    def _some_model(cls, models: dict[str, ModelSettings]) -> dict[str, ModelSettings]:
        if not models:
            raise ValueError("name at least one model")
        return models

    @model_validator(mode="after")
    def _known_stores(self) -> "Settings":
        for name, model in self.models.items():
            if model.store is None and len(self.platform.stores) > 1:
                raise ValueError(f"models.{name}.store: name one of {', '.join(self.platform.stores)}")
            if model.store is not None and model.store not in self.platform.stores:
                raise ValueError(
                    f"models.{name}.store: there is no store {model.store!r}; known: {', '.join(self.platform.stores)}"
                )
        return self

    def store_name(self, model: ModelSettings) -> str:
        return model.store or next(iter(self.platform.stores))

    def store_of(self, model: ModelSettings) -> StoreSettings:
        return self.platform.stores[self.store_name(model)]


def stack_file(stack: str) -> Path:
    """The file of a stack; UserError where there is none, naming those that are."""
    path = STACKS_DIR / f"Pulumi.{stack}.yaml"
    if not path.is_file():
        known = sorted(p.name.removeprefix("Pulumi.").removesuffix(".yaml") for p in STACKS_DIR.glob("Pulumi.*.yaml"))
        raise UserError(f"{path}: there is no such stack file; stacks here: {', '.join(known) or 'none'}")
    return path


def read_stack_file(path: Path) -> dict[str, Any]:
    """The `config` of a stack file as plain values, without the project's prefix on its keys."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a stack file that can be read") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    config = content.get("config") if isinstance(content, dict) else None
    if not isinstance(config, dict):
        raise UserError(f"{path}: config: missing; it holds {PROJECT}:platform and {PROJECT}:models")
    return {str(key).removeprefix(f"{PROJECT}:"): value for key, value in config.items()}


def parse_settings(config: Mapping[str, Any], file: Path | str) -> Settings:
    """The settings of a stack file's config. Raises UserError with one line per mistake: file, key, what is wrong, what to do."""
    try:
        return Settings.model_validate(dict(config))
    except ValidationError as error:
        raise UserError("\n".join([f"{file}: the stack file has mistakes:", *_explain(error)])) from error


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False):
        names = [str(part) for part in problem["loc"]]
        key = ".".join([f"{PROJECT}:{names[0]}", *names[1:]]) if names else f"{PROJECT}:"
        lines.append(f"  {key}: {_fix(problem['type'], problem['msg'], problem['loc'])}")
    return lines


def _fix(kind: str, message: str, location: tuple[int | str, ...]) -> str:
    match kind:
        case "extra_forbidden":
            known = _keys_at(location[:-1])
            return "unknown key" + (f"; known here: {', '.join(known)}" if known else "; take it out")
        case "missing":
            return "missing; add it"
        case "union_tag_invalid" | "literal_error":
            return f"{message}; recipes: {', '.join(sorted(recipes()))}" if kind == "union_tag_invalid" else message
        case _:
            return message.removeprefix("Value error, ")


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the settings model has at a place, for «unknown key» messages."""
    model: Any = Settings
    for part in location:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part not in fields:
            continue
        annotation = fields[str(part)].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not nested:
            return []
        model = nested[-1]
    return sorted(field.alias or name for name, field in model.model_fields.items())
