"""Llama's forward pass in numpy, fp32, on tokens of several sequences at once, packed end to end without padding.

The mathematics is that of transformers' modeling_llama.py. Letters: T tokens of all sequences, S of one, L a sequence's tokens so
far, H hidden size, n query heads in groups of g for each of k key-value heads, d a head's width, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.cpu_stand_in.checkpoint import Config
from engine_jobs.tensorrt_llm.cpu_stand_in.engine import Engine
from engine_jobs.tensorrt_llm.cpu_stand_in.tensor_file import Floats

Integers = NDArray[np.integer[Any]]


class Cache:
    """One sequence's keys and values so far: [layers, 2, k, slots, d], grown as it needs."""

    def __init__(self, layers: int, heads: int, width: int) -> None:
        self.length = 0
        self._slots = np.zeros((layers, 2, heads, 0, width), np.float32)

    def copy(self) -> "Cache":
        twin = Cache.__new__(Cache)
        twin.length, twin._slots = self.length, self._slots.copy()
        return twin

    def reserve(self, tokens: int) -> None:
        """Makes room for that many more tokens."""
        missing = self.length + tokens - self._slots.shape[3]
        if missing > 0:
            more = max(missing, self._slots.shape[3])
            self._slots = np.pad(self._slots, [(0, 0)] * 3 + [(0, more), (0, 0)])

    def write(self, layer: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        """Adds [S, k, d] of a layer behind the `length` known ones; returns all: [k, L, d] each. `length` is the caller's."""
        end = self.length + len(keys)
        self._slots[layer, 0, :, self.length : end] = keys.transpose(1, 0, 2)
        self._slots[layer, 1, :, self.length : end] = values.transpose(1, 0, 2)
        return self._slots[layer, 0, :, :end], self._slots[layer, 1, :, :end]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """New tokens of one sequence: `ids` follow what its cache holds."""

    ids: Sequence[int]
    cache: Cache


class Llama:
    """A Llama from an engine. `window`: how many tokens back attention sees (None: all)."""

    def __init__(self, engine: Engine, window: int | None = None) -> None:
        """Raises UserError for an activation or rotary scaling that is not known here."""
        self.config = config = engine.pretrained
        self._window = window
        if config["hidden_act"] != "silu":
            raise UserError(f"the engine's hidden_act is {config['hidden_act']!r}; the CPU stand-in has silu alone.")
        whole = engine.weights
        self._frequencies = rotary_frequencies(config)
        self._embeddings = whole["model.embed_tokens.weight"]
        self._norm = whole["model.norm.weight"]
        self._head = np.ascontiguousarray(whole["lm_head.weight"].T)
        self._layers = [self._layer_weights(engine, layer) for layer in range(config["num_hidden_layers"])]

    @staticmethod
    def _layer_weights(engine: Engine, layer: int) -> dict[str, Floats]:
        """Matrices as [in, out], the three of attention and the two of the gated unit side by side."""
        prefix = f"model.layers.{layer}"
        one = {
            name: engine.weights[f"{prefix}.{name}.weight"]
            for name in (
                *(f"self_attn.{kind}_proj" for kind in "qkvo"),
                *(f"mlp.{kind}_proj" for kind in ("gate", "up", "down")),
                *("input_layernorm", "post_attention_layernorm"),
            )
        }
        fused = {
            "qkv": np.concatenate([one[f"self_attn.{kind}_proj"] for kind in "qkv"]),
            "gate_up": np.concatenate([one["mlp.gate_proj"], one["mlp.up_proj"]]),
            "out": one["self_attn.o_proj"],
            "down": one["mlp.down_proj"],
        }
        norms = {"first_norm": one["input_layernorm"], "second_norm": one["post_attention_layernorm"]}
        return {name: np.ascontiguousarray(tensor.T) for name, tensor in fused.items()} | norms

    @property
    def vocabulary(self) -> int:
        return int(self.config["vocab_size"])

    def new_cache(self) -> Cache:
        config = self.config
        return Cache(config["num_hidden_layers"], config["num_key_value_heads"], config["head_size"])

    def forward(self, pieces: Sequence[Piece]) -> list[Floats]:
        """Hidden states [S, H] of each piece's tokens, behind the final norm. The pieces' caches then hold their tokens."""
        for piece in pieces:
            piece.cache.reserve(len(piece.ids))
        starts = np.cumsum([len(piece.ids) for piece in pieces])[:-1]
        ids = np.concatenate([np.asarray(piece.ids, np.int64) for piece in pieces])
        positions = np.concatenate([piece.cache.length + np.arange(len(piece.ids)) for piece in pieces])
        angles = positions[:, None].astype(np.float32) * self._frequencies
        turn = (np.cos(angles)[:, None], np.sin(angles)[:, None])
        hidden = self._embeddings[ids]
        for number, weights in enumerate(self._layers):
            hidden = hidden + self._attention(
                number, weights, self._normed(hidden, weights["first_norm"]), turn, pieces
            )
            inner = self._normed(hidden, weights["second_norm"]) @ weights["gate_up"]
            gate, up = np.split(inner, 2, axis=-1)
            hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ weights["down"]
        for piece in pieces:
            piece.cache.length += len(piece.ids)
        return np.split(self._normed(hidden, self._norm), starts)

    def logits(self, hidden: Floats) -> Floats:
        """[…, V] of final hidden states […, H]."""
        scores: Floats = hidden @ self._head
        return scores

    def _attention(
        self,
        number: int,
        weights: dict[str, Floats],
        normed: Floats,
        turn: tuple[Floats, Floats],
        pieces: Sequence[Piece],
    ) -> Floats:
        config = self.config
        heads, kv_heads, width = config["num_attention_heads"], config["num_key_value_heads"], config["head_size"]
        fused = (normed @ weights["qkv"]).reshape(len(normed), heads + 2 * kv_heads, width)
        query, key, value = np.split(fused, [heads, heads + kv_heads], axis=1)
        query, key = _turned(query, turn), _turned(key, turn)
        mixed, start = [], 0
        for piece in pieces:
            own = slice(start, start + len(piece.ids))
            start = own.stop
            keys, values = piece.cache.write(number, key[own], value[own])
            mixed.append(self._mixed(query[own], keys, values))
        result: Floats = np.concatenate(mixed) @ weights["out"]
        return result

    def _mixed(self, query: Floats, keys: Floats, values: Floats) -> Floats:
        """[S, n*d] of queries [S, n, d], the last S of the keys' L tokens [k, L, d]; group i of queries goes with head i."""
        tokens, heads, width = query.shape
        grouped = query.reshape(tokens, len(keys), heads // len(keys), width).transpose(1, 2, 0, 3)
        scores = grouped @ keys[:, None].transpose(0, 1, 3, 2) / np.float32(math.sqrt(width))
        own = np.arange(keys.shape[1] - tokens, keys.shape[1])[:, None]
        other = np.arange(keys.shape[1])
        seen = other <= own
        if self._window is not None:
            seen &= other > own - self._window
        shares = softmax(np.where(seen, scores, np.float32(-np.inf)))
        return (shares @ values[:, None]).transpose(2, 0, 1, 3).reshape(tokens, heads * width)

    def _normed(self, hidden: Floats, weight: Floats) -> Floats:
        mean = np.square(hidden).mean(axis=-1, keepdims=True)
        scaled: Floats = hidden / np.sqrt(mean + np.float32(self.config["norm_epsilon"])) * weight
        return scaled


def softmax(scores: Floats) -> Floats:
    """Along the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _turned(heads: Floats, turn: tuple[Floats, Floats]) -> Floats:
    """Rotates element i of each head [T, heads, d] with element i + d/2 (GPT-NeoX's order)."""
    cos, sin = turn
    first, second = np.split(heads, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def rotary_frequencies(config: Config) -> Floats:
    """[d/2] radians a token, by `rotary_base` and `rotary_scaling` (transformers' modeling_rope_utils.py)."""
    width = config["head_size"]
    frequencies: Floats = (float(config["rotary_base"]) ** (-np.arange(0, width, 2) / width)).astype(np.float32)
    scaling = config.get("rotary_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "linear":
        return frequencies / np.float32(scaling["factor"])
    if kind == "llama3":
        return _llama3(frequencies, scaling)
    if kind != "default":
        raise UserError(f"the engine's rotary_scaling is of type {kind!r}, which the CPU stand-in does not know.")
    return frequencies


def _llama3(frequencies: Floats, scaling: Config) -> Floats:
    """Slow turns are slowed by `factor`, fast ones kept, those between blended."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    slowed: Floats = ((1 - blend) * frequencies / scaling["factor"] + blend * frequencies).astype(np.float32)
    return slowed
