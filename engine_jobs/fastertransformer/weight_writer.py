"""Writes FasterTransformer's weight files from a checkpoint's tensors, in pieces and by several processes.

A piece is some rows of one output file. It maps one tensor, or the rows of it that it needs, and works in blocks of about
a megabyte, so a process holds hardly more than the mapped pages of one tensor, and lets go of them with the piece.
"""

import ctypes
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine_jobs.fastertransformer.checkpoint import StoredTensor
from engine_jobs.fastertransformer.layout import ITEM_SIZES, Cut, Dimensions, WeightFile

Bits = NDArray[np.unsignedinteger[Any]]

PIECE_BYTES = 64 * 2**20
BLOCK_ITEMS = 2**19
LANE_BYTES = 16
"""Transposing moves whole lanes first, then turns each around in the cache: five times as fast as numpy's own way."""
TILE_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Rows `first` to `stop`, along the first axis, of one weight file that exists at its full size."""

    target: Path
    file: WeightFile
    tensor: StoredTensor
    dimensions: Dimensions
    ranks: int
    data_type: str
    first: int
    stop: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.file.shape[1:]) * ITEM_SIZES[self.data_type]

    @property
    def size(self) -> int:
        return (self.stop - self.first) * self.row_bytes


def pieces_of(
    target: Path, file: WeightFile, tensor: StoredTensor, dimensions: Dimensions, ranks: int, data_type: str
) -> Iterator[Piece]:
    """The pieces, each of PIECE_BYTES at most, that make up one file in the folder `target`."""
    rows = file.shape[0]
    row_bytes = math.prod(file.shape[1:]) * ITEM_SIZES[data_type]
    lane = LANE_BYTES // 2
    step = max(lane, PIECE_BYTES // row_bytes // lane * lane)
    for first in range(0, rows, step):
        yield Piece(
            target=target / file.name,
            file=file,
            tensor=tensor,
            dimensions=dimensions,
            ranks=ranks,
            data_type=data_type,
            first=first,
            stop=min(first + step, rows),
        )


def write_pieces(pieces: tuple[Piece, ...]) -> int:
    """Writes the pieces into their files and returns the bytes written. Runs in a worker process."""
    written = 0
    for piece in pieces:
        with piece.target.open("r+b") as file:
            file.seek(piece.first * piece.row_bytes)
            for block in _blocks(piece):
                written += file.write(converted(block, piece.tensor.dtype, piece.data_type).data)
    return written


def sync_file(path: Path) -> None:
    """Brings a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def die_with_parent() -> None:
    """Has the kernel end this worker when the converter is killed: else it would wait for work for ever, on its lock."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _blocks(piece: Piece) -> Iterator[Bits]:
    """The piece's numbers as the checkpoint has them, in the output's order, as contiguous blocks."""
    if piece.file.cut is Cut.WHOLE:
        raw = piece.tensor.raw(piece.first, piece.stop)
        step = max(1, BLOCK_ITEMS // math.prod(raw.shape[1:]))
        for first in range(0, len(raw), step):
            yield raw[first : first + step]
        return
    raw = piece.tensor.raw()
    rows, offset = _source_rows(piece), 0
    if raw.ndim == 1:
        flat = np.concatenate([raw[part] for part in rows])
        yield flat.reshape(piece.file.shape)[piece.first : piece.stop]
        return
    if piece.file.cut is Cut.IN:
        offset = piece.file.rank * piece.file.shape[0]
    width = sum(part.stop - part.start for part in rows)
    step = max(64, BLOCK_ITEMS // width // 64 * 64)
    for first in range(piece.first, piece.stop, step):
        yield transposed(raw, rows, offset + first, offset + min(first + step, piece.stop))


def _source_rows(piece: Piece) -> list[slice]:
    """The rows, along Hugging Face's out axis, that a rank's file holds, in its order."""
    file, size = piece.file, piece.dimensions
    if file.cut is Cut.HEADS:
        d, own = size.head_width, size.heads // piece.ranks
        heads = range(file.rank * own, (file.rank + 1) * own)
        starts = [(3 * head + kind) * d for kind in range(3) for head in heads]
        return [slice(start, start + d) for start in starts]
    share = piece.tensor.shape[0] // (piece.ranks if file.cut is Cut.OUT else 1)
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
    if (source, data_type) in (("F16", "fp16"), ("F32", "fp32")):
        return np.ascontiguousarray(bits)
    if source == "F16":
        return _HALF_AS_SINGLE[bits]
    single = (bits.astype(np.uint32) << 16 if source == "BF16" else np.ascontiguousarray(bits)).view(np.float32)
    if data_type == "fp32":
        return single
    with np.errstate(over="ignore"):
        return single.astype(np.float16)
