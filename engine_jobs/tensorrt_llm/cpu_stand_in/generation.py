"""One request's generation, a step at a time: what the model must read next, and what its logits make of it.

As TensorRT-LLM's executor has it: the end token is no part of the answer, a stop word is; in a beam search finished beams compete
with the running ones by their scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engine_jobs.tensorrt_llm.cpu_stand_in.llama import Cache, Llama, Piece
from engine_jobs.tensorrt_llm.cpu_stand_in.sampling import Sampling, Scores, log_softmax
from engine_jobs.tensorrt_llm.cpu_stand_in.tensor_file import Floats


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt's token ids, at most `max_tokens` to answer, and what of the logits to keep: [S, V] and [answer, V]."""

    prompt: tuple[int, ...]
    max_tokens: int
    end_id: int
    sampling: Sampling
    beams: int = 1
    keep_context_logits: bool = False
    keep_generation_logits: bool = False


@dataclass(kw_only=True)
class Beam:
    """An answer so far."""

    cache: Cache
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    logits: list[Floats] = field(default_factory=list)
    finished: bool = False

    @property
    def score(self) -> float:
        return float(sum(self.log_probs))

    def twin(self) -> "Beam":
        return Beam(
            cache=self.cache.copy(),
            tokens=list(self.tokens),
            log_probs=list(self.log_probs),
            logits=list(self.logits),
            finished=self.finished,
        )


KEPT = -1
"""In the place of a token, where a finished beam goes on as it is."""


class Generation:
    """Has the model read the prompt, in chunks if need be, then lets every beam grow until it ends."""

    def __init__(self, model: Llama, request: Request) -> None:
        self.request = request
        self.context_logits: list[Floats] = []
        self.beams = [Beam(cache=model.new_cache())]
        self._model = model
        self._read = 0
        self._random = np.random.default_rng(request.sampling.random_seed)

    @property
    def done(self) -> bool:
        return all(beam.finished for beam in self.beams)

    @property
    def reading(self) -> bool:
        """Whether some of the prompt is still to be read."""
        return self._read < len(self.request.prompt)

    @property
    def wanted(self) -> int:
        """How many tokens the next step would read."""
        return len(self.request.prompt) - self._read if self.reading else len(self._growing)

    def pieces(self, most: int) -> list[Piece]:
        """What the model must read next, at most `most` tokens of the prompt."""
        if self.reading:
            chunk = self.request.prompt[self._read : self._read + most]
            self._read += len(chunk)
            return [Piece(ids=chunk, cache=self.beams[0].cache)]
        return [Piece(ids=beam.tokens[-1:], cache=beam.cache) for beam in self._growing]

    def accept(self, hidden: Sequence[Floats]) -> None:
        """Goes on with the hidden states of the last `pieces`."""
        if self.request.keep_context_logits and not self.beams[0].tokens:
            self.context_logits.append(self._model.logits(hidden[0]))
        if self.reading:
            return
        logits = self._model.logits(np.stack([states[-1] for states in hidden]))
        if self.request.beams == 1:
            self._sample(logits[0])
        else:
            self._search(logits)

    @property
    def _growing(self) -> list[Beam]:
        return [beam for beam in self.beams if not beam.finished]

    def _adjusted(self, beam: Beam, logits: Floats) -> Scores:
        request = self.request
        return request.sampling.adjusted(logits, request.prompt, beam.tokens, request.end_id)

    def _sample(self, logits: Floats) -> None:
        (beam,) = self.beams
        scores = self._adjusted(beam, logits)
        token = self.request.sampling.choose(scores, self._random)
        self._append(beam, token, float(log_softmax(scores)[token]), logits)

    def _append(self, beam: Beam, token: int, log_prob: float, logits: Floats) -> None:
        beam.log_probs.append(log_prob)
        if self.request.keep_generation_logits:
            beam.logits.append(logits)
        if token == self.request.end_id:
            beam.finished = True
            return
        beam.tokens.append(token)
        beam.finished = len(beam.tokens) >= self.request.max_tokens or self.request.sampling.stops(beam.tokens)

    def _search(self, logits: Floats) -> None:
        """Keeps the best of all beams' continuations; a finished beam is its own only one."""
        sampling, growing = self.request.sampling, self._growing
        candidates = [
            (self._ranked(beam.score, len(beam.tokens)), number, beam, KEPT, 0.0)
            for number, beam in enumerate(self.beams)
            if beam.finished
        ]
        rows = {}
        for row, beam in zip(logits, growing, strict=True):
            rows[id(beam)] = row
            log_probs = log_softmax(self._adjusted(beam, row))
            best = np.argsort(-log_probs, kind="stable")[: 2 * self.request.beams]
            for rank, token in enumerate(best):
                score = self._ranked(beam.score + log_probs[token], len(beam.tokens) + 1)
                score += sampling.diversity_rate * rank
                candidates.append((score, len(candidates), beam, int(token), float(log_probs[token])))
        chosen = sorted(candidates, key=lambda candidate: (-candidate[0], candidate[1]))[: self.request.beams]
        self.beams = []
        for _, _, beam, token, log_prob in chosen:
            twin = beam.twin()
            if token != KEPT:
                self._append(twin, token, log_prob, rows[id(beam)])
            self.beams.append(twin)

    def _ranked(self, score: float, length: int) -> float:
        return float(score / max(length, 1) ** self.request.sampling.length_penalty)
