"""What one request of a load test came to."""

from dataclasses import dataclass


class RequestFailed(Exception):
    """A request without a good answer; the message is its kind, as errors are counted by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """`text` is the whole answer; `arrivals` are when its pieces came, on the clock of time.perf_counter, in seconds: those
    of a stream that held text. Empty for an answer that came as one."""

    text: str
    arrivals: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A request from `start` to `end` on the clock of time.perf_counter, in seconds; `answer` is what came, or the kind of error."""

    start: float
    end: float
    answer: Answered | str

    @property
    def seconds(self) -> float:
        return self.end - self.start
