"""One request on its way through the engine, and what the engine needs of the machine that computes. Standard library only."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from engine_jobs.triton_python.served.parameters import Parameters
from engine_jobs.triton_python.served.text import TextStream


class Failure(Enum):
    """Whose doing it is that there is no answer."""

    REQUEST = "request"
    CANCELLED = "cancelled"
    ENGINE = "engine"


class Caller(Protocol):
    """Whoever waits for the answer."""

    def send(self, text: str, *, last: bool) -> None: ...

    def fail(self, message: str, why: Failure) -> None: ...

    def is_cancelled(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Draw:
    """How the next token of one row is drawn, where that is not simply the likeliest. `uniform`: in [0, 1), drawn from the
    request's own seed, so that an answer does not depend on what else is in the batch; None: the likeliest of what is left.
    `history`: every token so far, for the repetition penalty; empty without one. `banned`: tokens not to be chosen."""

    uniform: float | None
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    history: Sequence[int]
    banned: tuple[int, ...]


class Generation:
    """A prompt (token ids) and the answer so far. The engine's thread writes the tokens; the answers' writes `text`, `unwanted`
    (nobody needs more of it: the engine lets it go) and `cancelled` (because its caller has gone)."""

    def __init__(
        self,
        *,
        prompt: Sequence[int],
        parameters: Parameters,
        max_tokens: int,
        end_ids: frozenset[int],
        text: TextStream,
        caller: Caller,
        included: str,
    ) -> None:
        self.prompt = prompt
        self.parameters = parameters
        self.max_tokens = max_tokens
        self.end_ids = frozenset({parameters.end_id}) if parameters.end_id is not None else end_ids
        self.text = text
        self.caller = caller
        self.included = included
        self.generated: list[int] = []
        self.finished = False
        self.unwanted = False
        self.cancelled = False
        self.asked_at = 0.0
        self._random = random.Random(parameters.seed)

    @property
    def last_token(self) -> int:
        return self.generated[-1]

    @property
    def position(self) -> int:
        """Of the last token, which is the next one that the model reads."""
        return len(self.prompt) + len(self.generated) - 1

    def draw(self) -> Draw | None:
        """For the next token; None: the likeliest one."""
        asked = self.parameters
        if self.is_plain:
            return None
        keep_going = len(self.generated) < asked.min_tokens
        return Draw(
            uniform=self._random.random() if asked.sampled else None,
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            repetition_penalty=asked.repetition_penalty,
            history=(*self.prompt, *self.generated) if asked.repetition_penalty != 1 else (),
            banned=tuple(sorted(self.end_ids)) if keep_going else (),
        )

    @property
    def is_plain(self) -> bool:
        """Whether every next token is the likeliest, whatever came before."""
        asked = self.parameters
        return not asked.sampled and asked.repetition_penalty == 1 and len(self.generated) >= asked.min_tokens

    @property
    def tokens_left(self) -> int:
        return self.max_tokens - len(self.generated)

    def accept(self, token: int) -> tuple[int, ...]:
        """Takes the next token; returns what of it belongs to the answer. Sets `finished`."""
        if token in self.end_ids:
            self.finished = True
            return ()
        self.generated.append(token)
        self.finished = len(self.generated) >= self.max_tokens
        return (token,)


class Step(Protocol):
    """A step that has begun."""

    def tokens(self) -> list[int]:
        """Waits for it; each row's next token."""


class SlotBackend(Protocol):
    """A model whose cache has rows that sequences enter and leave at any step.

    `rows`: sequences at most; `prefill_tokens`: tokens (padding counted) that one prefill may read.
    """

    rows: int
    prefill_tokens: int

    def prefill(self, first_row: int, prompts: Sequence[Sequence[int]], draws: Sequence[Draw | None]) -> list[int]:
        """Reads the prompts into rows first_row, first_row + 1, …; returns each row's next token."""

    def start(self, tokens: Sequence[int], positions: Sequence[int], draws: Sequence[Draw | None]) -> "Step":
        """Begins one step of rows 0, 1, …, each with its last token and that token's position."""

    def go_on(self) -> "Step | None":
        """Begins the step after the one just begun, each row with its likeliest token, without waiting for it; None: can't."""

    def move(self, source: int, target: int, length: int) -> None:
        """Gives row `target` the first `length` positions of row `source`."""


class WholeBatchBackend(Protocol):
    """A model that only answers whole batches: none enters or leaves before the batch's end."""

    rows: int

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        draws: Callable[[], Sequence[Draw | None]],
        accept: Callable[[Sequence[int]], Sequence[bool]],
    ) -> None:
        """Calls `draws`, then `accept` with one token of each row, step after step; `accept` says which rows are done."""
