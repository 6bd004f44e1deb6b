"""What a load test found: numbers for people, for programs (JSON) and for a spreadsheet (CSV). Latencies are in milliseconds."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from engine_jobs.load.closed_loop import Watched
from engine_jobs.load.sample import Answered
from engine_jobs.load.spec import Candidate, Measurement

KINDS_OF_ERRORS = 12
"""How many kinds of errors a level tells apart; the rest are counted together."""
OTHER = "other errors"


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Of `count` times in milliseconds. A percentile is the smallest of them that so many percent do not exceed (nearest rank):
    a time that was measured; of fewer than 100, p99 is the largest."""

    count: int
    avg: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @staticmethod
    def of(seconds: Iterable[float]) -> "Distribution | None":
        """None of nothing."""
        ordered = sorted(1000 * each for each in seconds)
        if not ordered:
            return None
        p50, p90, p95, p99 = (round(percentile(ordered, percent), 4) for percent in (50, 90, 95, 99))
        return Distribution(
            count=len(ordered),
            avg=round(math.fsum(ordered) / len(ordered), 4),
            min=round(ordered[0], 4),
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            max=round(ordered[-1], 4),
        )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of rising numbers, of which there is at least one."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True, kw_only=True)
class ServerTimes:
    """Triton's own average of the model over the measurement, in milliseconds for each request; `batch` is how many requests an
    execution had on average."""

    queue: float
    compute_input: float
    compute_infer: float
    compute_output: float
    batch: float


@dataclass(frozen=True, kw_only=True)
class Level:
    """The measurement at one concurrency.

    `requests` and `errors` are of the windows that are the result (`seconds` long in all); `throughput` is good answers a second;
    `tokens_per_second` are those of the answers, where they can be counted. `first_token` is from the request to a stream's
    first text, `between_tokens` from each text of a stream to the next.
    """

    concurrency: int
    requests: int
    errors: int
    error_kinds: Mapping[str, int]
    seconds: float
    windows: int
    stable: bool
    throughput: float
    tokens_per_second: float | None
    latency: Distribution | None
    first_token: Distribution | None
    between_tokens: Distribution | None
    server: ServerTimes | None
    client_cores: float

    @property
    def p99(self) -> float:
        """Milliseconds; infinite without an answer."""
        return self.latency.p99 if self.latency else math.inf


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """`complete`: all of the asked levels are there. `tokens`: how tokens were counted (None: not at all)."""

    name: str
    started: str
    environment: Mapping[str, str]
    request: str
    measurement: Measurement
    tokens: str | None
    levels: tuple[Level, ...]
    complete: bool
    format: str = "llm-serving/load/1"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate's measurements; `error` where it could not be loaded or gave no answers. `name` and `instances` (of all groups,
    with their kind, such as 3:GPU) are as in Model Analyzer's table."""

    name: str
    candidate: Candidate
    instances: str
    levels: tuple[Level, ...] = ()
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """`trials` are ranked, the best first; `snippet` is the stack file's part with the winner's settings (None: no winner)."""

    name: str
    started: str
    environment: Mapping[str, str]
    request: str
    measurement: Measurement
    p99_ms: float | None
    search: str
    trials: tuple[Trial, ...]
    snippet: str | None
    complete: bool
    restored: bool
    format: str = "llm-serving/tune/1"


def level_of(concurrency: int, watched: Watched, tokens: int | None, server: ServerTimes | None) -> Level:
    """The numbers of what was watched, in which so many tokens came (None: not countable)."""
    samples = [sample for window in watched.windows for sample in window.samples]
    answered = [(sample, sample.answer) for sample in samples if isinstance(sample.answer, Answered)]
    seconds = sum(window.end - window.start for window in watched.windows)
    errors = Counter(sample.answer for sample in samples if isinstance(sample.answer, str))
    return Level(
        concurrency=concurrency,
        requests=len(answered),
        errors=errors.total(),
        error_kinds=_few(errors),
        seconds=round(seconds, 4),
        windows=watched.number,
        stable=watched.stable,
        throughput=round(len(answered) / seconds, 4) if seconds else 0.0,
        tokens_per_second=round(tokens / seconds, 4) if tokens is not None and seconds else None,
        latency=Distribution.of(sample.seconds for sample, _ in answered),
        first_token=Distribution.of(
            answer.arrivals[0] - sample.start for sample, answer in answered if answer.arrivals
        ),
        between_tokens=Distribution.of(
            later - earlier
            for _, answer in answered
            for earlier, later in zip(answer.arrivals, answer.arrivals[1:], strict=False)
        ),
        server=server,
        client_cores=round(watched.client_cores, 3),
    )


def _few(errors: Counter[str]) -> dict[str, int]:
    told = dict(errors.most_common(KINDS_OF_ERRORS))
    if rest := errors.total() - sum(told.values()):
        told[OTHER] = rest
    return told


def columns(level: Level) -> dict[str, object]:
    """One row of a table: every number under a name with its unit; empty where there is none."""
    row: dict[str, object] = {
        "concurrency": level.concurrency,
        "throughput_per_s": level.throughput,
        "tokens_per_s": _or_empty(level.tokens_per_second),
        "requests": level.requests,
        "errors": level.errors,
        "stable": str(level.stable).lower(),
        "windows": level.windows,
        "seconds": level.seconds,
    }
    for name, distribution in (
        ("latency", level.latency),
        ("first_token", level.first_token),
        ("between_tokens", level.between_tokens),
    ):
        for part in ("avg", "min", "p50", "p90", "p95", "p99", "max"):
            row[f"{name}_{part}_ms"] = _or_empty(getattr(distribution, part, None))
    for each in fields(ServerTimes):
        unit = "" if each.name == "batch" else "_ms"
        row[f"server_{each.name}{unit}"] = _or_empty(getattr(level.server, each.name, None))
    return row | {"client_cores": level.client_cores, "error_kinds": _kinds(level.error_kinds)}


def _or_empty(value: object) -> object:
    return "" if value is None else value


def _kinds(kinds: Mapping[str, int]) -> str:
    return "; ".join(f"{number} x {kind}" for kind, number in kinds.items())
