"""A sweep's page and table."""

from collections.abc import Callable, Sequence

from engine_jobs.load import page
from engine_jobs.load.charts import Chart, Point, Series, number
from engine_jobs.load.results import Distribution, Level, SweepResult
from engine_jobs.load.spec import WINDOWS, Measurement
from engine_jobs.load.sweep import warnings_of

REQUESTS_AT_ONCE = "requests at the same time"


def sweep_page(result: SweepResult) -> str:
    """Self-contained HTML. Raises ValueError for a result without a level."""
    warnings = [warning for level in result.levels for warning in warnings_of(level)]
    if not result.complete:
        warnings.insert(0, "The sweep was ended before all of its levels were measured.")
    return page.page(
        f"Load test of {result.name}",
        page.heading(f"Load test of {result.name}", f"{result.started.replace('T', ' ').replace('+00:00', ' UTC')}"),
        page.tiles(_tiles(result)),
        page.warnings(warnings),
        page.section("Curves", page.charts(sweep_charts(result.levels))),
        page.section("All numbers", *sweep_tables(result.levels), page.text(_footnote(result))),
        page.section("Where it was measured", page.facts(result.environment)),
        page.section("The request", page.code(result.request)),
        page.section("How it was measured", page.text(method(result.measurement))),
    )


def _tiles(result: SweepResult) -> list[tuple[str, str, str]]:
    first, best = result.levels[0], max(result.levels, key=lambda level: level.throughput)
    tiles = [(number(best.throughput), "requests/s", f"highest throughput, at concurrency {best.concurrency}")]
    if best.tokens_per_second is not None:
        fastest = max(result.levels, key=lambda level: level.tokens_per_second or 0)
        tiles.append(
            (number(fastest.tokens_per_second or 0), "tokens/s", f"highest, at concurrency {fastest.concurrency}")
        )
    tiles += [
        (number(level.latency.p99), "ms", f"p99 latency at concurrency {level.concurrency}")
        for level in ([first] if best is first else [first, best])
        if level.latency
    ]
    if first.first_token:
        tiles.append(
            (number(first.first_token.p50), "ms", f"to the first token, median at concurrency {first.concurrency}")
        )
    return tiles


def sweep_charts(levels: Sequence[Level]) -> list[Chart]:
    measured = [level for level in levels if level.latency]
    return [
        Chart(
            title="Throughput",
            x_label=REQUESTS_AT_ONCE,
            y_label="requests/s",
            series=(line("", 0, measured, lambda level: level.throughput, "requests/s"),),
        ),
        Chart(
            title="Latency",
            x_label=REQUESTS_AT_ONCE,
            y_label="ms",
            series=_percentiles(measured, lambda level: level.latency),
        ),
        tail_chart([("", measured)]),
        Chart(
            title="Tokens",
            x_label=REQUESTS_AT_ONCE,
            y_label="tokens/s",
            series=(line("", 3, measured, lambda level: level.tokens_per_second, "tokens/s"),),
        ),
        Chart(
            title="Time to the first token",
            x_label=REQUESTS_AT_ONCE,
            y_label="ms",
            series=_percentiles(measured, lambda level: level.first_token),
        ),
        Chart(
            title="Time between tokens",
            x_label=REQUESTS_AT_ONCE,
            y_label="ms",
            series=_percentiles(measured, lambda level: level.between_tokens),
        ),
        Chart(
            title="Where a request's time goes, on the server",
            x_label=REQUESTS_AT_ONCE,
            y_label="ms, average",
            series=(
                line("waiting in the queue", 1, measured, lambda level: getattr(level.server, "queue", None), "ms"),
                line("computing", 0, measured, lambda level: getattr(level.server, "compute_infer", None), "ms"),
            ),
        ),
        Chart(
            title="Batches, on the server",
            x_label=REQUESTS_AT_ONCE,
            y_label="requests in a batch, average",
            series=(line("", 4, measured, lambda level: getattr(level.server, "batch", None), "requests"),),
        ),
    ]


def tail_chart(runs: Sequence[tuple[str, Sequence[Level]]], bound: tuple[float, str] | None = None) -> Chart:
    """p99 latency against throughput, a mark for each concurrency, which stands beside it."""
    return Chart(
        title="Tail latency against throughput",
        x_label="requests/s (beside a mark: requests at the same time)",
        y_label="p99 latency, ms",
        x_scale="linear",
        bound=bound,
        series=tuple(
            Series(
                name=name,
                colour=index if name else 2,
                points=tuple(
                    Point(
                        x=level.throughput,
                        y=level.latency.p99,
                        label=str(level.concurrency),
                        note=f"{name + ', ' if name else ''}concurrency {level.concurrency}: "
                        f"{number(level.throughput)} requests/s, p99 {number(level.latency.p99)} ms",
                    )
                    for level in levels
                    if level.latency
                ),
            )
            for index, (name, levels) in enumerate(runs)
        ),
    )


def line(name: str, colour: int, levels: Sequence[Level], value: Callable[[Level], float | None], unit: str) -> Series:
    """A number of each level that has it, against concurrency."""
    found = [(level, value(level)) for level in levels]
    return Series(
        name=name,
        colour=colour,
        points=tuple(
            Point(
                x=level.concurrency,
                y=each,
                note=f"{name + ', ' if name else ''}concurrency {level.concurrency}: {number(each)} {unit}",
            )
            for level, each in found
            if each is not None
        ),
    )


