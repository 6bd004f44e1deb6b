"""The engine's two threads.

One only handles token ids, so that the accelerator never waits for text; the other turns ids into text, sends it, finds stop words
and asks whether callers are still there. Standard library only; a backend computes.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from engine_jobs.triton_python.served.generation import Failure, Generation
from engine_jobs.triton_python.served.schedulers import CANCEL_POLL_SECONDS, Counts, Outlet, Scheduler

GATHER_SECONDS: Final = 0.002


class Answers:
    """An `Outlet` (schedulers.py): turns tokens into text and sends it, in the order in which it is told, on one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    def tokens(self, generation: Generation, tokens: Sequence[int], last: bool) -> None:
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

    def failed(self, generation: Generation, message: str) -> None:
        if not generation.unwanted:
            generation.unwanted = True
            generation.caller.fail(message, Failure.ENGINE)

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


class Engine:
    """The two threads. `submit` may be called from any thread; `failed` is told what no single request is to blame for."""

    def __init__(self, make_scheduler: Callable[[Outlet], Scheduler], failed: Callable[[Exception], None]) -> None:
        self._incoming: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[Callable[[Answers], None] | None] = queue.SimpleQueue()
        self._outlet = _Queued(self._outgoing)
        self._scheduler = make_scheduler(self._outlet)
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
        """Ends both threads; what still runs or waits gets an error."""
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
        unloaded = "the model is being unloaded"
        self._scheduler.fail_all(unloaded)
        for generation in self._scheduler.leave_waiting():
            self._outlet.failed(generation, unloaded)
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
        while (told := self._outgoing.get()) is not None:
            try:
                told(answers)
            except Exception as error:
                # A caller who can't be answered must not be the end of everybody else's answers.
                self._failed(error)


class _Queued:
    """An `Outlet` whose word the answers' thread takes up."""

    def __init__(self, told: "queue.SimpleQueue[Callable[[Answers], None] | None]") -> None:
        self._told = told

    def tokens(self, generation: Generation, tokens: Sequence[int], last: bool) -> None:
        self._told.put(lambda answers: answers.tokens(generation, tokens, last))

    def failed(self, generation: Generation, message: str) -> None:
        self._told.put(lambda answers: answers.failed(generation, message))
