"""What a stack file may say of an engine that is built by TensorRT-LLM's own commands and served by Triton's backend for it."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from engine_jobs.recipe import RecipeSettings

Value = StrictBool | StrictInt | StrictFloat | StrictStr | tuple[StrictStr, ...]
Values = Annotated[Mapping[str, Value], Field(default_factory=dict)]


class EngineSettings(RecipeSettings):
    """Flags and variables keep the names that TensorRT-LLM gives them (`max_batch_size`, not `maxBatchSize`)."""

    triton_version: str = Field(
        default="25.01",
        pattern=r"^\d\d\.\d\d$",
        description="Release of Triton (nvcr.io/nvidia/tritonserver:<release>-trtllm-python-py3) that builds and serves.",
    )
    tensorrt_llm_version: str | None = Field(
        default=None, description="Checked against the version in that release's image; left out: that version."
    )
    convert: Values = Field(description="Flags of the Llama convert_checkpoint.py, by their own names.")
    build: Values = Field(description="Flags of trtllm-build, by their own names.")
    serving: Values = Field(
        description="Variables of the inflight_batcher_llm templates (as fill_template.py takes them), by their own names."
    )
    tensor_parallel_size: int = Field(
        default=1, ge=1, description="GPUs that each layer is split over (convert_checkpoint.py --tp_size)."
    )
    pipeline_parallel_size: int = Field(
        default=1, ge=1, description="Stages that the layers are split into (convert_checkpoint.py --pp_size)."
    )
    backend: Literal["tensorrtllm", "python-cpu-stand-in"] = Field(
        default="tensorrtllm",
        description="Triton's backend: `tensorrtllm` on GPUs; `python-cpu-stand-in` takes the same commands and computes with numpy.",
    )
    build_timeout_seconds: int = Field(
        default=4 * 3600, ge=1, description="How long each Job of the build may take, in seconds."
    )
    start_timeout_seconds: int = Field(
        default=1800, ge=1, description="How long the server may take to load the engine, in seconds."
    )

    @property
    def world_size(self) -> int:
        """Ranks, each with a GPU."""
        return self.tensor_parallel_size * self.pipeline_parallel_size
