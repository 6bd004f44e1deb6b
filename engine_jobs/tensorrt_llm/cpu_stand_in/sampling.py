"""How a sequence's next token is chosen, with the names and defaults of TensorRT-LLM's SamplingConfig.

Its random numbers are another generator's than a GPU's, so a sampled answer follows the same distribution but is another draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.cpu_stand_in.tensor_file import Floats

Words = tuple[tuple[int, ...], ...]
Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """`top_k` 0 with `top_p` 0, or a temperature of 0, is greedy. `min_length` counts the end token. Words are token ids."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    random_seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_length: int = 1
    length_penalty: float = 0.0
    diversity_rate: float = 0.0
    embedding_bias: Floats | None = None
    stop_words: Words = ()
    bad_words: Words = ()

    def check(self) -> None:
        """Raises UserError for a value that has no meaning."""
        for name in ("temperature", "top_k", "presence_penalty", "frequency_penalty", "top_p"):
            if not np.isfinite(getattr(self, name)):
                raise UserError(f"{name} is not a finite number.")
        if self.temperature < 0 or self.top_k < 0:
            raise UserError(f"temperature {self.temperature} and runtime_top_k {self.top_k} must not be negative.")
        if not 0 <= self.top_p <= 1:
            raise UserError(f"runtime_top_p {self.top_p} must be from 0 to 1.")
        if not self.repetition_penalty > 0:
            raise UserError(f"repetition_penalty {self.repetition_penalty} must be above 0.")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1 or (self.top_k == 0 and self.top_p == 0)

    def adjusted(self, logits: Floats, prompt: Sequence[int], tokens: Sequence[int], end_id: int) -> Scores:
        """Logits [V] after bias, penalties, bad words and temperature."""
        scores = logits.astype(np.float64)
        if self.embedding_bias is not None:
            scores += self.embedding_bias
        if self.temperature not in (0.0, 1.0):
            scores /= self.temperature
        known = [*prompt, *tokens]
        if self.repetition_penalty != 1.0:
            seen = np.unique(known)
            penalty = self.repetition_penalty
            scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
        if self.presence_penalty or self.frequency_penalty:
            own, counts = np.unique(np.asarray(tokens, np.int64), return_counts=True)
            scores[own] -= self.presence_penalty + self.frequency_penalty * counts
        for word in self.bad_words:
            before = len(word) - 1
            if not before or tuple(known[-before:]) == word[:-1]:
                scores[word[-1]] = -np.inf
        if len(tokens) + 1 < self.min_length and 0 <= end_id < len(scores):
            scores[end_id] = -np.inf
        return scores

    def choose(self, scores: Scores, random: np.random.Generator) -> int:
        """A token by adjusted logits [V]."""
        if self.greedy:
            return int(scores.argmax())
        order = np.argsort(-scores, kind="stable")[: self.top_k or None]
        shares = np.exp(log_softmax(scores[order]))
        reach = int(np.searchsorted(np.cumsum(shares), (self.top_p or 1.0) - 1e-12)) + 1
        kept = shares[:reach] / shares[:reach].sum()
        return int(order[random.choice(len(kept), p=kept)])

    def stops(self, tokens: Sequence[int]) -> bool:
        """Whether an answer so far ends with a stop word."""
        return any(len(tokens) >= len(word) and tuple(tokens[-len(word) :]) == word for word in self.stop_words)


def log_softmax(scores: Scores) -> Scores:
    shifted: Scores = scores - scores.max()
    logs: Scores = shifted - np.log(np.exp(shifted).sum())
    return logs
