"""A BLOOM checkpoint as Hugging Face stores it: its config.json, and where each of its tensors lies on disk.

Nothing is loaded here: tensors are found in the headers of safetensors shards or in the pickle of pytorch_model.bin, and
`raw` maps one of them into memory. Neither torch nor transformers is imported.
"""

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from engine_jobs.errors import UserError
from engine_jobs.fastertransformer.layout import Dimensions, tensor_shapes
from engine_jobs.fastertransformer.torch_pickle import read_torch_file
from engine_jobs.safetensors_header import read_header

CONFIG = "config.json"
SUPPORTED_TYPES = {"F32": 4, "F16": 2, "BF16": 2}
"""Item size in bytes by safetensors' name of the type."""

TIED_HEAD = "lm_head.weight"
"""A copy of the embedding. FasterTransformer would load it whenever it is there and answer garbage (FasterTransformer#634)."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in C order: `dtype` is F32, F16 or BF16, `start` the offset in bytes of its first item in `file`."""

    name: str
    file: Path
    start: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * SUPPORTED_TYPES[self.dtype]

    def raw(self, first: int = 0, stop: int | None = None) -> NDArray[np.unsignedinteger[Any]]:
        """Rows `first` to `stop` of the tensor, mapped into memory, as unsigned integers of the item's size."""
        item = SUPPORTED_TYPES[self.dtype]
        rows = (self.shape[0] if stop is None else stop) - first
        items = rows * math.prod(self.shape[1:])
        start = self.start + first * math.prod(self.shape[1:]) * item
        page = start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        # Populated at once: read ahead in one go, where touching page by page would cost a fault each.
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        with self.file.open("rb") as file:
            mapped = mmap.mmap(
                file.fileno(), start - page + items * item, flags=flags, prot=mmap.PROT_READ, offset=page
            )
        kind = np.dtype("<u2" if item == 2 else "<u4")
        return np.frombuffer(mapped, kind, items, start - page).reshape(rows, *self.shape[1:])


