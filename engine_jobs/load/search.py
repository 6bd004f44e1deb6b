"""Which settings to try next: all of a grid, or a climb from several places towards higher throughput, as Model Analyzer's quick search."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from engine_jobs.load.results import Level, Trial
from engine_jobs.load.spec import OFF, Candidate, TuneSpec

LEAST_GAIN = 1.02
"""A step is taken for at least so many times the throughput: less is noise."""

GROWTH = 1.05
"""Throughput that grows by less from one concurrency to the next has reached its end."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The product of the values of a search, without what makes no difference: alone in its batch, a request has no use for
    dynamic batching; without dynamic batching, no batch is larger for a larger maximum."""

    instances: tuple[int, ...]
    max_batch_sizes: tuple[int, ...]
    queue_delays_us: tuple[int, ...]

    @staticmethod
    def of(spec: TuneSpec) -> "Grid":
        return Grid(
            instances=spec.instances, max_batch_sizes=spec.max_batch_sizes, queue_delays_us=spec.queue_delays_us
        )

    def plain(self, candidate: Candidate) -> Candidate:
        """The one that stands for all that make no difference to this one."""
        if OFF not in self.queue_delays_us or (candidate.batches and candidate.max_batch_size > 1):
            return candidate
        return replace(candidate, max_batch_size=self.max_batch_sizes[0], queue_delay_us=OFF)

    def all(self) -> list[Candidate]:
        """Each once, in rising order of instances, batch size, delay."""
        every = product(self.instances, self.max_batch_sizes, self.queue_delays_us)
        plain = (
            self.plain(Candidate(instances=count, max_batch_size=size, queue_delay_us=delay))
            for count, size, delay in every
        )
        return list(dict.fromkeys(plain))

    def nearest(self, candidate: Candidate) -> Candidate:
        return Candidate(
            instances=_nearest(self.instances, candidate.instances),
            max_batch_size=_nearest(self.max_batch_sizes, candidate.max_batch_size),
            queue_delay_us=_nearest(self.queue_delays_us, candidate.queue_delay_us),
        )

    def steps(self, candidate: Candidate, dimension: str, direction: int) -> Iterator[Candidate]:
        """The candidates on from this one in a direction of a dimension, to the grid's edge."""
        values = {
            "instances": self.instances,
            "max_batch_size": self.max_batch_sizes,
            "queue_delay_us": self.queue_delays_us,
        }[dimension]
        index = values.index(getattr(candidate, dimension)) + direction
        while 0 <= index < len(values):
            changed = {dimension: values[index]}
            yield replace(candidate, **changed)
            index += direction


def _nearest(values: tuple[int, ...], value: int) -> int:
    return min(values, key=lambda each: abs(each - value))


def climb(grid: Grid, start: Candidate, better: Callable[[Candidate, Candidate], bool]) -> Candidate:
    """From `start` one dimension after the other, as long as a step is better than where it came from, until none is. `better`
    measures what it has not measured yet: whether the first is better than the second."""
    at, moved = start, True
    while moved:
        moved = False
        for dimension in ("max_batch_size", "queue_delay_us", "instances"):
            for direction in (1, -1):
                for step in grid.steps(at, dimension, direction):
                    if not better(step, at):
                        break
                    at, moved = step, True
    return at


def starts(grid: Grid, served: Candidate) -> list[Candidate]:
    """Where to climb from: near what is served, and from the largest batches on one instance, for batching pays only where both
    its size and its delay allow it, which single steps from no batching don't find."""
    batching = [delay for delay in grid.queue_delays_us if delay != OFF] or [OFF]
    largest = Candidate(
        instances=grid.instances[0], max_batch_size=grid.max_batch_sizes[-1], queue_delay_us=batching[0]
    )
    return list(dict.fromkeys((grid.nearest(served), largest)))


def best_level(trial: Trial, p99_ms: float | None) -> Level | None:
    """The level that counts: of those within the bound the one of the highest throughput; of none within, the quickest."""
    answered = [level for level in trial.levels if level.latency]
    within = [level for level in answered if meets(level, p99_ms)]
    if within:
        return max(within, key=lambda level: level.throughput)
    return min(answered, key=lambda level: level.p99) if answered else None


def meets(level: Level, p99_ms: float | None) -> bool:
    """Within the bound, and without errors."""
    return not level.errors and (p99_ms is None or level.p99 <= p99_ms)


def is_better(one: Trial, other: Trial, p99_ms: float | None) -> bool:
    """Whether one is better than the other by more than noise."""
    first, second = (best_level(trial, p99_ms) for trial in (one, other))
    if first is None or second is None:
        return second is None and first is not None
    if meets(first, p99_ms) != meets(second, p99_ms):
        return meets(first, p99_ms)
    if meets(first, p99_ms):
        return first.throughput > LEAST_GAIN * second.throughput
    return first.p99 * LEAST_GAIN < second.p99


def ranked(trials: list[Trial], p99_ms: float | None) -> tuple[Trial, ...]:
    """Those within the bound by throughput, then those beyond by latency, then those without an answer."""

    def place(trial: Trial) -> tuple[int, float]:
        level = best_level(trial, p99_ms)
        if level is None:
            return 2, 0.0
        return (0, -level.throughput) if meets(level, p99_ms) else (1, level.p99)

    return tuple(sorted(trials, key=place))


def has_peaked(levels: list[Level], p99_ms: float | None) -> bool:
    """Whether a higher concurrency can't be better: the bound is left, or throughput has stopped to grow."""
    last = levels[-1]
    if not last.latency or (p99_ms is not None and last.p99 > p99_ms):
        return True
    before = [level.throughput for level in levels[:-1]]
    return bool(before) and last.throughput < GROWTH * max(before)
