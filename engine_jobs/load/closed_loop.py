"""A closed loop: a fixed number of workers, each of which asks again as soon as its answer is there, watched in windows.

A window ends with a request's end, never between two, so that its throughput is exact also where requests end in waves. Windows
follow each other without a pause in the load.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from engine_jobs.load.client import Client
from engine_jobs.load.sample import Answered, RequestFailed, Sample
from engine_jobs.load.spec import WINDOWS, Measurement

LONGEST_WINDOW = 12
"""How many times its usual length a window may take where answers are slow; then it ends with what there is."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""A worker's pause after an error: a server that refuses at once is not asked in a tight loop."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """What ended between `start` and `end` (seconds of time.perf_counter)."""

    start: float
    end: float
    samples: tuple[Sample, ...]

    @property
    def answered(self) -> list[Sample]:
        return [sample for sample in self.samples if isinstance(sample.answer, Answered)]

    @property
    def throughput(self) -> float:
        """Good answers a second."""
        return len(self.answered) / max(self.end - self.start, 1e-9)

    @property
    def average_latency(self) -> float:
        """Seconds; 0 without an answer."""
        answered = self.answered
        return sum(sample.seconds for sample in answered) / len(answered) if answered else 0.0


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The windows that are the result, whether they agree, how many there were, and the time on a core that this process used for
    each second of them (1.0: the client keeps a core busy, and may itself be the limit)."""

    windows: tuple[Window, ...]
    stable: bool
    number: int
    client_cores: float


def is_stable(windows: Sequence[Window], percent: float) -> bool:
    """Whether the last windows agree: largest over smallest throughput, and average latency, within `percent`."""
    last = windows[-WINDOWS:]
    if len(last) < WINDOWS or not all(window.answered for window in last):
        return False
    return all(
        max(values) <= min(values) * (1 + percent / 100)
        for values in ([each.throughput for each in last], [each.average_latency for each in last])
    )


class _Watch:
    """Takes every sample as it ends, and closes windows at such moments."""

    def __init__(self) -> None:
        self.windows: asyncio.Queue[Window] = asyncio.Queue()
        self._samples: list[Sample] = []
        self._start = time.perf_counter()
        self._seconds, self._least = math.inf, 0

    def begin(self, seconds: float, least: int) -> None:
        """The next window, which starts where the one before ended, lasts for so many seconds and requests at least."""
        self._seconds, self._least = seconds, least

    def take(self, sample: Sample) -> None:
        self._samples.append(sample)
        if sample.end - self._start >= self._seconds and len(self._samples) >= self._least:
            self.close(sample.end)

    def close(self, end: float) -> None:
        self.windows.put_nowait(Window(start=self._start, end=end, samples=tuple(self._samples)))
        self._samples = []
        self._start, self._seconds = end, math.inf


async def keep_asking(
    clients: Sequence[Client], measurement: Measurement, report: Callable[[Sequence[Window]], None]
) -> Watched:
    """Keeps one request of each client under way until the windows agree (`Measurement`); `report` gets the windows so far as each
    ends. The requests that are under way at the end are waited for, so that the next load finds a server at rest."""
    watch, stop, numbers = _Watch(), asyncio.Event(), count()
    watch.begin(measurement.warm_up_s, len(clients))
    workers = [asyncio.create_task(_work(client, numbers, watch.take, stop)) for client in clients]
    windows: list[Window] = []
    try:
        await _next(watch, measurement)
        cores, began = time.process_time(), time.perf_counter()
        # Whole waves: where all answers come at once, a window that ended within a wave would count one too many or too few.
        least = math.ceil(measurement.min_requests / len(clients)) * len(clients)
        while len(windows) < measurement.max_windows:
            watch.begin(measurement.window_s, least)
            windows.append(await _next(watch, measurement))
            report(windows)
            if is_stable(windows, measurement.stability_percent) or not windows[-1].answered:
                break
        cores, seconds = time.process_time() - cores, time.perf_counter() - began
    finally:
        stop.set()
        await _end(workers)
    return Watched(
        windows=tuple(windows[-WINDOWS:]),
        stable=is_stable(windows, measurement.stability_percent),
        number=len(windows),
        client_cores=cores / seconds,
    )


async def _work(client: Client, numbers: "count[int]", take: Callable[[Sample], None], stop: asyncio.Event) -> None:
    pause = FIRST_PAUSE_S
    while not stop.is_set():
        start = time.perf_counter()
        answer: Answered | str
        try:
            answer = await client.ask(next(numbers))
        except RequestFailed as error:
            answer = str(error)
        take(Sample(start=start, end=time.perf_counter(), answer=answer))
        if isinstance(answer, Answered):
            pause = FIRST_PAUSE_S
        else:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


async def _next(watch: _Watch, measurement: Measurement) -> Window:
    longest = LONGEST_WINDOW * max(measurement.window_s, measurement.warm_up_s)
    try:
        return await asyncio.wait_for(watch.windows.get(), longest)
    except TimeoutError:
        watch.close(time.perf_counter())
        return await watch.windows.get()


async def _end(workers: list["asyncio.Task[None]"]) -> None:
    """Lets each worker have its last answer; an interrupted measurement does not wait for them."""
    current = asyncio.current_task()
    try:
        if current is None or not current.cancelling():
            await asyncio.wait(workers)
    finally:
        for worker in workers:
            worker.cancel()
        for ended in await asyncio.gather(*workers, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
