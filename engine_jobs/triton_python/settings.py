"""What a stack file may say of the recipe `triton-python`."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from engine_jobs.recipe import RecipeSettings, StackModel

TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)+([a-z0-9.]*)$")]
GitRevision = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z._/-]*$")]


class DynamicBatchingSettings(StackModel):
    """Triton's dynamic batcher, before the model."""

    max_queue_delay_microseconds: int = Field(
        default=0, ge=0, description="How long a request waits for others to share its batch."
    )
    preferred_batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(), description="Batch sizes that need not wait any longer."
    )


class ServedModelSettings(StackModel):
    """How one checkpoint is served."""

    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        default="auto", description="Type of the weights and of what is computed; auto: the checkpoint's."
    )
    max_length: int | None = Field(
        default=None,
        ge=2,
        description="Prompt and answer together, in tokens, at most; left out: the checkpoint's own length, 2048 at most.",
    )
    max_sequences: int = Field(
        default=16, ge=1, description="Requests that are generated at the same time; each has its row of the KV cache."
    )
    max_tokens: int = Field(default=16, ge=1, description="Tokens to generate where a request does not say.")
    max_output_length: int | None = Field(
        default=None,
        ge=2,
        description="The tutorial's parameter: prompt and answer together, in tokens, where a request does not say.",
    )
    output_tensor: TensorName = Field(default="text", description="The output tensor's name.")
    exclude_input_in_output: bool = Field(default=False, description="Answer without the prompt.")
    batching: Literal["auto", "in-flight", "whole-batches"] = Field(
        default="auto",
        description="auto: requests join and leave a running batch, where a check at load finds that the model can do it.",
    )
    instances: int = Field(
        default=16,
        ge=1,
        description="Instances of the plain model, each a light process with a request (or a batch) under way.",
    )
    max_batch_size: int = Field(
        default=0,
        ge=0,
        description="Requests that Triton hands over together; 0: no batch dimension, as in the tutorial.",
    )
    dynamic_batching: DynamicBatchingSettings | None = Field(
        default=None, description="Let Triton form batches of up to maxBatchSize."
    )
    cuda_graphs: bool = Field(default=True, description="On a GPU: replay a step as one CUDA graph.")

    @model_validator(mode="after")
    def _batches(self) -> "ServedModelSettings":
        if self.dynamic_batching is not None and self.max_batch_size < 1:
            raise ValueError("dynamicBatching needs maxBatchSize, 1 or more")
        large = (
            [size for size in self.dynamic_batching.preferred_batch_sizes if size > self.max_batch_size]
            if (self.dynamic_batching)
            else []
        )
        if large:
            raise ValueError(
                f"dynamicBatching.preferredBatchSizes: {large[0]} is above maxBatchSize {self.max_batch_size}"
            )
        return self


class TransformersSettings(StackModel):
    """Another transformers than the image's own, for a model of today: build argument TRANSFORMERS of the image."""

    version: Version | None = Field(default=None, description="A release.")
    git_revision: GitRevision | None = Field(
        default=None, description="A commit, tag or branch of huggingface/transformers."
    )

    @model_validator(mode="after")
    def _one(self) -> "TransformersSettings":
        if (self.version is None) == (self.git_revision is None):
            raise ValueError("give either version or gitRevision")
        return self

    @property
    def requirement(self) -> str:
        """What pip installs."""
        if self.version is not None:
            return f"transformers=={self.version}"
        return f"git+https://github.com/huggingface/transformers.git@{self.git_revision}"


class TritonPythonSettings(RecipeSettings, ServedModelSettings):
    """What a stack file may say of this recipe: how its checkpoint is served or, of several, what they have in common."""

    name: Literal["triton-python"]
    models: dict[str, ServedModelSettings] = Field(
        default_factory=dict,
        description="Of several checkpoints: those that are served otherwise, by their names in `sources`.",
    )
    model_control: Literal["none", "explicit"] = Field(
        default="none",
        description="explicit: models are loaded and unloaded by requests, and `make tune` may try settings.",
    )
    transformers: TransformersSettings | None = Field(
        default=None, description="GPU image only: another transformers than its own."
    )
    shared_memory: Annotated[str, StringConstraints(pattern=r"^[0-9]+(Mi|Gi)$")] = Field(
        default="1Gi", description="Size of /dev/shm, through which Triton and the models' processes exchange tensors."
    )
    build_timeout_seconds: int = Field(
        default=4 * 3600, ge=1, description="How long each Job of the build may take, in seconds."
    )
    start_timeout_seconds: int = Field(
        default=1800, ge=1, description="How long the server may take to load the models, in seconds."
    )

    def of(self, model: str) -> ServedModelSettings:
        """How a checkpoint is served: its own settings, over those that all have in common."""
        common = self.model_dump(include=set(ServedModelSettings.model_fields))
        own = self.models[model].model_dump(exclude_unset=True) if model in self.models else {}
        return ServedModelSettings(**{**common, **own})
