"""What a stack file may say of the recipe `triton-cli`."""

from typing import Literal

from pydantic import Field

from engine_jobs.recipe import StackModel
from engine_jobs.tensorrt_llm.settings import EngineSettings


class BenchmarkSettings(StackModel):
    """The tutorial's genai-perf run, by that tool's names for its flags and with its values, run by aiperf after the smoke test."""

    num_prompts: int = Field(default=100, ge=1, description="How many different prompts.")
    random_seed: int = Field(default=123, ge=0, description="The same prompts for the same seed.")
    synthetic_input_tokens_mean: int = Field(default=200, ge=1, description="Tokens of a prompt.")
    synthetic_input_tokens_stddev: int = Field(default=0, ge=0, description="How much they vary.")
    output_tokens_mean: int = Field(default=100, ge=1, description="Tokens of an answer.")
    output_tokens_stddev: int = Field(default=0, ge=0, description="How much they vary.")
    output_tokens_mean_deterministic: bool = Field(default=True, description="Ask for no fewer tokens either.")
    tokenizer: str | None = Field(
        default=None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="Hub id of the tokenizer that makes the prompts and counts; left out: the model's own, at its commit.",
    )
    concurrency: int = Field(default=1, ge=1, description="Requests under way at once.")
    measurement_interval: int = Field(default=4000, ge=1, description="Milliseconds to measure.")
    request_count: int | None = Field(default=None, ge=1, description="Requests to measure, in place of an interval.")
    warmup_request_count: int = Field(default=0, ge=0, description="Requests before those that are measured.")
    streaming: bool = Field(
        default=False, description="Ask for a stream: times to the first token and between tokens too."
    )
    profile_export_file: str = Field(
        default="my_profile_export.json", pattern=r"^[\w.-]+\.json$", description="Name of the result's files."
    )
    timeout_seconds: int = Field(default=3600, ge=1, description="How long the Job may take, in seconds.")


class TritonCliSettings(EngineSettings):
    """What a stack file may say of this recipe."""

    name: Literal["triton-cli"]
    way: Literal["import", "manual"] = Field(
        default="manual",
        description="`import`: one command, `triton import`, and the builder's defaults; `manual`: convert_checkpoint.py, trtllm-build.",
    )
    triton_version: str = Field(
        default="25.02",
        pattern=r"^\d\d\.\d\d$",
        description="Release of Triton (nvcr.io/nvidia/tritonserver:<release>-trtllm-python-py3) that builds and serves.",
    )
    import_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Way `import`: the model's name (triton import -m) and so what is asked; left out: the entry's name.",
    )
    benchmark: BenchmarkSettings | None = Field(
        default=None, description="Measure the served model after its smoke test."
    )
