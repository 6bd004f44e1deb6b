"""Which files FasterTransformer reads for a BLOOM, their shapes, and the config.ini beside them.

Source: NVIDIA/FasterTransformer examples/pytorch/gpt/utils/huggingface_bloom_convert.py (what is written) and
src/fastertransformer/models/multi_gpu_gpt/ParallelGpt{Weight,DecoderLayerWeight}.cc (what is read). Standard library only:
the CPU stand-in carries a copy of this module into the model repository.

Letters: H hidden size, n heads, d = H/n, V vocabulary, T tensor parallel size.
"""

import configparser
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from engine_jobs.errors import UserError

ITEM_SIZES = {"fp32": 4, "fp16": 2}
CONFIG_NAME = "config.ini"


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """A BLOOM's size: layers, heads n, hidden size H, vocabulary V (rows of the embedding)."""

    layers: int
    heads: int
    hidden: int
    vocabulary: int

    @property
    def head_width(self) -> int:
        return self.hidden // self.heads


class Cut(Enum):
    """How a rank's part is taken from Hugging Face's tensor ([out, in] for a weight)."""

    WHOLE = "every rank reads the one file; nothing is transposed"
    HEADS = "the rank's heads, regrouped from [n, 3, d] to [3, n/T, d] along the out axis"
    OUT = "the rank's share of the out axis"
    IN = "the rank's share of the in axis"


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One .bin file: raw numbers in C order, no header. `tensor` is Hugging Face's name without `transformer.`."""

    name: str
    tensor: str
    cut: Cut
    rank: int
    shape: tuple[int, ...]

    @property
    def items(self) -> int:
        return math.prod(self.shape)


_OUTER = (
    ("word_embeddings.weight", "wte"),
    ("word_embeddings_layernorm.weight", "pre_decoder_layernorm.weight"),
    ("word_embeddings_layernorm.bias", "pre_decoder_layernorm.bias"),
    ("ln_f.weight", "final_layernorm.weight"),
    ("ln_f.bias", "final_layernorm.bias"),
)
_LAYER = (
    ("input_layernorm.weight", "input_layernorm.weight", Cut.WHOLE),
    ("input_layernorm.bias", "input_layernorm.bias", Cut.WHOLE),
    ("self_attention.query_key_value.weight", "attention.query_key_value.weight", Cut.HEADS),
    ("self_attention.query_key_value.bias", "attention.query_key_value.bias", Cut.HEADS),
    ("self_attention.dense.weight", "attention.dense.weight", Cut.IN),
    ("self_attention.dense.bias", "attention.dense.bias", Cut.WHOLE),
    ("post_attention_layernorm.weight", "post_attention_layernorm.weight", Cut.WHOLE),
    ("post_attention_layernorm.bias", "post_attention_layernorm.bias", Cut.WHOLE),
    ("mlp.dense_h_to_4h.weight", "mlp.dense_h_to_4h.weight", Cut.OUT),
    ("mlp.dense_h_to_4h.bias", "mlp.dense_h_to_4h.bias", Cut.OUT),
    ("mlp.dense_4h_to_h.weight", "mlp.dense_4h_to_h.weight", Cut.IN),
    ("mlp.dense_4h_to_h.bias", "mlp.dense_4h_to_h.bias", Cut.WHOLE),
)


def tensor_shapes(dimensions: Dimensions) -> dict[str, tuple[int, ...]]:
    """Shapes of a BLOOM's tensors in Hugging Face's checkpoint, by name without `transformer.`."""
    h, v = dimensions.hidden, dimensions.vocabulary
    shapes: dict[str, tuple[int, ...]] = {name: (h,) for name, _ in _OUTER}
    shapes["word_embeddings.weight"] = (v, h)
    special: dict[str, tuple[int, ...]] = {
        "self_attention.query_key_value.weight": (3 * h, h),
        "self_attention.query_key_value.bias": (3 * h,),
        "self_attention.dense.weight": (h, h),
        "mlp.dense_h_to_4h.weight": (4 * h, h),
        "mlp.dense_h_to_4h.bias": (4 * h,),
        "mlp.dense_4h_to_h.weight": (h, 4 * h),
    }
    for layer in range(dimensions.layers):
        for name, _, _ in _LAYER:
            shapes[f"h.{layer}.{name}"] = special.get(name, (h,))
    return shapes


