"""Asking again, within bounds: what may pass by itself is asked again after a pause, a wrong answer never is."""

import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0


class ProbeFailed(Exception):
    """Final: asking again would not help. `status` (HTTP or gRPC) and `answer` are what was answered, where known."""

    def __init__(self, message: str, *, status: str | None = None, answer: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.answer = answer


class NotYet(ProbeFailed):
    """May pass by itself: a route or a backend that is still to appear."""


class Deadline:
    """A point in time, `seconds` from its making."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._started = time.monotonic()

    def spent(self) -> float:
        return time.monotonic() - self._started

    def left(self) -> float:
        return max(0.0, self.seconds - self.spent())


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A probe's good answer; `text` is None where only the status was asked for."""

    status: str
    text: str | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The deciding attempt: an answer or a failure, the attempt's seconds, and how many attempts there were."""

    result: Answer | ProbeFailed
    seconds: float
    attempts: int


def ask_until_answered(
    ask: Callable[[float], Answer],
    *,
    deadline: Deadline,
    request_timeout_s: float,
    attempts: int,
    report: Callable[[str], None],
) -> Outcome:
    """Calls `ask(seconds)` until it answers or fails for good, at most `attempts` times and until `deadline`."""
    pause = FIRST_PAUSE_S
    attempt = 0
    while True:
        attempt += 1
        started = time.monotonic()
        result: Answer | ProbeFailed
        try:
            if not deadline.left():
                raise ProbeFailed(f"no time is left of the {deadline.seconds:.0f} s for the whole test")
            result = ask(min(request_timeout_s, deadline.left()))
        except ProbeFailed as failure:
            result = failure
        seconds = time.monotonic() - started
        if not isinstance(result, NotYet) or attempt == attempts or deadline.left() <= pause:
            return Outcome(result=result, seconds=seconds, attempts=attempt)
        report(f"attempt {attempt} of {attempts}: {_first_line(result)}; again in {pause:.1f} s")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
