"""Between Triton's tensors and Python's values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine_jobs.errors import UserError

Tensors = Mapping[str, NDArray[Any]]


def texts(name: str, tensor: NDArray[Any]) -> list[list[str]]:
    """A BYTES tensor [rows, n] as text. Raises UserError for bytes that are not UTF-8."""
    if tensor.ndim != 2:
        raise UserError(f"{name} has shape {list(tensor.shape)}; it must be [rows, n]")
    return [[_text(name, each) for each in row] for row in tensor]


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text: {error}") from None


def bytes_tensor(rows: Sequence[Sequence[str]]) -> NDArray[Any]:
    """Text as a BYTES tensor [rows, n]."""
    return np.array([[text.encode() for text in row] for row in rows], dtype=np.object_).reshape(len(rows), -1)


def column(name: str, tensor: NDArray[Any], rows: int) -> list[int]:
    """A tensor of one integer a row. Raises UserError for another number of them."""
    values = tensor.reshape(-1)
    if len(values) != rows:
        raise UserError(f"{name} has {len(values)} values for {rows} rows; it takes one a row")
    return [int(value) for value in values]


def padded(rows: Sequence[Sequence[int]], filling: int, *, at_least: int = 0) -> NDArray[np.int32]:
    """Rows of unequal length as one INT32 tensor [rows, longest], filled up on the right."""
    width = max([at_least, *(len(row) for row in rows)])
    table = np.full((len(rows), width), filling, dtype=np.int32)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table
