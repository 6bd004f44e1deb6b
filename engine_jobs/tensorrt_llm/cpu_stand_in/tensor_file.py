"""Safetensors files with numpy alone, bfloat16 included (numpy has no such type: it is read into and written from fp32)."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine_jobs.errors import UserError
from engine_jobs.safetensors_header import TensorEntry, read_header

Floats = NDArray[np.float32]

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""TensorRT-LLM's names of the types, and safetensors' own."""

_NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class TensorFile:
    """A file's tensors by name, each read when it is asked for. Raises UserError for a file that is cut or corrupt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = read_header(path)
        self._bytes = np.memmap(path, np.uint8, "r")

    def read(self, name: str) -> Floats:
        """Raises UserError for a type that is none of fp32, fp16 and bf16."""
        entry = self.entries[name]
        if entry.dtype not in _NUMPY:
            raise UserError(
                f"{self.path}: {name} is {entry.dtype}, and only {', '.join(_NUMPY)} are read here. A quantized checkpoint "
                "needs the real TensorRT-LLM: use a GPU stack."
            )
        return _widened(self._bytes[entry.start : entry.end], entry)

    def metadata(self) -> dict[str, str]:
        with self.path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return dict(header.get("__metadata__", {}))


def write_tensors(path: Path, tensors: Mapping[str, Floats], dtype: str, metadata: Mapping[str, str]) -> None:
    """Writes fp32 tensors in another of `TYPES`, rounded to the nearest (to even in a tie, as torch does)."""
    kind = TYPES[dtype]
    size = np.dtype(_NUMPY[kind]).itemsize
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, tensor in tensors.items():
        end = start + math.prod(tensor.shape) * size
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(_narrowed(tensor, kind).tobytes())


def _widened(data: NDArray[np.uint8], entry: TensorEntry) -> Floats:
    values = data.view(_NUMPY[entry.dtype]).reshape(entry.shape)
    if entry.dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _narrowed(tensor: Floats, kind: str) -> NDArray[Any]:
    if kind != "BF16":
        with np.errstate(over="ignore"):
            return tensor.astype(_NUMPY[kind])
    bits = np.ascontiguousarray(tensor, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(tensor), np.uint32(0x7FC0), rounded).astype("<u2")
