"""A search over how Triton serves a model: each trial is loaded, measured and ranked, and in the end the model is served as before.

For one server: behind a service of several replicas, a load would reach one of them only.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from engine_jobs.errors import UserError
from engine_jobs.load.client import ask_once, find_origin
from engine_jobs.load.environment import machine
from engine_jobs.load.level import measure_level
from engine_jobs.load.model_control import (
    LoadFailed,
    ModelControl,
    candidate_of,
    configured,
    instance_groups,
    instance_kind,
)
from engine_jobs.load.progress import Progress, duration
from engine_jobs.load.results import Level, Trial, TuneResult
from engine_jobs.load.sample import RequestFailed
from engine_jobs.load.search import Grid, best_level, climb, has_peaked, is_better, meets, ranked, starts
from engine_jobs.load.snippet import stack_snippet
from engine_jobs.load.spec import Candidate, TuneSpec
from engine_jobs.load.sweep import failures_of, now, seconds_of_level
from engine_jobs.load.tokens import TokenCounter
from engine_jobs.smoke_test.cluster import ClusterAccess


@dataclass
class TuneRun:
    """A search that can be asked at any time for what it has found."""

    spec: TuneSpec
    command: str
    access: ClusterAccess
    progress: Progress

    def __post_init__(self) -> None:
        self._started = now()
        self._trials: dict[Candidate, Trial] = {}
        self._grid = Grid.of(self.spec)
        self._complete = False
        self._restored = True

    def prepare(self) -> str:
        """Finds the model, asks it once and sees that it may be loaded; returns what will be done. Changes nothing. Raises
        UserError where the model can't be tuned."""
        spec = self.spec
        self._origin = find_origin(spec.workload, self.access)
        self._control = ModelControl(origin=self._origin, model=spec.tuning.model, load_timeout_s=spec.load_timeout_s)
        self.served = self._control.configuration()
        self._candidate = candidate_of(self.served)
        self._control.require_explicit_control()
        self._request = ask_once(spec.workload, self._origin)
        total = len(self._grid.all())
        longest = total * len(spec.concurrency) * seconds_of_level(spec.measurement)
        how = f"all {total} combinations" if spec.search == "exhaustive" else f"a climb among {total} combinations"
        bound = f"p99 latency of at most {spec.p99_ms:g} ms" if spec.p99_ms is not None else "no latency bound"
        return (
            f"This loads the model {spec.tuning.model!r} of {self._origin.where()} again and again with other settings: {how}, with "
            f"{bound}, about {duration(longest)} at most. Who asks it meanwhile meets these settings, and waits while it loads.\n"
            f"It is served now with: {self._candidate.text()}. It will be served so again at the end, also after Ctrl-C or an error."
        )

    def way_back(self, file: str) -> str:
        return self._control.way_back(file)

    def run(self) -> None:
        """Measures, and restores the model whatever happens; `result` says whether that went well."""
        try:
            self._search()
            self._complete = True
        finally:
            self.progress.now("loading the configuration that was served before")
            with _undisturbed():
                self._restored = self._control.restore(self.served)
            self.progress.clear()

    def result(self) -> TuneResult:
        spec = self.spec
        trials = ranked(list(self._trials.values()), spec.p99_ms)
        level = best_level(trials[0], spec.p99_ms) if trials else None
        won = level is not None and meets(level, spec.p99_ms)
        return TuneResult(
            name=spec.workload.name,
            started=self._started,
            environment={**spec.workload.about, **machine(), "command": self.command},
            request=self._request,
            measurement=spec.measurement,
            p99_ms=spec.p99_ms,
            search=spec.search,
            trials=trials,
            snippet=stack_snippet(spec.workload.name, spec.tuning, trials[0].candidate) if won else None,
            complete=self._complete,
            restored=self._restored,
        )

    def _search(self) -> None:
        self._keep(self._measured(self._candidate, f"{self.spec.tuning.model}_config_default"))
        if self.spec.search == "exhaustive":
            for candidate in self._grid.all():
                self._trial(candidate)
            return
        for start in starts(self._grid, self._candidate):
            climb(self._grid, start, self._is_better)

    def _is_better(self, one: Candidate, other: Candidate) -> bool:
        # The place that a step comes from is measured first.
        before = self._trial(other)
        return is_better(self._trial(one), before, self.spec.p99_ms)

    def _trial(self, candidate: Candidate) -> Trial:
        """The candidate's trial, measured if it has not been."""
        candidate = self._grid.plain(candidate)
        if candidate not in self._trials:
            name = f"{self.spec.tuning.model}_config_{len(self._trials) - 1}"
            self.progress.now(f"{self._head(candidate)}: loading")
            try:
                self._control.load(configured(self.served, candidate))
            except LoadFailed as error:
                trial = Trial(name=name, candidate=candidate, instances=self._instances(candidate), error=str(error))
            else:
                trial = self._measured(candidate, name)
            self._keep(trial)
        return self._trials[candidate]

    def _keep(self, trial: Trial) -> None:
        self._trials[trial.candidate] = trial
        self.progress.say(self._line(trial))
        for warning in (warning for level in trial.levels for warning in failures_of(level)):
            self.progress.warn(f"{trial.name}: {warning}")

    def _measured(self, candidate: Candidate, name: str) -> Trial:
        levels: list[Level] = []
        error: str | None = None
        counter = TokenCounter(None, ())
        for concurrency in self.spec.concurrency:
            head = f"{self._head(candidate)}, concurrency {concurrency}"
            self.progress.now(head)
            try:
                level, _ = asyncio.run(
                    measure_level(
                        self.spec.workload,
                        self._origin,
                        concurrency,
                        self.spec.measurement,
                        counter,
                        lambda line, head=head: self.progress.now(f"{head}: {line}"),  # type: ignore[misc]
                    )
                )
            except RequestFailed as failed:
                error = f"at concurrency {concurrency}: {failed}"
                break
            levels.append(level)
            if has_peaked(levels, self.spec.p99_ms):
                break
        return Trial(
            name=name, candidate=candidate, instances=self._instances(candidate), levels=tuple(levels), error=error
        )

    def _instances(self, candidate: Candidate) -> str:
        return f"{candidate.instances * instance_groups(self.served)}:{instance_kind(self.served)}"

    def _head(self, candidate: Candidate) -> str:
        number, total = len(self._trials) + 1, len(self._grid.all()) + 1
        best = ranked(list(self._trials.values()), self.spec.p99_ms)[:1]
        level = best_level(best[0], self.spec.p99_ms) if best else None
        so_far = f"; best so far {level.throughput:.4g} requests/s" if level else ""
        left = self.progress.left(
            number - 1, total, len(self.spec.concurrency) * seconds_of_level(self.spec.measurement)
        )
        return f"trial {number} of {total} at most, {left} left at most{so_far}; now {candidate.text()}"

    def _line(self, trial: Trial) -> str:
        level = best_level(trial, self.spec.p99_ms)
        head = f"{trial.name}: {trial.candidate.text()}: "
        if level is None:
            return head + (trial.error or "no good answer")
        beyond = "" if meets(level, self.spec.p99_ms) else " (beyond the bound)"
        return f"{head}{level.throughput:.4g} requests/s, p99 {level.p99:.4g} ms at concurrency {level.concurrency}{beyond}"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and the end of a Job's time do not break off what is in the block."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def confirm(what: str, *, yes: bool) -> None:
    """Says what will be done, and goes on if it was agreed to: by --yes, or at a terminal. Raises UserError where it was not."""
    print(what, file=sys.stderr, flush=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError("nothing was changed: agree with --yes (make tune: YES=1), for there is no terminal to ask at")
    if input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was changed")
