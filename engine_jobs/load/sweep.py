"""A sweep over concurrency: each level in turn, the results so far kept whatever ends it."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from engine_jobs.errors import UserError
from engine_jobs.load.client import ask_once, find_origin
from engine_jobs.load.environment import machine
from engine_jobs.load.level import measure_level
from engine_jobs.load.progress import Progress
from engine_jobs.load.results import Level, SweepResult
from engine_jobs.load.sample import RequestFailed
from engine_jobs.load.spec import WINDOWS, Measurement, SweepSpec
from engine_jobs.load.tokens import TokenCounter
from engine_jobs.load.workload import prompts_of
from engine_jobs.smoke_test.cluster import ClusterAccess

BUSY_CLIENT = 0.85
"""From this part of a core on, the client's own work is in the numbers."""


@dataclass
class SweepRun:
    """A sweep that can be asked at any time for what it has."""

    spec: SweepSpec
    command: str
    access: ClusterAccess
    tokenizer: Path | None
    progress: Progress

    def __post_init__(self) -> None:
        self._started = now()
        self._levels: list[Level] = []
        self._tokens: str | None = None
        self._request = ""

    def prepare(self) -> None:
        """Finds the service and asks it once. Raises UserError where there is nothing to measure."""
        workload = self.spec.workload
        self._counter = TokenCounter(self.tokenizer, prompts_of(workload))
        self._origin = find_origin(workload, self.access)
        self._request = ask_once(workload, self._origin)

    async def run(self) -> None:
        """Raises UserError where a level has no answer at all; the levels before it are in the result."""
        spec, progress = self.spec, self.progress
        for done, concurrency in enumerate(spec.concurrency):
            left = progress.left(done, len(spec.concurrency), seconds_of_level(spec.measurement))
            head = f"concurrency {concurrency} ({done + 1} of {len(spec.concurrency)}), about {left} left{self._best()}"
            progress.now(head)
            try:
                level, how = await measure_level(
                    spec.workload,
                    self._origin,
                    concurrency,
                    spec.measurement,
                    self._counter,
                    lambda line, head=head: progress.now(f"{head}: {line}"),  # type: ignore[misc]
                )
            except RequestFailed as error:
                raise UserError(f"at concurrency {concurrency}: {error}") from None
            self._levels.append(level)
            self._tokens = how or self._tokens
            progress.say(line_of(level))
            for warning in warnings_of(level):
                progress.warn(warning)
            if not level.requests:
                raise UserError(f"at concurrency {concurrency} no request had a good answer: {_errors(level)}")

    def result(self) -> SweepResult:
        return SweepResult(
            name=self.spec.workload.name,
            started=self._started,
            environment={**self.spec.workload.about, **machine(), "command": self.command},
            request=self._request,
            measurement=self.spec.measurement,
            tokens=self._tokens,
            levels=tuple(self._levels),
            complete=len(self._levels) == len(self.spec.concurrency),
        )

    def _best(self) -> str:
        if not self._levels:
            return ""
        best = max(self._levels, key=lambda level: level.throughput)
        return f"; best so far {best.throughput:.4g} requests/s at {best.concurrency}"


def seconds_of_level(measurement: Measurement) -> float:
    """How long a level takes if its first windows agree."""
    return measurement.warm_up_s + WINDOWS * measurement.window_s


def line_of(level: Level) -> str:
    """A level in a line."""
    latency = level.latency
    parts = [f"concurrency {level.concurrency}: {level.throughput:.4g} requests/s"]
    if latency:
        parts.append(f"latency p50 {latency.p50:.4g} ms, p99 {latency.p99:.4g} ms")
    if level.first_token:
        parts.append(f"first token p50 {level.first_token.p50:.4g} ms")
    if level.tokens_per_second is not None:
        parts.append(f"{level.tokens_per_second:.4g} tokens/s")
    if level.errors:
        parts.append(f"{level.errors} ERRORS")
    return "; ".join(parts)


def warnings_of(level: Level) -> list[str]:
    """What keeps a level's numbers from being taken as they are."""
    warnings = failures_of(level)
    at = f"concurrency {level.concurrency}"
    if not level.stable and level.requests:
        warnings.append(
            f"{at}: not stable after {level.windows} windows; its numbers are of the last {WINDOWS}. "
            "Longer windows (--window) or more of them (--max-windows) may help"
        )
    return warnings


def failures_of(level: Level) -> list[str]:
    """What is wrong with a level, but for being unsteady."""
    at = f"concurrency {level.concurrency}"
    warnings = []
    if level.errors:
        total = level.requests + level.errors
        warnings.append(f"{at}: {level.errors} of {total} requests failed: {_errors(level)}")
    if level.client_cores > BUSY_CLIENT:
        warnings.append(
            f"{at}: the client itself used {level.client_cores:.2f} of a core, so the server may be faster than this shows"
        )
    return warnings


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _errors(level: Level) -> str:
    return "; ".join(f"{number} x {kind}" for kind, number in level.error_kinds.items())
