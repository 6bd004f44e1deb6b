"""What a load test asks and how it measures, as data: a workload, a measurement, a sweep, and the settings that a tuning searches.

Standard library only, so that a recipe's description may name a `Tuning`. All of it travels to a Job as JSON.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from engine_jobs.errors import UserError
from engine_jobs.smoke_test.decode import Json, decode, encode
from engine_jobs.smoke_test.spec import GrpcProbe, HttpProbe, InferenceServiceTarget, UrlTarget

T = TypeVar("T")


def _positive(value: float, what: str) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"{what} must be above 0 and finite, got {value}")


def _levels(concurrency: tuple[int, ...]) -> None:
    if not concurrency or min(concurrency) < 1 or sorted(set(concurrency)) != list(concurrency):
        raise UserError(f"concurrency must be rising numbers of 1 or more, such as 1,2,4, got {_shown(concurrency)}")


def _shown(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values)) or "none"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One request, asked again and again: a smoke test's probe, and where it goes.

    An answer counts if the probe would let it pass, its expected text included. `prompt` is where the question's text is: the
    JSON pointer of a place in the body (HTTP), or the name of a BYTES tensor (gRPC); `prompts` are asked there in turn, in place of
    the probe's own (then no text is expected). `about` is what a report says of the model and its server.
    """

    name: str
    target: UrlTarget | InferenceServiceTarget
    probe: HttpProbe | GrpcProbe
    prompt: str | None = None
    prompts: tuple[str, ...] = ()
    timeout_s: float = 120.0
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.probe, GrpcProbe) and not self.probe.inputs:
            raise UserError(f"workload {self.name!r}: a gRPC probe without inputs infers nothing, so there is no load")
        if isinstance(self.target, UrlTarget) and self.probe.component:
            raise UserError(f"workload {self.name!r}: `component` needs an InferenceService, whose status has its host")
        if self.prompts and self.prompt is None:
            raise UserError(f"workload {self.name!r}: prompts need `prompt`, the place in the request that they fill")
        _positive(self.timeout_s, "timeout_s")

    @property
    def model(self) -> str | None:
        """The model's name in a server of the v2 protocol, where the request tells it."""
        if isinstance(self.probe, GrpcProbe):
            return self.probe.model
        parts = self.probe.path.split("/")
        return parts[3] if parts[1:3] == ["v2", "models"] and len(parts) > 4 else None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How long a load is kept up and watched.

    After `warm_up_s` (and one answer for each worker) come windows of at least `window_s` and `min_requests` answers. As with
    perf_analyzer, a measurement is stable when the largest of the last three windows' throughputs is at most
    `stability_percent` above the smallest, and their average latencies too; these three windows are the result. After
    `max_windows` the last three are taken as they are, and the result says that it is not stable.
    """

    window_s: float = 5.0
    warm_up_s: float = 2.0
    min_requests: int = 10
    stability_percent: float = 10.0
    max_windows: int = 10

    def __post_init__(self) -> None:
        _positive(self.window_s, "window_s")
        if not 0 <= self.warm_up_s < math.inf:
            raise UserError(f"warm_up_s must be 0 or more and finite, got {self.warm_up_s}")
        _positive(self.min_requests, "min_requests")
        _positive(self.stability_percent, "stability_percent")
        if self.max_windows < WINDOWS:
            raise UserError(
                f"max_windows must be {WINDOWS} or more, for so many are the result; got {self.max_windows}"
            )


WINDOWS = 3
"""The windows that make a result (perf_analyzer's number)."""


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """A measurement at each number of requests that are under way at the same time."""

    workload: Workload
    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16)
    measurement: Measurement = field(default_factory=Measurement)

    def __post_init__(self) -> None:
        _levels(self.concurrency)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A model of a Triton in explicit model control whose settings can be searched.

    `model` is its name in Triton; `probe` the name of the smoke test's probe that asks it (None: the last with an answer). The
    others are where the stack file keeps a setting: keys below the model's `recipe:`, joined by dots; None where it has none.
    `dynamic_batching` is an object there, and null where batching is off.
    """

    model: str
    probe: str | None = None
    max_batch_size: str | None = "maxBatchSize"
    instances: str | None = "instances"
    dynamic_batching: str | None = "dynamicBatching"
    queue_delay_us: str | None = "dynamicBatching.maxQueueDelayMicroseconds"


@dataclass(frozen=True, kw_only=True, order=True)
class Candidate:
    """Settings of a served model. `queue_delay_us`: how long a request may wait for others to share its batch, in
    microseconds; -1: dynamic batching is off."""

    instances: int
    max_batch_size: int
    queue_delay_us: int

    @property
    def batches(self) -> bool:
        return self.queue_delay_us >= 0

    def text(self) -> str:
        batching = f"queue delay {self.queue_delay_us} µs" if self.batches else "no dynamic batching"
        return f"{self.instances} x instances, max batch size {self.max_batch_size}, {batching}"


OFF = -1
"""The queue delay that stands for no dynamic batching."""


TUNE_MEASUREMENT = Measurement(window_s=2.0, warm_up_s=1.0, max_windows=6)
"""Shorter than a sweep's: there are many, and the best may be swept afterwards."""


@dataclass(frozen=True, kw_only=True)
class TuneSpec:
    """A search over the product of `instances`, `max_batch_sizes` and `queue_delays_us` (OFF among them) for the highest throughput
    whose p99 latency is at most `p99_ms`. A trial is measured at rising `concurrency`, until latency leaves the bound or
    throughput no longer grows; its best level counts."""

    workload: Workload
    tuning: Tuning
    p99_ms: float | None = None
    search: Literal["quick", "exhaustive"] = "quick"
    instances: tuple[int, ...] = (1, 2, 3)
    max_batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    queue_delays_us: tuple[int, ...] = (OFF, 0, 1000, 5000)
    concurrency: tuple[int, ...] = (1, 4, 16)
    measurement: Measurement = TUNE_MEASUREMENT
    load_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        _levels(self.concurrency)
        for key, least in (("instances", 1), ("max_batch_sizes", 1), ("queue_delays_us", OFF)):
            values = getattr(self, key)
            if not values or min(values) < least or sorted(set(values)) != list(values):
                raise UserError(f"{key} must be rising numbers of {least} or more, got {_shown(values)}")
        if self.p99_ms is not None:
            _positive(self.p99_ms, "p99_ms")
        _positive(self.load_timeout_s, "load_timeout_s")


def to_json(value: object) -> str:
    """Canonical: keys sorted, no white space."""
    return json.dumps(encode(value), sort_keys=True, separators=(",", ":"))


def from_json(cls: type[T], text: str, source: str) -> T:
    """Strict inverse of `to_json`. Raises UserError, which names `source` and the key."""
    try:
        document: Json = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{source}: not JSON: {error}") from None
    return decode(cls, document, source)
