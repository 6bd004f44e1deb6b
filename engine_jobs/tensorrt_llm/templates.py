"""The five models of the inflight_batcher_llm repository as `templates/*.toml` describe them, for one version of TensorRT-LLM."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from engine_jobs.tensorrt_llm.flags import FlagValue, accepted
from engine_jobs.tensorrt_llm.versions import version_key

TEMPLATES: Final = Path(__file__).parent / "templates"
MODELS: Final = ("preprocessing", "postprocessing", "tensorrt_llm", "tensorrt_llm_bls", "ensemble")


@dataclass(frozen=True, kw_only=True)
class TemplateTensor:
    """`type` is Triton's without `TYPE_`, or a variable; `dims` those of a request's row, with `scalar` not seen by the backend."""

    name: str
    type: str
    dims: tuple[int, ...]
    scalar: bool = False
    optional: bool = False
    ragged: bool = False


@dataclass(frozen=True, kw_only=True)
class EnsembleStep:
    """A model of the ensemble: which tensor of the ensemble each of its own is."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Template:
    """One model's configuration with variables in it (`${name}`). `queue`: None without dynamic batching, else whether its delay
    and size are variables."""

    name: str
    backend: str
    platform: str
    decoupled: str | None
    instances: str | None
    queue: bool | None
    inputs: tuple[TemplateTensor, ...]
    outputs: tuple[TemplateTensor, ...]
    parameters: Mapping[str, str]
    steps: tuple[EnsembleStep, ...]


def template(model: str, version: str) -> Template:
    """The template of one of MODELS. `version` is a described one."""
    data = _data(model)
    queues = [row["queue"] for row in _rows(data.get("dynamic_batching", ()), version)]
    return Template(
        name=model,
        backend=data.get("backend", ""),
        platform=data.get("platform", ""),
        decoupled=data.get("decoupled"),
        instances=data.get("instances"),
        queue=queues[0] if queues else None,
        inputs=_tensors(data["inputs"], version),
        outputs=_tensors(data["outputs"], version),
        parameters={row["key"]: row["value"] for row in _rows(data.get("parameters", ()), version)},
        steps=tuple(
            EnsembleStep(model=name, inputs=_map(step["inputs"], version), outputs=_map(step["outputs"], version))
            for name, step in data.get("steps", {}).items()
        ),
    )


def filled_variables(values: Mapping[str, FlagValue], version: str, managed: Mapping[str, str]) -> dict[str, str]:
    """Every variable of the version's templates with its text: what was given, the recipe's own (`managed`), or the default.
    One that has neither is missing here: its parameter is left out. The values must have passed `flags.check`."""
    filled: dict[str, str] = dict(managed)
    for name, variable in accepted("serving", version).items():
        value = values.get(name, variable.default)
        if value is not None and not variable.managed:
            filled[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return filled


def _tensors(rows: list[dict[str, Any]], version: str) -> tuple[TemplateTensor, ...]:
    return tuple(TemplateTensor(**{**row, "dims": tuple(row["dims"])}) for row in _rows(rows, version))


def _map(rows: list[dict[str, Any]], version: str) -> dict[str, str]:
    return {row["tensor"]: row["of"] for row in _rows(rows, version)}


def _rows(rows: Any, version: str) -> Iterator[dict[str, Any]]:
    """The rows that the version has, without what says so."""
    for row in rows:
        since, until = row.get("since", "0"), row.get("until", "999")
        if version_key(since) <= version_key(version) < version_key(until):
            yield {key: value for key, value in row.items() if key not in ("since", "until")}


@cache
def _data(model: str) -> dict[str, Any]:
    return tomllib.loads((TEMPLATES / f"{model}.toml").read_text(encoding="utf-8"))
