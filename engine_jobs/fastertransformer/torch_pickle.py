"""Finds the tensors of a pytorch_model.bin without torch, and without running anything that the file asks for.

Such a file is a zip (torch 1.6 and later): `<top>/data.pkl` is a pickled dict of tensors, whose numbers lie uncompressed in
`<top>/data/<key>`. The unpickler below knows the four names that a state dict needs and refuses every other.
Source: torch/serialization.py (_save, _load) and torch/_utils.py (_rebuild_tensor_v2, _rebuild_parameter).
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine_jobs.errors import UserError
from engine_jobs.safetensors_header import DTYPE_BITS, TensorEntry

STORAGES: Final = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
"""safetensors' name of a type by that of torch's storage."""

LOCAL_HEADER_BYTES = 30
"""Of a zip member, before its name and extra field (APPNOTE.TXT 4.3.7)."""


@dataclass(frozen=True, kw_only=True)
class _StorageType:
    dtype: str


@dataclass(frozen=True, kw_only=True)
class _Storage:
    dtype: str
    key: str
    items: int


@dataclass(frozen=True, kw_only=True)
class _View:
    """A tensor's view of a storage; offset and stride in items."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> _View:
    return _View(storage=storage, offset=offset, shape=tuple(shape), stride=tuple(stride))


def _rebuild_parameter(data: _View, *_: object) -> _View:
    return data


KNOWN: Final[dict[tuple[str, str], Callable[..., Any]]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


class _StateDictUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return _StorageType(dtype=STORAGES[name])
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no plain state dict needs")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, items = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError(f"unknown persistent id {pid!r}")
        return _Storage(dtype=storage_type.dtype, key=str(key), items=int(items))


def read_torch_file(path: Path) -> dict[str, TensorEntry]:
    """The file's tensors by name. Raises UserError where it is cut, corrupt, or more than a state dict of plain tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            top = next((name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")), None)
            if top is None:
                raise _unreadable(path, "there is no data.pkl in it")
            if members.get(f"{top}byteorder") and archive.read(f"{top}byteorder") != b"little":
                raise _unreadable(path, "its numbers are not little-endian")
            state = _StateDictUnpickler(io.BytesIO(archive.read(f"{top}data.pkl"))).load()
        if not isinstance(state, dict):
            raise _unreadable(path, "it does not hold a dict of tensors")
        entries = {}
        with path.open("rb") as file:
            for name, view in state.items():
                if isinstance(view, _View):
                    entries[str(name)] = _locate(
                        path, file, members.get(f"{top}data/{view.storage.key}"), str(name), view
                    )
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError) as error:
        raise _unreadable(path, str(error)) from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}") from None
    return entries


def _locate(path: Path, file: io.BufferedReader, member: zipfile.ZipInfo | None, name: str, view: _View) -> TensorEntry:
    storage = view.storage
    item = DTYPE_BITS[storage.dtype] // 8
    if member is None:
        raise _unreadable(path, f"the numbers of tensor {name} are missing")
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != storage.items * item:
        raise _unreadable(path, f"the numbers of tensor {name} are compressed or cut")
    contiguous = tuple(math.prod(view.shape[axis + 1 :]) for axis in range(len(view.shape)))
    if any(
        step != expected for step, expected, size in zip(view.stride, contiguous, view.shape, strict=True) if size > 1
    ):
        raise _unreadable(path, f"tensor {name} is not contiguous")
    items = math.prod(view.shape)
    if not 0 <= view.offset <= view.offset + items <= storage.items:
        raise _unreadable(path, f"tensor {name} reaches beyond its storage")
    file.seek(member.header_offset)
    header = file.read(LOCAL_HEADER_BYTES)
    if len(header) < LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
        raise _unreadable(path, f"the zip header before tensor {name} is damaged")
    data = (
        member.header_offset
        + LOCAL_HEADER_BYTES
        + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    )
    start = data + view.offset * item
    if start + items * item > path.stat().st_size:
        raise _unreadable(path, f"it ends before the numbers of tensor {name}")
    return TensorEntry(dtype=storage.dtype, shape=view.shape, start=start, end=start + items * item)


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} cannot be read: {reason}. Fetch it again; if it is the same then, load it with torch in a place that you "
        "trust it in, and save it as safetensors (save_pretrained)."
    )
