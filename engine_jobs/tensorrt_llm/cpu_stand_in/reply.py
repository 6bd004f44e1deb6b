"""How the rows of one Triton request are answered: at once when all are done, one by one, or token by token."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine_jobs.tensorrt_llm.cpu_stand_in.batcher import Cancelled
from engine_jobs.tensorrt_llm.cpu_stand_in.generation import Generation
from engine_jobs.tensorrt_llm.cpu_stand_in.tensors import answer_tensors, stacked

Outputs = dict[str, NDArray[Any]]
Send = Callable[[Outputs | None, bool], None]
"""Sends output tensors (None: only the mark) and whether they are the request's last."""


@dataclass(kw_only=True)
class Reply:
    """`streaming`: a response for each step that gave a token, with just the new ones. `decoupled` without it: one for each row,
    as soon as it is done. Neither: one for the whole request. `fillings`: each row's padding token. `stopped`: another request has
    asked for its end; only the thread that answers may end it, for Triton 2.51 dies of a question about a request that has its answer."""

    generations: list[Generation]
    send: Send
    fail: Callable[[Exception], None]
    decoupled: bool
    streaming: bool
    with_prompt: bool
    with_log_probs: list[bool]
    fillings: list[int]
    ended: bool = False
    stopped: bool = False
    _sent: dict[int, int] = field(default_factory=dict)

    def changed(self, row: int) -> None:
        """After a step in which the row's generation went on."""
        generation = self.generations[row]
        if self.ended:
            return
        if self.streaming:
            self._stream(row)
        elif generation.done and self.decoupled:
            self.send(self._outputs(row, 0), self._all_done())
        elif self._all_done():
            rows = [self._outputs(each, 0) for each in range(len(self.generations))]
            self.send(stacked(rows, self.fillings[0]), True)
        self.ended = self._all_done()

    def failed(self, error: Exception) -> None:
        """Ends the request with an error, once."""
        if not self.ended:
            self.ended = True
            self.fail(Cancelled("the request was stopped") if self.stopped else error)

    def _stream(self, row: int) -> None:
        generation = self.generations[row]
        known = self._sent.get(row)
        tokens = len(generation.beams[0].tokens)
        if tokens > (known or 0) or (generation.done and known is None):
            self._sent[row] = tokens
            self.send(self._outputs(row, known or 0), self._all_done())
        elif self._all_done():
            self.send(None, True)

    def _all_done(self) -> bool:
        return all(generation.done for generation in self.generations)

    def _outputs(self, row: int, first: int) -> Outputs:
        made = answer_tensors(
            self.generations[row],
            first=first,
            with_prompt=self.with_prompt and not self.streaming,
            with_log_probs=self.with_log_probs[row],
            filling=self.fillings[row],
        )
        return {**made, "batch_index": np.full((1, 1), row, np.int32)}
