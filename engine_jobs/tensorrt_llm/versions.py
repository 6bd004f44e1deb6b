"""Triton releases and the TensorRT-LLM in their images, as data (`data/releases.toml`)."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from engine_jobs.errors import UserError

RELEASES: Final = Path(__file__).parent / "data" / "releases.toml"

EXAMPLES_DIR: Final = "/opt/tensorrt_llm"
"""Where the images of this project have the examples of their TensorRT-LLM's source tree."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """A Triton release whose TensorRT-LLM is known here. `described`: the version whose flags and templates are its own."""

    triton: str
    tensorrt_llm: str
    described: str

    @property
    def image(self) -> str:
        """The project's image that builds with it and serves with it."""
        return f"triton-trtllm-{self.triton}"

    @property
    def convert_script(self) -> str:
        """The path of the Llama converter in that image."""
        return f"{EXAMPLES_DIR}/{_data()['convert_script'][self.described]}"


def version_key(version: str) -> tuple[int, ...]:
    """A version's numbers, so that versions compare; `.post1` and the like are left aside."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def same_version(one: str, other: str) -> bool:
    """Whether engines of the one are read by the other: equal but for a post release, which is packaged anew."""
    return version_key(one) == version_key(other)


def releases() -> dict[str, Release]:
    """The releases that can be built for, by Triton's release, oldest first."""
    return {
        triton: Release(triton=triton, tensorrt_llm=entry["tensorrt_llm"], described=entry["like"])
        for triton, entry in _data()["releases"].items()
        if "like" in entry
    }


def pinned_release(triton: str, tensorrt_llm: str | None) -> Release:
    """The release that a stack file pins. Raises UserError for one that is not known, and where `tensorrt_llm` (None: not
    given) is not the version in that release's image."""
    known: dict[str, Any] = _data()["releases"]
    supported = releases()
    if triton not in known:
        raise UserError(f"tritonVersion: {triton!r} is not in {RELEASES.name}; supported: {', '.join(supported)}")
    inside = known[triton]["tensorrt_llm"]
    if tensorrt_llm is not None and not same_version(tensorrt_llm, inside):
        fitting = [name for name, entry in known.items() if same_version(entry["tensorrt_llm"], tensorrt_llm)]
        where = f"take tritonVersion {' or '.join(fitting)}, or " if fitting else ""
        raise UserError(
            f"tensorrtLlmVersion: Triton {triton} has TensorRT-LLM {inside} in its image, and not {tensorrt_llm}: an engine of the "
            f"one can't be read by the other; {where}leave tensorrtLlmVersion out"
        )
    if triton not in supported:
        raise UserError(
            f"tritonVersion: the flags and templates of TensorRT-LLM {inside} (Triton {triton}) are not described here; "
            f"supported: {', '.join(f'{r.triton} ({r.tensorrt_llm})' for r in supported.values())}"
        )
    return supported[triton]


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(RELEASES.read_text(encoding="utf-8"))
