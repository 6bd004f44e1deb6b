"""Generation as FasterTransformer does it: greedy, sampled or by beams, with its outputs' shapes and conventions.

Sources in NVIDIA/FasterTransformer: ParallelGpt.cc, TopKSamplingLayer.cu, sampling_topk_kernels.cu, decoding_kernels.cu
(gatherTree), ban_bad_words.cu, stop_criteria_kernels.cu. Its random numbers are another generator's, so a sampled answer
follows the same distribution but is another draw. Letters: B rows, K beams, S padded input, N longest requested output.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine_jobs.errors import UserError
from engine_jobs.fastertransformer.cpu_backend.bloom import Bloom, Floats, Integers, softmax

MAX_TOKENS = 2048
"""Of input and output together: what BLOOM was trained on, and a bound to what one request can cost."""
MAX_TOP_K = 64
"""FasterTransformer's own bound (sampling_topk_kernels.cu), to which it lowers a larger one."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How one row's next token is chosen. Zeros and ones are FasterTransformer's defaults."""

    top_k: int = 0
    top_p: float = 0.0
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    random_seed: int = 0
    top_p_decay: float = 1.0
    top_p_min: float = 1e-6
    top_p_reset_id: int = -1
    len_penalty: float = 0.0
    diversity_rate: float = 0.0
    stop_words: Sequence[tuple[int, ...]] = ()
    bad_words: Sequence[tuple[int, ...]] = ()

    @property
    def limits(self) -> tuple[int, float]:
        """top_k (0: all) and top_p as FasterTransformer takes them: neither given means greedy."""
        if self.top_k == 0 and self.top_p <= 0.0:
            return 1, 1.0
        top_p = 1.0 if self.top_p == 0.0 else min(max(self.top_p, 0.0), 1.0)
        return min(self.top_k, MAX_TOP_K), top_p


