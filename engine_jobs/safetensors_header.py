"""Reads and checks a safetensors file's header without its data.

A file is `n` (8 bytes, little endian), `n` bytes of JSON, then the tensors' bytes without a gap
(https://github.com/huggingface/safetensors#format). A cut download or a damaged header shows in the sums below.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_jobs.errors import UserError

MAX_HEADER_BYTES = 100_000_000
"""The bound of the reference implementation (safetensors/src/tensor.rs, MAX_HEADER_SIZE)."""

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Where a tensor lies: its type's name, its shape, and its bytes as offsets from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The file's tensors by name, in the order of their bytes. Raises UserError where the file is cut or corrupt."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise _corrupt(path, f"its header should be {length} bytes long, and the whole file has {size}")
        text = file.read(length)
    try:
        fields = json.loads(text)
        fields.pop("__metadata__", None)
        entries = {name: _entry(field, 8 + length) for name, field in fields.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(path, f"its header can't be read ({type(error).__name__}: {error})") from error
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    expected = 8 + length
    for name, entry in ordered.items():
        bits = math.prod(entry.shape) * DTYPE_BITS[entry.dtype]
        if entry.start != expected or (entry.end - entry.start) * 8 != bits:
            raise _corrupt(path, f"the header's offsets and shape of tensor {name} contradict each other")
        expected = entry.end
    if expected != size:
        raise _corrupt(path, f"its header describes {expected} bytes, the file has {size}")
    return ordered


def _entry(field: dict[str, Any], data_start: int) -> TensorEntry:
    start, end = field["data_offsets"]
    shape = tuple(field["shape"])
    if not all(isinstance(number, int) and number >= 0 for number in (start, end, *shape)):
        raise ValueError(f"negative or fractional numbers in {field}")
    if field["dtype"] not in DTYPE_BITS:
        raise ValueError(f"unknown dtype {field['dtype']!r}")
    return TensorEntry(dtype=field["dtype"], shape=shape, start=data_start + start, end=data_start + end)


def _corrupt(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is not a whole safetensors file: {reason}. "
        "Fetch it again; if it is the same then, the checkpoint's author has to upload it anew."
    )
