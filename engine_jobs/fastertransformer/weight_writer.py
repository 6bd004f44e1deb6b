"""Writes FasterTransformer's weight files from a checkpoint's tensors, each by one of several processes.

A file's tensor is mapped and worked on in blocks of about a megabyte, so a process holds hardly more than the mapped pages of
one tensor, and lets go of them with the file. One process writes a file: the kernel lets only one write to it at a time.
"""

import ctypes
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine_jobs.errors import UserError
from engine_jobs.fastertransformer.checkpoint import StoredTensor
from engine_jobs.fastertransformer.layout import ITEM_SIZES, Cut, Dimensions, WeightFile

Bits = NDArray[np.unsignedinteger[Any]]

MAPPED_BYTES = 32 * 2**20
"""Of a tensor that is written as it lies, mapped at a time."""
BLOCK_ITEMS = 2**19
LANE_BYTES = 16
"""Transposing moves whole lanes first, then turns each around in the cache: five times as fast as numpy's own way."""
TILE_ROWS = 256
SAME_TYPE = (("F16", "fp16"), ("F32", "fp32"))


@dataclass(frozen=True, kw_only=True)
class WeightJob:
    """One weight file to write into the folder `target`, from its tensor, for `ranks` GPUs in type `data_type`."""

    target: Path
    file: WeightFile
    tensor: StoredTensor
    dimensions: Dimensions
    ranks: int
    data_type: str

    @property
    def size(self) -> int:
        return self.file.items * ITEM_SIZES[self.data_type]


def write_files(jobs: tuple[WeightJob, ...]) -> int:
    """Writes the files and returns the bytes written. Runs in a worker process."""
    written = 0
    for job in jobs:
        with (job.target / job.file.name).open("xb") as file:
            if job.file.cut is Cut.WHOLE and (job.tensor.dtype, job.data_type) in SAME_TYPE:
                written += _send(job.tensor, file)
                continue
            for block in _blocks(job):
                written += file.write(converted(block, job.tensor.dtype, job.data_type).data)
    return written


def _send(tensor: StoredTensor, file: BufferedWriter) -> int:
    """Has the kernel copy a tensor's bytes as they are, without mapping them. Raises UserError where the shard has shrunk."""
    sent = 0
    with tensor.file.open("rb") as source:
        while sent < tensor.size:
            count = os.sendfile(file.fileno(), source.fileno(), tensor.start + sent, tensor.size - sent)
            if not count:
                raise UserError(f"{tensor.file} became shorter while it was read. Fetch it again.")
            sent += count
    return sent


def sync_file(path: Path) -> None:
    """Brings a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def prepare_worker() -> None:
    """Has the kernel end this worker when the converter is killed: else it would wait for work for ever, on its lock.

    And has the C library keep the blocks' memory for the next block, in place of a page fault for each page again.
    """
    library = ctypes.CDLL(None)
    pr_set_pdeathsig, m_trim_threshold, m_mmap_threshold = 1, -1, -3
    library.prctl(pr_set_pdeathsig, signal.SIGKILL)
    library.mallopt(m_mmap_threshold, 32 * 2**20)
    library.mallopt(m_trim_threshold, 64 * 2**20)


def _blocks(job: WeightJob) -> Iterator[Bits]:
    """The file's numbers as the checkpoint has them, in the file's order, as contiguous blocks."""
    if job.file.cut is Cut.WHOLE:
        yield from _rows(job.tensor)
        return
    raw = job.tensor.raw()
    rows = _source_rows(job)
    if raw.ndim == 1:
        yield np.concatenate([raw[part] for part in rows])
        return
    first, columns = 0, raw.shape[1]
    if job.file.cut is Cut.IN:
        columns = job.file.shape[0]
        first = job.file.rank * columns
    width = sum(part.stop - part.start for part in rows)
    step = max(64, BLOCK_ITEMS // width // 64 * 64)
    for start in range(first, first + columns, step):
        yield transposed(raw, rows, start, min(start + step, first + columns))


def _rows(tensor: StoredTensor) -> Iterator[Bits]:
    """The tensor as it lies, block by block, a part of it mapped at a time."""
    rows, row_items = tensor.shape[0], math.prod(tensor.shape[1:])
    at_once, step = max(1, MAPPED_BYTES // (row_items * 4)), max(1, BLOCK_ITEMS // row_items)
    for first in range(0, rows, at_once):
        mapped = tensor.raw(first, min(first + at_once, rows))
        for start in range(0, len(mapped), step):
            yield mapped[start : start + step]


def _source_rows(job: WeightJob) -> list[slice]:
    """The rows, along Hugging Face's out axis, that a rank's file holds, in its order."""
    file, size = job.file, job.dimensions
    if file.cut is Cut.HEADS:
        d, own = size.head_width, size.heads // job.ranks
        heads = range(file.rank * own, (file.rank + 1) * own)
        starts = [(3 * head + kind) * d for kind in range(3) for head in heads]
        return [slice(start, start + d) for start in starts]
    share = job.tensor.shape[0] // (job.ranks if file.cut is Cut.OUT else 1)
    first = file.rank * share if file.cut is Cut.OUT else 0
    return [slice(first, first + share)]


def transposed(raw: Bits, rows: list[slice], first: int, stop: int) -> Bits:
    """Columns `first` to `stop` of the given rows of `raw` [out, in], transposed: [stop - first, total rows]."""
    lane = LANE_BYTES // raw.itemsize
    columns = stop - first
    if raw.shape[1] % lane or first % lane or columns % lane:
        # Joined first: numpy would keep the parts' order in memory, and with it the order of the checkpoint.
        return np.ascontiguousarray(np.concatenate([raw[part, first:stop] for part in rows]).T)
    lanes = raw.view(np.complex128)[:, first // lane : stop // lane]
    width = sum(part.stop - part.start for part in rows)
    staged = np.empty((columns // lane, width), np.complex128)
    at = 0
    for part in rows:
        for start in range(part.start, part.stop, TILE_ROWS):
            tile = lanes[start : min(start + TILE_ROWS, part.stop)]
            staged[:, at : at + len(tile)] = tile.T
            at += len(tile)
    turned = staged.view(raw.dtype).reshape(columns // lane, width, lane).transpose(0, 2, 1)
    return np.ascontiguousarray(turned).reshape(columns, width)


_HALF_AS_SINGLE = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


def converted(bits: Bits, source: str, data_type: str) -> NDArray[Any]:
    """Numbers of type `source` (F32, F16, BF16; given as bits) as `data_type`, rounded to nearest even as torch does."""
    if (source, data_type) in SAME_TYPE:
        return np.ascontiguousarray(bits)
    if source == "F16":
        return _HALF_AS_SINGLE[bits]
    single = (bits.astype(np.uint32) << 16 if source == "BF16" else np.ascontiguousarray(bits)).view(np.float32)
    if data_type == "fp32":
        return single
    with np.errstate(over="ignore"):
        return single.astype(np.float16)