@dataclass(frozen=True, kw_only=True)
class Request:
    """`ids` [B, S], padded on the right to `lengths` [B]; `output_lengths` [B]; one Choice a row."""

    ids: Integers
    lengths: Integers
    output_lengths: Integers
    choices: Sequence[Choice]
    end_ids: Integers
    beams: int = 1


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`ids` [B, K, S + N], the rest filled with the end id; `sequence_lengths` [B, K]; log probabilities [B, K] and [B, K, N].

    FasterTransformer counts S, with the padding, and every token generated, with the end id, in a sequence's length, and
    moves a short row's output up against its input. `context_embeddings` [B, K, H] is the sum of the input's hidden states.
    """

    ids: NDArray[np.uint32]
    sequence_lengths: NDArray[np.uint32]
    cum_log_probs: Floats
    output_log_probs: Floats
    context_embeddings: Floats


def check(model: Bloom, request: Request) -> None:
    """Raises UserError for a request whose answer FasterTransformer would read out of bounds, or that costs too much."""
    rows, padded = request.ids.shape
    if rows < 1 or padded < 1:
        raise UserError(f"input_ids has shape [{rows}, {padded}]; it must hold at least one token.")
    if int(request.lengths.min()) < 1 or int(request.lengths.max()) > padded:
        raise UserError(f"input_lengths must be from 1 to {padded}, the width of input_ids.")
    real = np.arange(padded) < request.lengths[:, None]
    vocabulary = model.dimensions.vocabulary
    if int(request.ids[real].max()) >= vocabulary or int(request.ids[real].min()) < 0:
        raise UserError(f"input_ids has a token that is not in the vocabulary of {vocabulary}.")
    total = padded + int(request.output_lengths.max())
    if total > MAX_TOKENS:
        raise UserError(f"input and request_output_len make {total} tokens; the CPU stand-in takes up to {MAX_TOKENS}.")
    if not 1 <= request.beams <= vocabulary:
        raise UserError(f"beam_width {request.beams} must be from 1 to the vocabulary's {vocabulary}.")


def generate(model: Bloom, request: Request) -> Answer:
    """The whole answer to a request. Raises UserError."""
    check(model, request)
    rows, padded = request.ids.shape
    steps = int(request.output_lengths.max())
    hidden, cache, slots = _read_input(model, request, padded + steps)
    states = [_Row(request, row) for row in range(rows)]
    last = hidden[np.arange(rows), request.lengths.astype(np.int64) - 1]
    logits = np.repeat(model.logits(last), request.beams, axis=0)
    for step in range(steps):
        parents, tokens = [], []
        for row, state in enumerate(states):
            own = slice(row * request.beams, (row + 1) * request.beams)
            parent, token = state.choose(logits[own], step)
            parents += [row * request.beams + beam for beam in parent]
            tokens += token
        if all(state.done for state in states) or step == steps - 1:
            break
        if request.beams > 1:
            cache.take(np.array(parents))
        new = np.array(tokens)[:, None]
        logits = model.logits(model.forward(new, slots, cache)[:, 0])
        slots = slots + 1
    real = (np.arange(padded) < request.lengths[:, None])[..., None]
    embeddings = np.repeat((hidden * real).sum(axis=1)[:, None], request.beams, axis=1).astype(np.float32)
    return Answer(
        ids=np.stack([state.ids(padded + steps) for state in states]),
        sequence_lengths=np.array([[padded + length for length in state.lengths] for state in states], np.uint32),
        cum_log_probs=np.array([state.scores for state in states], np.float32),
        output_log_probs=np.stack([state.log_probs(steps) for state in states]),
        context_embeddings=embeddings,
    )


def _read_input(model: Bloom, request: Request, total: int) -> tuple[Floats, Any, Integers]:
    """Hidden states [B, S, H] of the input, and a cache and next slots for B x K rows that have read it."""
    rows, padded = request.ids.shape
    real = np.arange(padded) < request.lengths[:, None]
    ids = np.where(real, request.ids, 0)
    cache = model.new_cache(rows, total)
    hidden = model.forward(ids, np.zeros(rows, np.int64), cache)
    if request.beams > 1:
        cache.take(np.repeat(np.arange(rows), request.beams))
    return hidden, cache, np.repeat(request.lengths.astype(np.int64), request.beams)


class _Row:
    """One row's beams while they grow: K sequences of tokens, of which the first alone counts at the start."""

    def __init__(self, request: Request, row: int) -> None:
        self.choice = request.choices[row]
        self.limit = int(request.output_lengths[row])
        self.end = int(request.end_ids[row])
        self.input = request.ids[row, : int(request.lengths[row])].tolist()
        self.beams = request.beams
        self.tokens: list[list[int]] = [[] for _ in range(request.beams)]
        self.steps: list[list[float]] = [[] for _ in range(request.beams)]
        self.finished = [self.limit == 0] * request.beams
        self.scores = [0.0] + [-np.inf] * (request.beams - 1) if self.limit else [0.0] * request.beams
        self.random = np.random.default_rng(self.choice.random_seed)
        self.top_p = self.choice.limits[1]

    @property
    def done(self) -> bool:
        return all(self.finished)

    @property
    def lengths(self) -> list[int]:
        return [len(tokens) for tokens in self.tokens]

    def ids(self, total: int) -> NDArray[np.uint32]:
        """[K, S + N]."""
        sequences = np.full((self.beams, total), self.end, np.uint32)
        for beam, tokens in enumerate(self.tokens):
            whole = self.input + tokens
            sequences[beam, : len(whole)] = whole
        return sequences

    def log_probs(self, steps: int) -> Floats:
        """[K, N], 0 after the end."""
        table = np.zeros((self.beams, steps), np.float32)
        for beam, values in enumerate(self.steps):
            table[beam, : len(values)] = values
        return table

    def choose(self, logits: Floats, step: int) -> tuple[list[int], list[int]]:
        """Adds one token to each unfinished beam; returns the beams that the new ones go on from, and what they append."""
        if self.done:
            return list(range(self.beams)), [self.end] * self.beams
        adjusted = np.stack([self._adjusted(logits[beam].astype(np.float64), beam) for beam in range(self.beams)])
        parents = self._search(adjusted) if self.beams > 1 else self._sample(adjusted[0])
        for beam in range(self.beams):
            sequence = self.input + self.tokens[beam]
            stops = any(tuple(sequence[-len(word) :]) == word for word in self.choice.stop_words)
            if stops or step + 1 >= self.limit:
                self.finished[beam] = True
        return parents, [tokens[-1] for tokens in self.tokens]

    def _adjusted(self, logits: NDArray[np.float64], beam: int) -> NDArray[np.float64]:
        """Logits after temperature, repetition penalty and bad words, in FasterTransformer's order."""
        choice, sequence = self.choice, self.input + self.tokens[beam]
        logits = logits / choice.temperature
        if choice.repetition_penalty != 1.0:
            seen = np.unique(sequence)
            penalty = choice.repetition_penalty
            logits[seen] = np.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty)
        for word in choice.bad_words:
            before = len(word) - 1
            if not before or tuple(sequence[-before:]) == word[:-1]:
                logits[word[-1]] = -np.inf
        return logits

    def _sample(self, logits: NDArray[np.float64]) -> list[int]:
        top_k, _ = self.choice.limits
        probabilities = softmax(logits)
        order = np.argsort(-probabilities, kind="stable")
        kept = order[:top_k] if top_k else order
        share = probabilities[kept]
        reach = np.cumsum(share) / (share.sum() if top_k else 1.0)
        count = min(int(np.searchsorted(reach, self.top_p - 1e-12)) + 1, len(kept))
        nucleus = share[:count] / share[:count].sum()
        token = int(kept[0] if count == 1 else self.random.choice(kept[:count], p=nucleus))
        self.top_p = self._next_top_p(token)
        probability = float(probabilities[token])
        self.tokens[0].append(token)
        self.scores[0] += float(np.log(probability))
        self.steps[0].append(float(np.log(probability / (share.sum() if top_k else 1.0))))
        self.finished[0] = token == self.end
        return [0]

    def _next_top_p(self, token: int) -> float:
        if token == self.choice.top_p_reset_id:
            return self.choice.limits[1]
        return max(self.top_p * self.choice.top_p_decay, min(self.choice.top_p_min, self.top_p))

    def _search(self, logits: NDArray[np.float64]) -> list[int]:
        """One step of beam search: the K best of all continuations; a finished beam competes as it is."""
        log_probs = np.log(softmax(logits) + 1e-300)
        for beam in range(self.beams):
            if self.finished[beam]:
                log_probs[beam] = -np.inf
                log_probs[beam, self.end] = 0.0
        totals = np.array(self.scores)[:, None] + log_probs
        ranks = np.argsort(np.argsort(-log_probs, axis=1, kind="stable"), axis=1)
        compared = totals + self.choice.diversity_rate * ranks
        lengths = np.array([len(t) + (not f) for t, f in zip(self.tokens, self.finished, strict=True)], np.float64)
        compared = compared / np.power(lengths, self.choice.len_penalty)[:, None]
        best = np.argsort(-compared, axis=None, kind="stable")[: self.beams]
        parents, chosen = np.unravel_index(best, compared.shape)
        ended = [self.finished[parent] for parent in parents]
        self.tokens = [
            self.tokens[parent] + ([] if over else [int(token)])
            for parent, token, over in zip(parents, chosen, ended, strict=True)
        ]
        self.steps = [
            self.steps[parent] + ([] if over else [float(log_probs[parent, token])])
            for parent, token, over in zip(parents, chosen, ended, strict=True)
        ]
        self.scores = [float(totals[parent, token]) for parent, token in zip(parents, chosen, strict=True)]
        self.finished = [over or int(token) == self.end for token, over in zip(chosen, ended, strict=True)]
        return [int(parent) for parent in parents]
