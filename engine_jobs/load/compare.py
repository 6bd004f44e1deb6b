"""Several sweeps beside each other: their ratios to the first, and one page with all curves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from engine_jobs.errors import UserError
from engine_jobs.load import page
from engine_jobs.load.charts import Chart, number
from engine_jobs.load.results import Level, SweepResult
from engine_jobs.load.sweep import warnings_of
from engine_jobs.load.sweep_report import REQUESTS_AT_ONCE, columns_text, line, sweep_tables, tail_chart

HEAD = ("", "requests/s", "ratio", "p50 ms", "p99 ms", "p99 ratio", "tokens/s", "first token p50 ms")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`runs` by name, the one that ratios are to first; `at` is the concurrency of the short table."""

    runs: tuple[tuple[str, SweepResult], ...]
    at: int

    @staticmethod
    def of(runs: Sequence[tuple[str, SweepResult]], at: int | None) -> "Comparison":
        """`at`: by default the highest concurrency that all have. Raises UserError where they have none in common, or not this."""
        if len(runs) < 2:
            raise UserError("compare needs two results at least")
        if len({name for name, _ in runs}) < len(runs):
            raise UserError(f"--names: {', '.join(name for name, _ in runs)}: each needs a name of its own")
        common = set.intersection(*({level.concurrency for level in result.levels} for _, result in runs))
        if not common or (at is not None and at not in common):
            wanted = f"concurrency {at}" if at is not None else "one concurrency"
            raise UserError(f"not all of these results have {wanted}: {'; '.join(map(_levels, runs))}")
        return Comparison(runs=tuple(runs), at=at if at is not None else max(common))

    def rows(self, concurrency: int) -> list[list[str]]:
        """A row for each run that has this concurrency."""
        first = _level(self.runs[0][1], concurrency)
        found = []
        for name, result in self.runs:
            level = _level(result, concurrency)
            if level is None:
                continue
            found.append(
                [
                    name,
                    number(level.throughput),
                    _ratio(level.throughput, first.throughput if first else None),
                    _shown(level.latency.p50 if level.latency else None),
                    _shown(level.latency.p99 if level.latency else None),
                    _ratio(level.latency.p99 if level.latency else None, first.p99 if first else None),
                    _shown(level.tokens_per_second),
                    _shown(level.first_token.p50 if level.first_token else None),
                ]
            )
        return found


def _levels(run: tuple[str, SweepResult]) -> str:
    return f"{run[0]} has {', '.join(str(level.concurrency) for level in run[1].levels) or 'none'}"


def _level(result: SweepResult, concurrency: int) -> Level | None:
    return next((level for level in result.levels if level.concurrency == concurrency), None)


def _ratio(value: float | None, to: float | None) -> str:
    return f"{value / to:.2f} x" if value is not None and to else "-"


def _shown(value: float | None) -> str:
    return "-" if value is None else number(value)


def compare_text(comparison: Comparison) -> str:
    rows = [list(HEAD), *comparison.rows(comparison.at)]
    used = [index for index in range(len(HEAD)) if index == 0 or any(row[index] != "-" for row in rows[1:])]
    table = columns_text([[row[index] for index in used] for row in rows], left=1)
    return f"concurrency {comparison.at}\n{table}"


def compare_page(comparison: Comparison) -> str:
    """Self-contained HTML."""
    names = [name for name, _ in comparison.runs]
    title = f"Load tests compared: {', '.join(names)}"
    warnings = [
        f"{name}: {warning}"
        for name, result in comparison.runs
        for level in result.levels
        for warning in warnings_of(level)
    ]
    return page.page(
        title,
        page.heading("Load tests compared", f"ratios are to {names[0]}"),
        page.tiles(_tiles(comparison)),
        page.warnings(warnings),
        page.section("Curves", page.charts(_charts(comparison))),
        *_tables(comparison),
        *(page.section(f"All numbers: {name}", *sweep_tables(result.levels)) for name, result in comparison.runs),
        *(
            page.section(
                f"Where it was measured: {name}",
                page.facts({"measured": result.started, **result.environment}),
                page.code(result.request),
            )
            for name, result in comparison.runs
        ),
    )


def _tiles(comparison: Comparison) -> list[tuple[str, str, str]]:
    return [
        (row[1], "requests/s", f"{row[0]}, at concurrency {comparison.at}" + (f": {row[2]}" if index else ""))
        for index, row in enumerate(comparison.rows(comparison.at))
    ]


def _tables(comparison: Comparison) -> list[str]:
    """A table of ratios for each concurrency that two runs or more have."""
    concurrencies = sorted({level.concurrency for _, result in comparison.runs for level in result.levels})
    tables = []
    for concurrency in concurrencies:
        rows = comparison.rows(concurrency)
        if len(rows) > 1:
            head = "".join(f"<th>{name}</th>" for name in HEAD[1:])
            body = [
                f'<tr><th class="text">{escape(row[0])}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
                for row in rows
            ]
            tables.append(page.table(f'<tr><th class="text">at concurrency {concurrency}</th>{head}</tr>', body))
    return [page.section("Beside each other", *tables)]


def _charts(comparison: Comparison) -> list[Chart]:
    def chart(title: str, unit: str, value: Callable[[Level], float | None]) -> Chart:
        return Chart(
            title=title,
            x_label=REQUESTS_AT_ONCE,
            y_label=unit,
            series=tuple(
                line(name, index, result.levels, value, unit) for index, (name, result) in enumerate(comparison.runs)
            ),
        )

    return [
        chart("Throughput", "requests/s", lambda level: level.throughput),
        chart("Latency, p50", "ms", lambda level: getattr(level.latency, "p50", None)),
        chart("Latency, p99", "ms", lambda level: getattr(level.latency, "p99", None)),
        tail_chart([(name, result.levels) for name, result in comparison.runs]),
        chart("Tokens", "tokens/s", lambda level: level.tokens_per_second),
        chart("Time to the first token, p50", "ms", lambda level: getattr(level.first_token, "p50", None)),
        chart("Time between tokens, p50", "ms", lambda level: getattr(level.between_tokens, "p50", None)),
        chart("Batches, on the server", "requests in a batch", lambda level: getattr(level.server, "batch", None)),
    ]
