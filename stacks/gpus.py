"""The catalog of GPU types (`gpus.toml`): what a recipe needs to know to build for one, and to tell whether a model fits."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from engine_jobs.recipe import Gpu

CATALOG = Path(__file__).parent / "gpus.toml"


@cache
def gpus() -> Mapping[str, Mapping[str, str | int]]:
    """Each type by its name on GKE's nodes (label cloud.google.com/gke-accelerator)."""
    catalog: Mapping[str, Mapping[str, str | int]] = tomllib.loads(CATALOG.read_text(encoding="utf-8"))["gpu"]
    return catalog


def known_gpu(name: str) -> str:
    if name not in gpus():
        raise ValueError(f"{name!r} is not in {CATALOG.name}; known: {', '.join(sorted(gpus()))}")
    return name


def gpu(name: str, node_label: str) -> Gpu:
    """A type of the catalog, on nodes that carry its name under `node_label`."""
    entry = gpus()[name]
    return Gpu(
        name=name,
        architecture=str(entry["architecture"]),
        memory_bytes=int(entry["memory_gb"]) * 10**9,
        node_selector={node_label: name},
    )
