"""One measurement: so many requests under way at the same time, from the first connection to the numbers."""

import asyncio
from collections.abc import Callable, Sequence

from engine_jobs.load.client import Client, open_client
from engine_jobs.load.closed_loop import Window, keep_asking
from engine_jobs.load.results import Level, level_of
from engine_jobs.load.sample import Answered
from engine_jobs.load.server_statistics import read_counters, times_between
from engine_jobs.load.spec import Measurement, Workload
from engine_jobs.load.tokens import TokenCounter
from engine_jobs.smoke_test.endpoint import Origin


async def measure_level(
    workload: Workload,
    origin: Origin,
    concurrency: int,
    measurement: Measurement,
    counter: TokenCounter,
    report: Callable[[str], None],
) -> tuple[Level, str | None]:
    """The level, and how its tokens were counted. `report` gets a line as each window ends. Raises RequestFailed where there is
    no connection at all."""
    clients: list[Client] = []
    try:
        for _ in range(concurrency):  # what is open already is closed if the next fails
            clients.append(await open_client(workload, origin))  # noqa: PERF401
        before = await read_counters(origin, workload.model)
        watched = await keep_asking(clients, measurement, lambda windows: report(_line(windows, measurement)))
        after = await read_counters(origin, workload.model)
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    answers = [
        sample.answer for window in watched.windows for sample in window.samples if isinstance(sample.answer, Answered)
    ]
    tokens, how = counter.count(answers) or (None, None)
    return level_of(concurrency, watched, tokens, times_between(before, after)), how


def _line(windows: Sequence[Window], measurement: Measurement) -> str:
    last = windows[-1]
    errors = len(last.samples) - len(last.answered)
    return (
        f"window {len(windows)} of {measurement.max_windows} at most: {last.throughput:.4g} requests/s, "
        f"{1000 * last.average_latency:.4g} ms" + (f", {errors} errors" if errors else "")
    )
