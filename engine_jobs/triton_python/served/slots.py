"""Prefill and decode of a transformers model over a cache with independent rows; on an NVIDIA GPU as CUDA graphs."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch
from transformers.cache_utils import DynamicCache

from engine_jobs.errors import UserError
from engine_jobs.triton_python.served import sampling
from engine_jobs.triton_python.served.cache import SlotCache
from engine_jobs.triton_python.served.generation import Draw
from engine_jobs.triton_python.served.graphs import Begun, Graph

PREFILL_TOKENS: Final = 4096
"""One prefill reads at most so many tokens, padding counted; a longer prompt is read alone."""

GRAPHED_PREFILL_TOKENS: Final = 1024
"""Prefills up to this size are captured as graphs; above it the computation itself hides the launches."""

GRAPHED_PROMPT: Final = 256
SHORTEST_PROMPT: Final = 8
SHORTEST_VIEW: Final = 128


class NotForSlots(Exception):
    """The model's architecture can't be run on rows of a cache; the message says why."""


class SlotModel:
    """A `SlotBackend` (generation.py). `logits` FP32 [rows, vocabulary]: those of the last prefill or step, for a check."""

    def __init__(self, model: Any, *, rows: int, max_length: int) -> None:
        """Raises NotForSlots, or UserError where the cache does not fit in the GPU's memory."""
        self.rows = rows
        self.prefill_tokens = PREFILL_TOKENS
        self.logits: Any = None
        self._model = model
        self._device = next(model.parameters()).device
        self._dtype = next(model.parameters()).dtype
        self._max_length = max_length
        self._windows = attention_windows(model.config, max_length)
        self._some_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        with torch.inference_mode():
            shapes = self._cache_shapes()
            self._check_memory(shapes)
            self._cache = SlotCache(shapes, rows, max_length, self._dtype, self._device)
        self._graphs: dict[tuple[str, int, int], Graph] = {}
        self._last: Any = None
        self._hosts: list[Any] = []

    def prefill(self, first_row: int, prompts: Sequence[Sequence[int]], draws: Sequence[Draw | None]) -> list[int]:
        count, longest = len(prompts), max(map(len, prompts))
        key = ("prefill", _bucket(count, self.rows), _bucket(longest, self._max_length, SHORTEST_PROMPT))
        graph = self._graphs.get(key)
        batch, length = (key[1], key[2]) if graph else (count, longest)
        # A row of padding repeats the first prompt, so it writes once more what is there.
        chosen = [*range(count), *([0] * (batch - count))]
        ids = [[*prompts[row], *([0] * (length - len(prompts[row])))] for row in chosen]
        rows = [first_row + row for row in chosen]
        last = [len(prompts[row]) - 1 for row in chosen]
        return self._run(graph, self._prefill, (ids, rows, last), draws)

    def start(self, tokens: Sequence[int], positions: Sequence[int], draws: Sequence[Draw | None]) -> Begun:
        length = _bucket(max(positions) + 1, self._max_length, SHORTEST_VIEW)
        graph = self._graphs.get(("decode", _bucket(len(tokens), self.rows), length))
        padding = [0] * (graph.batch - len(tokens) if graph else 0)
        inputs = ([*tokens, *padding], [*positions, *padding])
        if graph and not any(draws):
            with torch.inference_mode():
                logits, _ = graph.replay(inputs)
                self.logits = logits[: len(tokens)]
                self._last = (graph, len(tokens), max(positions) + 1, length)
                return self._begun()
        self._last = None
        return Begun(self._run(graph, partial(self._decode, length=length), inputs, draws))

    def go_on(self) -> Begun | None:
        if self._last is None:
            return None
        graph, count, position, length = self._last
        if position >= length:
            return None
        with torch.inference_mode():
            graph.replay()
            self._last = (graph, count, position + 1, length)
            return self._begun()

    def _begun(self) -> Begun:
        """Has the tokens copied to the host behind the computation; two buffers, for two steps may be under way."""
        graph, count, _, _ = self._last
        self._hosts.reverse()
        host, event = self._hosts[0]
        host[:count].copy_(graph.tokens[:count], non_blocking=True)
        event.record()
        return Begun(host[:count], event)

    def decode(self, tokens: Sequence[int], positions: Sequence[int], draws: Sequence[Draw | None]) -> list[int]:
        """One whole step."""
        return self.start(tokens, positions, draws).tokens()

    def move(self, source: int, target: int, length: int) -> None:
        with torch.inference_mode():
            self._cache.move(source, target, length)

    def capture_graphs(self, progress: Callable[[str], None]) -> None:
        """Records every decode step and small prefill as a CUDA graph. Raises what the capture raises: then none is used."""
        batches = _doubling(1, self.rows)
        sizes = [
            ("decode", batch, length) for batch in batches for length in _doubling(SHORTEST_VIEW, self._max_length)
        ]
        sizes += [
            ("prefill", batch, length)
            for batch in batches
            for length in _doubling(SHORTEST_PROMPT, min(GRAPHED_PROMPT, self._max_length))
            if batch * length <= GRAPHED_PREFILL_TOKENS
        ]
        graphs: dict[tuple[str, int, int], Graph] = {}
        self._hosts = [
            (torch.zeros(self.rows, dtype=torch.long, pin_memory=True), torch.cuda.Event()) for _ in range(2)
        ]
        pool = torch.cuda.graph_pool_handle()
        # The largest first: the smaller ones then find their memory in the pool.
        for kind, batch, length in sorted(sizes, key=lambda size: -size[1] * size[2]):
            if kind == "decode":
                shapes: tuple[tuple[int, ...], ...] = ((batch,), (batch,))
                compute: Callable[..., Any] = _then_ready_for_next(self._decode, length)
            else:
                shapes, compute = ((batch, length), (batch,), (batch,)), self._prefill
            graphs[kind, batch, length] = Graph(compute, shapes, self._device, pool)
        progress(f"{len(graphs)} CUDA graphs captured (batches {batches}, up to {self._max_length} tokens)")
        self._graphs = graphs

    def _run(self, graph: Any, compute: Callable[..., Any], inputs: Any, draws: Sequence[Draw | None]) -> list[int]:
        with torch.inference_mode():
            if graph:
                logits, tokens = graph.replay(inputs)
            else:
                logits, tokens = compute(*(torch.tensor(each, device=self._device) for each in inputs))
            self.logits = logits[: len(draws)]
            if any(draws):
                tokens = sampling.choose(self.logits, draws)
            found: list[int] = tokens.tolist()
        return found[: len(draws)]

    def _prefill(self, ids: Any, rows: Any, last: Any) -> tuple[Any, Any]:
        """ids [batch, tokens], padded on the right; rows, last (the last token's place) [batch]."""
        batch, length = ids.shape
        self._cache.read_prompts(rows)
        places = torch.arange(length, device=self._device)
        ahead = places[:, None] - places[None, :]
        positions = places.expand(batch, length)
        logits = self._forward(ids, positions, ahead.expand(batch, 1, length, length), last)
        if self._some_logits:
            # Every row's logits at every row's last place: the diagonal is each row's own.
            return self._with_likeliest(logits.diagonal(dim1=0, dim2=1).transpose(0, 1))
        return self._with_likeliest(logits[torch.arange(batch, device=self._device), last])

    def _decode(self, tokens: Any, positions: Any, length: int) -> tuple[Any, Any]:
        """tokens, positions [batch]; `length`: how much of the cache is looked at."""
        self._cache.read_tokens(positions, length)
        ahead = positions[:, None] - torch.arange(length, device=self._device)[None, :]
        logits = self._forward(tokens[:, None], positions[:, None], ahead[:, None, None, :], None)
        return self._with_likeliest(logits[:, -1])

    def _forward(self, ids: Any, positions: Any, ahead: Any, keep: Any) -> Any:
        """`ahead` [batch, 1, tokens, keys]: how many places a key lies before its query; below 0: after it, so not seen."""
        masks = {name: self._mask(ahead, window) for name, window in self._windows.items()}
        chosen = {"logits_to_keep": keep} if keep is not None and self._some_logits else {}
        return self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            past_key_values=self._cache,
            use_cache=True,
            **chosen,
        ).logits

    def _mask(self, ahead: Any, window: int | None) -> Any:
        """Added to the attention's scores: it serves the eager and the fused kernels alike."""
        seen = ahead >= 0 if window is None else (ahead >= 0) & (ahead < window)
        lowest = torch.finfo(self._dtype).min
        return torch.where(seen, 0.0, lowest).to(self._dtype)

    @staticmethod
    def _with_likeliest(logits: Any) -> tuple[Any, Any]:
        logits = logits.float()
        return logits, logits.argmax(-1)

    def _cache_shapes(self) -> list[tuple[int, int, int]]:
        """What each layer really puts into a cache, by trying."""
        cache = DynamicCache()
        try:
            self._model(
                input_ids=torch.zeros((1, 2), dtype=torch.long, device=self._device),
                past_key_values=cache,
                use_cache=True,
            )
            shapes = [(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in cache.layers]
        except Exception as error:
            raise NotForSlots(f"its layers don't keep keys and values in a plain cache ({error})") from None
        if not shapes:
            raise NotForSlots("its layers keep nothing in the cache that they are given")
        return shapes

    def _check_memory(self, shapes: Sequence[tuple[int, int, int]]) -> None:
        if self._device.type != "cuda":
            return
        size = sum(heads * (key + value) for heads, key, value in shapes) * self._dtype.itemsize
        wanted = size * self.rows * self._max_length
        free, total = torch.cuda.mem_get_info(self._device)
        if wanted > free:
            raise UserError(
                f"the cache of {self.rows} sequences of {self._max_length} tokens needs {wanted / 2**30:.1f} GiB, and "
                f"{free / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB are free beside the weights. Lower maxSequences or "
                "maxLength, or serve fewer models on this GPU."
            )


def attention_windows(config: Any, max_length: int) -> dict[str, int | None]:
    """The kinds of attention masks that the model wants, by the names of its layer types; a window in tokens, or None for all.

    Raises NotForSlots for kinds whose mask is not known here.
    """
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True) or (window is not None and window >= max_length):
        window = None
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise NotForSlots(f"it has layers of the kind {', '.join(sorted(unknown))}")
    if len(kinds) > 1:
        return {kind: window if kind == "sliding_attention" else None for kind in kinds}
    return {"all": window if kinds != ["full_attention"] else None}


def _then_ready_for_next(decode: Callable[..., Any], length: int) -> Callable[..., Any]:
    """A step that leaves its inputs as the next step wants them, so that a graph of it can simply be replayed."""

    def compute(tokens: Any, positions: Any) -> Any:
        logits, found = decode(tokens, positions, length)
        tokens.copy_(found)
        positions.add_(1)
        return logits, found

    return compute


def _bucket(size: int, most: int, least: int = 1) -> int:
    """The power of two times `least` that holds `size`, `most` at most."""
    bucket = least
    while bucket < size:
        bucket *= 2
    return min(bucket, most)


def _doubling(least: int, most: int) -> list[int]:
    sizes = []
    while least < most:
        sizes.append(least)
        least *= 2
    return [*sizes, most]
