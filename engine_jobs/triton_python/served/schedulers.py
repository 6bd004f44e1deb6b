"""Who is in the running batch: with a backend of independent rows, requests enter and leave at every step. Standard library only."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from engine_jobs.triton_python.served.generation import Generation, SlotBackend, Step, WholeBatchBackend

CANCEL_POLL_SECONDS: Final = 0.05


@dataclass
class Counts:
    """For the metrics: what has happened, and what is going on."""

    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cancelled: int = 0
    steps: int = 0
    prefills: int = 0
    failures: int = 0


class Outlet(Protocol):
    """The answers' side, to which a scheduler tells what it has. Nobody else speaks to a caller: Triton dies of a question about a
    request that has had its last answer."""

    def tokens(self, generation: Generation, tokens: Sequence[int], last: bool) -> None:
        """The next tokens. Without any and not last: look whether the caller is still there."""

    def failed(self, generation: Generation, message: str) -> None:
        """There will be no answer."""


class SlotScheduler:
    """Which sequences are in which rows: rows 0 … n-1 are in use, so that a step computes no row in vain.

    `decode_steps_between_prefills`: a prefill holds up every running sequence, so where some run, newcomers wait until this many
    steps have been made since the last one and enter together.
    """

    def __init__(self, backend: SlotBackend, outlet: Outlet, *, decode_steps_between_prefills: int = 2) -> None:
        self.counts = Counts()
        self._backend = backend
        self._outlet = outlet
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []
        self._pause = decode_steps_between_prefills
        self._since_prefill = 0
        self._asked_at = 0.0
        self._ahead: Step | None = None

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def is_running(self) -> bool:
        return bool(self._running)

    def add(self, generation: Generation) -> None:
        self._waiting.append(generation)

    def step(self) -> None:
        """A prefill of those who can enter, if it is time for one, and one token for everybody who runs."""
        self._drop_cancelled()
        if self._ahead is None and self._waiting and (not self._running or self._since_prefill >= self._pause):
            self._prefill()
        if self._running:
            self._decode()
        self.counts.running, self.counts.waiting = len(self._running), len(self._waiting)

    def fail_all(self, message: str) -> None:
        """After a failure of the backend: everybody in it gets the error; those who wait go on waiting."""
        for generation in self._running:
            self._outlet.failed(generation, message)
        self._running.clear()
        self._ahead = None

    def leave_waiting(self) -> list[Generation]:
        """Those who wait, who from here on are somebody else's."""
        left, self._waiting = list(self._waiting), deque()
        return left

    def _prefill(self) -> None:
        entering: list[Generation] = []
        longest = 0
        while self._waiting and len(self._running) + len(entering) < self._backend.rows:
            longest = max(longest, len(self._waiting[0].prompt))
            if entering and longest * (len(entering) + 1) > self._backend.prefill_tokens:
                break
            entering.append(self._waiting.popleft())
        if not entering:
            return
        first = len(self._running)
        # They are in from here on: if the backend fails, they get the error too.
        self._running.extend(entering)
        tokens = self._backend.prefill(first, [each.prompt for each in entering], [each.draw() for each in entering])
        self.counts.prefills += 1
        self.counts.prompt_tokens += sum(len(each.prompt) for each in entering)
        self._since_prefill = 0
        self._accept(entering, tokens)

    def _decode(self) -> None:
        rows = self._running
        step = self._ahead or self._backend.start(
            [each.last_token for each in rows], [each.position for each in rows], [each.draw() for each in rows]
        )
        # The next step begins before this one's tokens are looked at, so that the accelerator does not wait for Python. A row
        # that turns out to have ended is computed once in vain.
        self._ahead = self._backend.go_on() if self._may_go_on() else None
        self._accept(rows, step.tokens())
        self.counts.steps += 1
        self._since_prefill += 1

    def _may_go_on(self) -> bool:
        """Whether the next step has the same rows, as far as is known before this one's tokens."""
        if not all(each.is_plain for each in self._running) or all(each.unwanted for each in self._running):
            return False
        if self._waiting and len(self._running) < self._backend.rows:
            # Somebody is about to enter.
            return self._since_prefill + 1 < self._pause
        left = [each.tokens_left for each in self._running]
        return min(left) > 1 if self._waiting else max(left) > 1

    def _accept(self, rows: Sequence[Generation], tokens: Sequence[int]) -> None:
        for generation, token in zip(rows, tokens, strict=True):
            if not generation.finished and not generation.unwanted:
                made = generation.accept(token)
                self.counts.generated_tokens += len(made)
                self._outlet.tokens(generation, made, generation.finished)
        if self._ahead is None:
            self._leave()

    def _leave(self) -> None:
        """Takes the finished and the cancelled out; the last row moves into each gap."""
        row = 0
        while row < len(self._running):
            generation = self._running[row]
            if not generation.finished and not generation.unwanted:
                row += 1
                continue
            self.counts.cancelled += generation.cancelled
            moved = self._running.pop()
            # The one that fills the gap may itself be about to leave: it is looked at next, in its new row.
            if row < len(self._running):
                self._running[row] = moved
                if not moved.finished and not moved.unwanted:
                    self._backend.move(len(self._running), row, moved.position)

    def _drop_cancelled(self) -> None:
        now = time.monotonic()
        if not self._waiting or now - self._asked_at < CANCEL_POLL_SECONDS:
            return
        self._asked_at = now
        wanted = [each for each in self._waiting if not each.unwanted]
        self.counts.cancelled += len(self._waiting) - len(wanted)
        self._waiting = deque(wanted)
        for generation in wanted:
            self._outlet.tokens(generation, (), False)


class WholeBatchScheduler:
    """For a backend that can't take rows in and out: batches one after another, those who come meanwhile wait."""

    def __init__(self, backend: WholeBatchBackend, outlet: Outlet) -> None:
        self.counts = Counts()
        self._backend = backend
        self._outlet = outlet
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    @property
    def is_running(self) -> bool:
        return False

    def add(self, generation: Generation) -> None:
        self._waiting.append(generation)

    def step(self) -> None:
        """One whole batch, from its prompts to its last token."""
        waiting = [each for each in self._waiting if not each.unwanted]
        self.counts.cancelled += len(self._waiting) - len(waiting)
        self._running = waiting[: self._backend.rows]
        self._waiting = deque(waiting[self._backend.rows :])
        if not self._running:
            return
        self.counts.running, self.counts.waiting = len(self._running), len(self._waiting)
        self.counts.prefills += 1
        self.counts.prompt_tokens += sum(len(each.prompt) for each in self._running)
        self._backend.generate(
            [each.prompt for each in self._running],
            lambda: [None if each.finished else each.draw() for each in self._running],
            self._accept,
        )
        self.counts.cancelled += sum(each.cancelled for each in self._running)
        self._running = []
        self.counts.running = 0

    def fail_all(self, message: str) -> None:
        for generation in self._running:
            if not generation.finished:
                self._outlet.failed(generation, message)
        self._running = []

    def leave_waiting(self) -> list[Generation]:
        left, self._waiting = list(self._waiting), deque()
        return left

    def _accept(self, tokens: Sequence[int]) -> list[bool]:
        self.counts.steps += 1
        for generation, token in zip(self._running, tokens, strict=True):
            if not generation.finished and not generation.unwanted:
                made = generation.accept(token)
                self.counts.generated_tokens += len(made)
                self._outlet.tokens(generation, made, generation.finished)
        return [each.finished or each.unwanted for each in self._running]


Scheduler = SlotScheduler | WholeBatchScheduler
