"""In-flight batching: requests enter and leave the running batch at every step. Standard library only; a backend computes.

Two threads. The engine's only handles token ids, so that the accelerator never waits for text; the answers' turns ids into
text, sends it, finds stop words and asks whether callers are still there.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from engine_jobs.triton_python.served.generation import Failure, Generation, SlotBackend, Step, WholeBatchBackend

CANCEL_POLL_SECONDS: Final = 0.05
GATHER_SECONDS: Final = 0.002


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


class Answers:
    """Turns tokens into text and sends it, in the order in which it is told. `handle` is what its thread does."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    def handle(self, generation: Generation, tokens: Sequence[int], last: bool) -> None:
        """A generation's next tokens. Without any and not last: only looks whether the caller is still there."""
        if generation.unwanted or self._has_gone(generation):
            return
        streamed = generation.parameters.stream
        if not streamed and not generation.parameters.stop_words:
            # Nobody reads the pieces: one decoding at the end is enough.
            if not last:
                return
            tokens = generation.generated
        elif not tokens and not last:
            return
        text = generation.included + generation.text.add(tokens, last=last)
        last = last or generation.text.stopped
        generation.included = "" if streamed else text
        generation.unwanted = last
        if last or (streamed and text):
            generation.caller.send(text, last=last)

    def _has_gone(self, generation: Generation) -> bool:
        now = self._clock()
        if now - generation.asked_at < CANCEL_POLL_SECONDS:
            return False
        generation.asked_at = now
        if not generation.caller.is_cancelled():
            return False
        generation.unwanted = generation.cancelled = True
        generation.caller.fail("the request was cancelled", Failure.CANCELLED)
        return True


class Deliver(Protocol):
    """Hands a generation's tokens to the answers."""

    def __call__(self, generation: Generation, tokens: Sequence[int], last: bool) -> None: ...


class SlotScheduler:
    """Which sequences are in which rows: rows 0 … n-1 are in use, so that a step computes no row in vain.

    `decode_steps_between_prefills`: a prefill holds up every running sequence, so where some run, newcomers wait until this many
    steps have been made since the last one and enter together.
    """

    def __init__(self, backend: SlotBackend, deliver: Deliver, *, decode_steps_between_prefills: int = 2) -> None:
        self.counts = Counts()
        self._backend = backend
        self._deliver = deliver
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
            generation.unwanted = True
            generation.caller.fail(message, Failure.ENGINE)
        self._running.clear()
        self._ahead = None

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
                self._deliver(generation, made, generation.finished)
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
            self._deliver(generation, (), False)


class WholeBatchScheduler:
    """For a backend that can't take rows in and out: batches one after another, those who come meanwhile wait."""

    def __init__(self, backend: WholeBatchBackend, deliver: Deliver) -> None:
        self.counts = Counts()
        self._backend = backend
        self._deliver = deliver
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
            if not generation.finished and not generation.unwanted:
                generation.unwanted = True
                generation.caller.fail(message, Failure.ENGINE)
        self._running = []

    def _accept(self, tokens: Sequence[int]) -> list[bool]:
        self.counts.steps += 1
        for generation, token in zip(self._running, tokens, strict=True):
            if not generation.finished and not generation.unwanted:
                made = generation.accept(token)
                self.counts.generated_tokens += len(made)
                self._deliver(generation, made, generation.finished)
        return [each.finished or each.unwanted for each in self._running]


Scheduler = SlotScheduler | WholeBatchScheduler


class Engine:
    """The two threads. `submit` may be called from any thread; `failed` is told what no single request is to blame for."""

    def __init__(self, make_scheduler: Callable[[Deliver], Scheduler], failed: Callable[[Exception], None]) -> None:
        self._incoming: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[tuple[Generation, Sequence[int], bool] | None] = queue.SimpleQueue()
        self._scheduler = make_scheduler(lambda *what: self._outgoing.put(what))
        self._failed = failed
        self._expected = 1
        self._threads = [
            threading.Thread(target=self._run, name="engine", daemon=True),
            threading.Thread(target=self._answer, name="answers", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def counts(self) -> Counts:
        return self._scheduler.counts

    def submit(self, generation: Generation) -> None:
        self._incoming.put(generation)

    def stop(self) -> None:
        """Ends both threads; what still runs gets an error."""
        self._incoming.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        going = True
        while going:
            going = self._take()
            if not going:
                break
            try:
                self._scheduler.step()
            except Exception as error:
                self._scheduler.counts.failures += 1
                self._scheduler.fail_all(f"the engine failed: {error}")
                self._failed(error)
        self._scheduler.fail_all("the model is being unloaded")
        self._outgoing.put(None)

    def _take(self) -> bool:
        """Everything that has come in; waits only if there is nothing to do. False: the end."""
        idle = self._scheduler.is_idle
        taken = 0
        until = 0.0
        while True:
            try:
                # The first of several that come at once is not worth a prefill of its own.
                wait = idle and (taken == 0 or (taken < self._expected and time.monotonic() < until))
                generation = self._incoming.get(wait, max(until - time.monotonic(), 0.0) if taken else None)
            except queue.Empty:
                break
            if generation is None:
                return False
            self._scheduler.add(generation)
            taken += 1
            if taken == 1:
                until = time.monotonic() + GATHER_SECONDS
        if idle:
            self._expected = max(taken, self._expected // 2, 1)
        else:
            counts = self._scheduler.counts
            self._expected = max(self._expected, counts.running + counts.waiting)
        return True

    def _answer(self) -> None:
        answers = Answers()
        while (item := self._outgoing.get()) is not None:
            generation = item[0]
            try:
                answers.handle(*item)
            except Exception as error:
                generation.unwanted = True
                generation.caller.fail(f"the answer could not be sent: {error}", Failure.ENGINE)
