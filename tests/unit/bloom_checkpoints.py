"""BLOOM checkpoints for tests: the recorded ones, and variations of them in a temporary folder."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from engine_jobs.fastertransformer.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "ft"
TINY = ROOT / "localcluster" / "models" / "tiny-bloom"
SIX_HEADS = GOLDEN / "six-heads"
CHECKPOINTS = {"tiny-bloom": TINY, "six-heads": SIX_HEADS, "six-heads-bf16": GOLDEN / "six-heads-bf16"}


def golden_sums(name: str, ranks: int, data_type: str) -> dict[str, str]:
    """The sha256 of every file that the reference converter writes, by name."""
    lines = (GOLDEN / f"{name}-tp{ranks}-{data_type}.sha256").read_text(encoding="utf-8").splitlines()
    return {file: digest for digest, file in (line.split("  ") for line in lines)}


def sums(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def copied(source: Path, target: Path) -> Path:
    """A checkpoint's folder, to be spoilt."""
    shutil.copytree(source, target)
    return target


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    edit(config)
    path.write_text(json.dumps(config), encoding="utf-8")


def arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """An fp32 or fp16 checkpoint's tensors by name."""
    kinds: dict[str, type[np.generic]] = {"F32": np.float32, "F16": np.float16}
    return {name: t.raw().view(kinds[t.dtype]).copy() for name, t in Checkpoint.open(folder).tensors.items()}


def as_shards(source: Path, target: Path, count: int, prefix: str = "transformer.") -> Path:
    """The checkpoint as `count` safetensors shards with an index, tensors dealt out in turn."""
    target.mkdir()
    shutil.copyfile(source / "config.json", target / "config.json")
    weight_map: dict[str, str] = {}
    dealt: list[dict[str, NDArray[Any]]] = [{} for _ in range(count)]
    for number, (name, array) in enumerate(arrays(source).items()):
        dealt[number % count][prefix + name] = array
    for number, shard in enumerate(dealt, 1):
        file = f"model-{number:05}-of-{count:05}.safetensors"
        save_file(shard, target / file)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return target
