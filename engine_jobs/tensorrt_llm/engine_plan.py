"""What will be built and how it will be served, as the checks of limits and memory see it: given values, else the defaults."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine_jobs.tensorrt_llm.flags import FlagValue, accepted, default
from engine_jobs.tensorrt_llm.versions import Release


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """The mappings have passed `flags.check`."""

    release: Release
    convert: Mapping[str, FlagValue]
    build: Mapping[str, FlagValue]
    serving: Mapping[str, FlagValue]
    tensor_parallel: int = 1
    pipeline_parallel: int = 1

    @property
    def world_size(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel

    def built(self, name: str) -> Any:
        """A flag of trtllm-build that has a known default."""
        return self.build[name] if name in self.build else default(name, self.release.described)

    def served(self, name: str) -> Any:
        """A template variable; None where it is not set and has no default, or the version has none of that name."""
        variable = accepted("serving", self.release.described).get(name)
        return self.serving.get(name, variable.default if variable else None)

    def on(self, name: str) -> bool:
        """Whether an `enable`/`disable` flag of trtllm-build is on."""
        return bool(self.built(name) == "enable")

    def built_on(self, name: str) -> bool:
        """Whether an `enable`/`disable` flag of trtllm-build was given and is on."""
        return self.build.get(name) == "enable"

    def on_both(self, name: str, other: str) -> bool:
        """Whether one flag is on and the other one given."""
        return self.built_on(name) and other in self.build

    @property
    def in_flight(self) -> bool:
        return str(self.served("batching_strategy")).startswith("inflight")

    @property
    def chunked_context(self) -> bool:
        """Whether a prompt may be computed in pieces: the backend's switch, and an engine made for it."""
        return self.served("enable_chunked_context") is True and self.on("use_paged_context_fmha")

    def max_seq_len(self, max_positions: int | None) -> int | None:
        """Tokens of prompt and answer; trtllm-build takes the model's own limit where none is given."""
        given = self.build.get("max_seq_len")
        return given if isinstance(given, int) else max_positions

    def data_type(self, checkpoint: str) -> str:
        """What the engine computes in: `auto` is the checkpoint's type, float32 becoming float16."""
        dtype = str(self.convert.get("dtype", default("dtype", self.release.described)))
        if dtype != "auto":
            return dtype
        return "float16" if checkpoint == "float32" else checkpoint
