"""BLOOM's forward pass in numpy on FasterTransformer's weight files, in fp32, with a cache of keys and values.

The mathematics is that of transformers' modeling_bloom.py (`BloomModel`, `build_alibi_tensor`, `bloom_gelu_forward`).
Letters: B rows, S new tokens, C slots of the cache, H hidden size, n heads, d = H/n, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine_jobs.fastertransformer.layout import Cut, WeightsFolder, weight_files

Floats = NDArray[np.float32]
Integers = NDArray[np.integer[Any]]
Real = TypeVar("Real", np.float32, np.float64)

_JOIN_AXIS = {Cut.HEADS: -1, Cut.OUT: -1, Cut.IN: 0}


def read_weights(folder: WeightsFolder) -> dict[str, Floats]:
    """All tensors in fp32 by FasterTransformer's name, the ranks' parts joined. Raises UserError on a missing or short file."""
    folder.check()
    kind = np.dtype("<f2" if folder.data_type == "fp16" else "<f4")
    parts: dict[str, list[NDArray[Any]]] = {}
    cuts: dict[str, Cut] = {}
    for file in weight_files(folder.dimensions, folder.ranks):
        stem = file.name.removesuffix(".bin")
        name = stem if file.cut is Cut.WHOLE else stem.rpartition(".")[0]
        parts.setdefault(name, []).append(np.fromfile(folder.path / file.name, kind).reshape(file.shape))
        cuts[name] = file.cut
    return {
        name: (own[0] if len(own) == 1 else np.concatenate(own, axis=_JOIN_AXIS[cuts[name]])).astype(np.float32)
        for name, own in parts.items()
    }


def alibi_slopes(heads: int) -> Floats:
    """[n]: each head's penalty a token of distance. With n no power of two, the rest take every other slope of twice as many."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    slopes += [2.0 ** (-8.0 * (2 * i + 1) / (2 * power)) for i in range(heads - power)]
    return np.array(slopes, np.float32)


@dataclass(kw_only=True)
class Cache:
    """Keys and values of the tokens so far: each [layers, B, n, C, d]."""

    keys: Floats
    values: Floats

    def take(self, rows: Integers) -> None:
        """Has row i go on with what row `rows[i]` has seen."""
        self.keys = self.keys[:, rows]
        self.values = self.values[:, rows]


class Bloom:
    """A BLOOM read from a folder of FasterTransformer's weights."""

    def __init__(self, folder: WeightsFolder) -> None:
        self.folder = folder
        self.dimensions = folder.dimensions
        self._weights = read_weights(folder)
        self._slopes = alibi_slopes(folder.dimensions.heads)

    def new_cache(self, rows: int, slots: int) -> Cache:
        size = self.dimensions
        shape = (size.layers, rows, size.heads, slots, size.head_width)
        return Cache(keys=np.zeros(shape, np.float32), values=np.zeros(shape, np.float32))

    def forward(self, ids: Integers, first_slots: Integers, cache: Cache) -> Floats:
        """Hidden states [B, S, H], before the final layer norm, of the tokens `ids` [B, S].

        Row b's tokens go to the slots `first_slots[b]`, `first_slots[b]` + 1, … and see every slot up to their own. So a
        row may end in padding: what comes after it is written over the padding before anything looks there.
        """
        slots = first_slots.astype(np.int64)[:, None] + np.arange(ids.shape[1])
        hidden = self._norm(self._weights["model.wte"][ids], "model.pre_decoder_layernorm")
        for layer in range(self.dimensions.layers):
            hidden = self._layer(layer, hidden, slots, cache)
        return hidden

    def logits(self, hidden: Floats) -> Floats:
        """[…, V] of hidden states […, H]."""
        return self._norm(hidden, "model.final_layernorm") @ self._weights["model.wte"].T

    def _layer(self, layer: int, hidden: Floats, slots: Integers, cache: Cache) -> Floats:
        prefix = f"model.layers.{layer}"
        post = self.folder.post_layer_norm
        normed = self._norm(hidden, f"{prefix}.input_layernorm")
        hidden = (normed if post else hidden) + self._attention(layer, normed, slots, cache)
        normed = self._norm(hidden, f"{prefix}.post_attention_layernorm")
        inner = _gelu(self._linear(normed, f"{prefix}.mlp.dense_h_to_4h"))
        return (normed if post else hidden) + self._linear(inner, f"{prefix}.mlp.dense_4h_to_h")

    def _attention(self, layer: int, normed: Floats, slots: Integers, cache: Cache) -> Floats:
        """[B, S, H]; writes the new tokens' keys and values into the cache."""
        prefix = f"model.layers.{layer}.attention"
        size = self.dimensions
        rows, tokens = slots.shape
        seen = int(slots.max()) + 1
        weight = self._weights[f"{prefix}.query_key_value.weight"].reshape(size.hidden, 3 * size.hidden)
        fused = normed @ weight + self._weights[f"{prefix}.query_key_value.bias"].reshape(-1)
        query, key, value = np.moveaxis(fused.reshape(rows, tokens, 3, size.heads, size.head_width), 2, 0)
        own = np.arange(rows)[:, None]
        cache.keys[layer][own, :, slots] = key
        cache.values[layer][own, :, slots] = value
        keys, values = cache.keys[layer][:, :, :seen], cache.values[layer][:, :, :seen]
        scores = query.transpose(0, 2, 1, 3) @ keys.transpose(0, 1, 3, 2) / np.float32(math.sqrt(size.head_width))
        scores += self._slopes[:, None, None] * np.arange(seen, dtype=np.float32)
        scores = np.where(np.arange(seen) <= slots[:, None, :, None], scores, np.float32(-np.inf))
        mixed = softmax(scores) @ values
        return self._linear(mixed.transpose(0, 2, 1, 3).reshape(rows, tokens, size.hidden), f"{prefix}.dense")

    def _linear(self, inputs: Floats, name: str) -> Floats:
        outputs: Floats = inputs @ self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return outputs

    def _norm(self, hidden: Floats, name: str) -> Floats:
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        scaled: Floats = centred / np.sqrt(variance + np.float32(self.folder.layer_norm_epsilon))
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def softmax(scores: NDArray[Real]) -> NDArray[Real]:
    """Along the last axis."""
    powers: NDArray[Real] = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: NDArray[Real] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _gelu(x: Floats) -> Floats:
    return x * np.float32(0.5) * (1 + np.tanh(np.float32(0.79788456) * x * (1 + np.float32(0.044715) * x * x)))