def _percentiles(levels: Sequence[Level], of: Callable[[Level], Distribution | None]) -> tuple[Series, ...]:
    def part(name: str) -> Callable[[Level], float | None]:
        return lambda level: getattr(of(level), name, None)

    return tuple(line(name, colour, levels, part(name), "ms") for name, colour in (("p99", 2), ("p90", 1), ("p50", 0)))


PARTS = ("avg", "p50", "p90", "p95", "p99", "max")


def sweep_tables(levels: Sequence[Level], marked: Level | None = None) -> list[str]:
    """Every number of every level: throughput and latency, then the streams' times and the server's own, where there are any.
    The row of the level `marked`, or else the one of the highest throughput, stands out."""
    marked = marked or max(levels, key=lambda level: level.throughput)
    tokens = any(level.tokens_per_second is not None for level in levels)
    plain = ["requests/s", *(["tokens/s"] if tokens else [])]
    counts = ["requests", "errors", "stable", "windows", "client, cores"]
    rows = []
    for level in levels:
        cells = [page.cell(level.throughput), *([page.cell(level.tokens_per_second)] if tokens else [])]
        cells += _times(level.latency)
        cells += [page.cell(level.requests, "group"), page.cell(level.errors, "bad" if level.errors else "")]
        cells += [page.cell("yes" if level.stable else "no", "" if level.stable else "bad"), page.cell(level.windows)]
        rows.append([*cells, page.cell(level.client_cores)])
    tables = [_table(levels, marked, [("", plain), ("latency, ms", PARTS), ("measurement", counts)], rows)]
    streams = [level.first_token or level.between_tokens for level in levels]
    if any(streams):
        groups = [("first token, ms", PARTS), ("between tokens, ms", PARTS)]
        tables.append(
            _table(
                levels, marked, groups, [_times(level.first_token) + _times(level.between_tokens) for level in levels]
            )
        )
    if any(level.server for level in levels):
        names = ("queue", "compute_input", "compute_infer", "compute_output", "batch")
        own = [[page.cell(getattr(level.server, name, None)) for name in names] for level in levels]
        shown = ["queue", "input", "inference", "output", "requests in a batch"]
        tables.append(_table(levels, marked, [("on the server, average of a request in ms", shown)], own))
    return tables


def _times(distribution: Distribution | None) -> list[str]:
    return [page.cell(getattr(distribution, part, None), "group" if part == "avg" else "") for part in PARTS]


def _table(
    levels: Sequence[Level], marked: Level, groups: Sequence[tuple[str, Sequence[str]]], cells: Sequence[Sequence[str]]
) -> str:
    """A row for each level."""
    above = "".join(f'<th class="group" colspan="{len(names)}">{title}</th>' for title, names in groups)
    below = "".join(
        f'<th class="group">{name}</th>' if index == 0 else f"<th>{name}</th>"
        for _, names in groups
        for index, name in enumerate(names)
    )
    rows = [
        f"<tr{' class=best' if level is marked else ''}><th>{level.concurrency}</th>{''.join(row)}</tr>"
        for level, row in zip(levels, cells, strict=True)
    ]
    return page.table(f"<tr><th></th>{above}</tr><tr><th>concurrency</th>{below}</tr>", rows)


def _footnote(result: SweepResult) -> str:
    counted = f" Tokens are counted {result.tokens}." if result.tokens and result.tokens.startswith("by ") else ""
    counted = counted or (f" Tokens are the {result.tokens}." if result.tokens else "")
    return (
        "Percentiles are measured times (nearest rank): of fewer than 100 requests, p99 is the largest. The row with the highest "
        f"throughput is marked.{counted}"
    )


def method(measurement: Measurement) -> str:
    """The measurement in words."""
    return (
        "A closed loop: each of the concurrent workers has a connection of its own and asks again as soon as its answer is "
        f"complete. After {measurement.warm_up_s:g} s to warm up, windows of at least {measurement.window_s:g} s and "
        f"{measurement.min_requests} requests (and one for each worker) follow until the last {WINDOWS} agree in throughput and in "
        f"average latency within {measurement.stability_percent:g} %, {measurement.max_windows} windows at most; those {WINDOWS} are "
        "the result. Every answer is checked as the smoke test checks it; what fails is counted as an error and is in no latency."
    )


def sweep_text(result: SweepResult) -> str:
    """A table for a terminal or a Job's log."""
    head = ["concurrency", "requests/s", "p50 ms", "p90 ms", "p99 ms", "avg ms", "errors", "stable"]
    streams = any(level.first_token for level in result.levels)
    tokens = any(level.tokens_per_second is not None for level in result.levels)
    head += ["first token p50 ms", "between tokens p50 ms"] if streams else []
    head += ["tokens/s"] if tokens else []
    rows = [head]
    for level in result.levels:
        row = [str(level.concurrency), number(level.throughput)]
        row += [_number(getattr(level.latency, part, None)) for part in ("p50", "p90", "p99", "avg")]
        row += [str(level.errors), "yes" if level.stable else "no"]
        row += (
            [_number(getattr(each, "p50", None)) for each in (level.first_token, level.between_tokens)]
            if streams
            else []
        )
        row += [_number(level.tokens_per_second)] if tokens else []
        rows.append(row)
    return columns_text(rows)


def columns_text(rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Rows with their columns under each other, the first `left` of them to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _number(value: float | None) -> str:
    return "-" if value is None else number(value)