@dataclass(frozen=True, kw_only=True)
class BloomConfig:
    """What config.json says of a BLOOM, by Hugging Face's names and defaults (transformers' BloomConfig)."""

    dimensions: Dimensions
    name_or_path: str
    layer_norm_epsilon: float
    post_layer_norm: bool
    start_id: int
    end_id: int
    tied: bool

    @classmethod
    def read(cls, folder: Path) -> "BloomConfig":
        """Raises UserError that names the file and the key where config.json is missing or not a BLOOM's."""
        source = folder / CONFIG
        fields = _read_json(source)
        model_type = fields.get("model_type")
        if model_type != "bloom":
            raise UserError(
                f"{source}: model_type is {model_type!r}, and this converter takes 'bloom' only. Choose a BLOOM checkpoint."
            )
        dimensions = Dimensions(
            layers=_whole_number(source, fields, "num_hidden_layers", "n_layer"),
            heads=_whole_number(source, fields, "num_attention_heads", "n_head"),
            hidden=_whole_number(source, fields, "n_embed", "hidden_size"),
            vocabulary=_whole_number(source, fields, "vocab_size"),
        )
        if dimensions.hidden % dimensions.heads:
            raise UserError(
                f"{source}: the hidden size {dimensions.hidden} is no multiple of the {dimensions.heads} heads. "
                "Correct n_head or hidden_size."
            )
        inner = fields.get("n_inner")
        if inner not in (None, 4 * dimensions.hidden):
            raise UserError(f"{source}: n_inner is {inner!r}; FasterTransformer's BLOOM has 4 x hidden size there.")
        return cls(
            dimensions=dimensions,
            name_or_path=str(fields.get("_name_or_path", fields.get("name_or_path", ""))),
            layer_norm_epsilon=_number(source, fields, "layer_norm_epsilon", 1e-5),
            post_layer_norm=bool(fields.get("apply_residual_connection_post_layernorm", False)),
            start_id=_token_id(source, fields, "bos_token_id", 1),
            end_id=_token_id(source, fields, "eos_token_id", 2),
            tied=bool(fields.get("tie_word_embeddings", True)),
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A BLOOM checkpoint; `tensors` by their names without `transformer.`, each with the shape that the config demands."""

    folder: Path
    config: BloomConfig
    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]
    ignored: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Raises UserError for anything that would make a conversion wrong, before a byte of it is written."""
        config = BloomConfig.read(folder)
        files, stored = _stored_tensors(folder)
        named = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
        if TIED_HEAD in named and not config.tied:
            raise UserError(
                f"{folder / CONFIG}: tie_word_embeddings is false, but FasterTransformer's BLOOM uses the embedding as its head."
            )
        shapes = tensor_shapes(config.dimensions)
        for name, shape in shapes.items():
            tensor = named.get(name)
            if tensor is None:
                raise UserError(
                    f"{folder} has no tensor {name}, which {CONFIG} calls for. "
                    "Is a shard missing, or do n_layer and the weights belong to different models?"
                )
            if tensor.shape != shape:
                raise UserError(
                    f"{tensor.file}: tensor {tensor.name} has shape {list(tensor.shape)}, and {CONFIG} calls for {list(shape)}."
                )
            if tensor.dtype not in SUPPORTED_TYPES:
                raise UserError(
                    f"{tensor.file}: tensor {tensor.name} is {tensor.dtype}; "
                    f"the converter takes {', '.join(SUPPORTED_TYPES)}. Save the checkpoint in one of these."
                )
        return cls(
            folder=folder,
            config=config,
            files=files,
            tensors={name: named[name] for name in shapes},
            ignored=tuple(sorted(named.keys() - shapes.keys() - {TIED_HEAD})),
        )


def _stored_tensors(folder: Path) -> tuple[tuple[Path, ...], dict[str, StoredTensor]]:
    """The shards and their tensors: safetensors where there are any, else pytorch_model.bin, each whole or with an index."""
    for whole, other in (("model.safetensors", "*.safetensors"), ("pytorch_model.bin", "pytorch_model*.bin")):
        if (folder / whole).exists():
            return (folder / whole,), _read_shard(folder / whole)
        index = folder / f"{whole}.index.json"
        if index.exists():
            return _read_indexed(index)
        shards = tuple(sorted(folder.glob(other)))
        if shards:
            return shards, {name: tensor for shard in shards for name, tensor in _read_shard(shard).items()}
    raise UserError(
        f"{folder} has no model.safetensors, model.safetensors.index.json, pytorch_model.bin or pytorch_model.bin.index.json. "
        "Give the folder of a downloaded checkpoint as --input-dir."
    )


def _read_indexed(index: Path) -> tuple[tuple[Path, ...], dict[str, StoredTensor]]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise UserError(f"{index} has no weight_map from tensors to shards. Fetch it again.")
    shards: dict[str, dict[str, StoredTensor]] = {}
    for name in sorted(set(weight_map.values())):
        path = index.parent / name
        if not path.exists():
            raise UserError(f"{path} is missing, and {index.name} names it. Fetch the checkpoint again.")
        shards[name] = _read_shard(path)
    for tensor, shard in weight_map.items():
        if tensor not in shards[shard]:
            raise UserError(
                f"{index} says that {tensor} is in {shard}, which does not have it. Fetch both again: they do not belong together."
            )
    tensors = {tensor: shards[shard][tensor] for tensor, shard in weight_map.items()}
    return tuple(index.parent / name for name in shards), tensors


def _read_shard(path: Path) -> dict[str, StoredTensor]:
    entries = read_header(path) if path.suffix == ".safetensors" else read_torch_file(path)
    return {
        name: StoredTensor(name=name, file=path, start=entry.start, dtype=entry.dtype, shape=entry.shape)
        for name, entry in entries.items()
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Give the folder of a downloaded checkpoint.") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}. Fetch it again.") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path} is not a JSON object. Fetch it again.")
    return cast(dict[str, Any], fields)


def _whole_number(source: Path, fields: dict[str, Any], *names: str) -> int:
    """The first of `names` that is there: Hugging Face gives a key's alias precedence in this order."""
    for name in names:
        value = fields.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{source}: {name} is {value!r}, and must be a whole number above 0.")
            return value
    raise UserError(
        f"{source} has no {' or '.join(reversed(names))}. Without it the weights cannot be told apart; add it."
    )


def _number(source: Path, fields: dict[str, Any], name: str, default: float) -> float:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{source}: {name} is {value!r}, and must be a number.")
    return value


def _token_id(source: Path, fields: dict[str, Any], name: str, default: int) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{source}: {name} is {value!r}; FasterTransformer needs a token id there.")
    return value