def _part_shape(name: str, dimensions: Dimensions, ranks: int) -> tuple[int, ...]:
    h = dimensions.hidden
    shapes: dict[str, tuple[int, ...]] = {
        "attention.query_key_value.weight": (h, 3, h // ranks),
        "attention.query_key_value.bias": (3, h // ranks),
        "attention.dense.weight": (h // ranks, h),
        "mlp.dense_h_to_4h.weight": (h, 4 * h // ranks),
        "mlp.dense_h_to_4h.bias": (4 * h // ranks,),
        "mlp.dense_4h_to_h.weight": (4 * h // ranks, h),
        "wte": (dimensions.vocabulary, h),
    }
    return shapes.get(name, (h,))


def weight_files(dimensions: Dimensions, ranks: int) -> Iterator[WeightFile]:
    """Every .bin file of a BLOOM at tensor parallel size `ranks`. A cut tensor's files carry the rank even at 1."""
    for tensor, name in _OUTER:
        shape = _part_shape(name, dimensions, ranks)
        yield WeightFile(name=f"model.{name}.bin", tensor=tensor, cut=Cut.WHOLE, rank=0, shape=shape)
    for layer in range(dimensions.layers):
        for tensor, name, cut in _LAYER:
            shape = _part_shape(name, dimensions, ranks)
            for rank in range(1 if cut is Cut.WHOLE else ranks):
                suffix = "bin" if cut is Cut.WHOLE else f"{rank}.bin"
                yield WeightFile(
                    name=f"model.layers.{layer}.{name}.{suffix}",
                    tensor=f"h.{layer}.{tensor}",
                    cut=cut,
                    rank=rank,
                    shape=shape,
                )


@dataclass(frozen=True, kw_only=True)
class WeightsFolder:
    """A folder of FasterTransformer weights, as its config.ini describes it."""

    path: Path
    dimensions: Dimensions
    ranks: int
    data_type: str
    layer_norm_epsilon: float
    post_layer_norm: bool
    start_id: int
    end_id: int

    @classmethod
    def read(cls, path: Path) -> "WeightsFolder":
        """Raises UserError where config.ini is missing, is not FasterTransformer's, or lacks a key."""
        source = path / CONFIG_NAME
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(source.read_text(encoding="utf-8"), source=str(source))
            gpt = parser["gpt"]
            dimensions = Dimensions(
                layers=int(gpt["num_layer"]),
                heads=int(gpt["head_num"]),
                hidden=int(gpt["head_num"]) * int(gpt["size_per_head"]),
                vocabulary=int(gpt["vocab_size"]),
            )
            folder = cls(
                path=path,
                dimensions=dimensions,
                ranks=int(gpt["tensor_para_size"]),
                data_type=gpt["weight_data_type"],
                layer_norm_epsilon=float(gpt["layernorm_eps"]),
                post_layer_norm=gpt["layernorm_type"] == "post_layernorm",
                start_id=int(gpt["start_id"]),
                end_id=int(gpt["end_id"]),
            )
        except FileNotFoundError:
            raise UserError(f"{source} is not there: {path} is not a folder of FasterTransformer weights") from None
        except KeyError as error:
            raise UserError(f"{source} has no {error}: convert the checkpoint again") from None
        except (configparser.Error, ValueError) as error:
            raise UserError(f"{source} cannot be read: {error}; convert the checkpoint again") from None
        if folder.data_type not in ITEM_SIZES:
            raise UserError(f"{source}: weight_data_type {folder.data_type!r} is none of {', '.join(ITEM_SIZES)}")
        return folder

    def sizes(self) -> dict[str, int]:
        """Bytes of every .bin file, by name."""
        item = ITEM_SIZES[self.data_type]
        return {file.name: file.items * item for file in weight_files(self.dimensions, self.ranks)}

    def check(self) -> None:
        """Raises UserError unless every file is there in full: FasterTransformer only warns, then serves garbage."""
        check_sizes(self.path, self.sizes())


def check_sizes(folder: Path, sizes: dict[str, int]) -> None:
    """Raises UserError that names the first files of `sizes` (bytes by name) that are missing or of another size."""
    wrong = []
    for name, size in sizes.items():
        try:
            found = (folder / name).stat().st_size
        except FileNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if found != size:
            wrong.append(f"{name} has {found} bytes instead of {size}")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{folder} is incomplete: {'; '.join(wrong[:3])}{more}. Convert the checkpoint again.")
