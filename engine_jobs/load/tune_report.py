"""A tuning's page and table, in the columns of Model Analyzer's summary."""

from collections.abc import Sequence
from html import escape

from engine_jobs.load import page
from engine_jobs.load.charts import Chart, Point, Series, number
from engine_jobs.load.results import Level, Trial, TuneResult, columns
from engine_jobs.load.search import best_level, meets
from engine_jobs.load.spec import Candidate
from engine_jobs.load.sweep import failures_of
from engine_jobs.load.sweep_report import columns_text, method, sweep_tables, tail_chart

COLUMNS = (
    "Model Config Name",
    "Max Batch Size",
    "Dynamic Batching",
    "Total Instance Count",
    "p99 Latency (ms)",
    "Throughput (infer/sec)",
    "Concurrency",
    "Within Bound",
)


def batching(candidate: Candidate) -> str:
    return f"Enabled, {candidate.queue_delay_us} µs" if candidate.batches else "Disabled"


def rows(result: TuneResult) -> list[list[str]]:
    """A row for each trial, the best first."""
    found = []
    for trial in result.trials:
        level = best_level(trial, result.p99_ms)
        p99, throughput, at = ("-",) * 3
        if level:
            p99, throughput, at = number(level.p99), number(level.throughput), str(level.concurrency)
        what = [trial.name, str(trial.candidate.max_batch_size), batching(trial.candidate), trial.instances]
        found.append([*what, p99, throughput, at, _verdict(trial, result.p99_ms)])
    return found


def _verdict(trial: Trial, p99_ms: float | None) -> str:
    level = best_level(trial, p99_ms)
    if level is None:
        return "failed"
    if meets(level, p99_ms):
        return "yes"
    return "errors" if level.errors else "no"


def tune_text(result: TuneResult) -> str:
    """The ranked table and the winning settings, for a terminal or a Job's log."""
    table = columns_text([list(COLUMNS), *rows(result)], left=1)
    if result.snippet is None:
        bound = f"{result.p99_ms:g} ms" if result.p99_ms is not None else "none"
        return f"{table}\n\nno settings are within the bound (p99 latency: {bound})"
    return f"{table}\n\nthe winner, for the stack file:\n{result.snippet.rstrip()}"


def csv_rows(result: TuneResult) -> list[dict[str, object]]:
    """Every level of every trial, the best trial first."""
    return [
        {
            "config": trial.name,
            "instances": trial.candidate.instances,
            "max_batch_size": trial.candidate.max_batch_size,
            "dynamic_batching": str(trial.candidate.batches).lower(),
            "queue_delay_us": trial.candidate.queue_delay_us if trial.candidate.batches else "",
            "within_bound": str(meets(level, result.p99_ms)).lower(),
            **columns(level),
        }
        for trial in result.trials
        for level in trial.levels
    ]


def tune_page(result: TuneResult) -> str:
    """Self-contained HTML."""
    title = f"Tuning of {result.name}"
    served = next(trial for trial in result.trials if trial.name.endswith("_config_default"))
    winner = result.trials[0] if result.snippet is not None else None
    return page.page(
        title,
        page.heading(title, result.started.replace("T", " ").replace("+00:00", " UTC")),
        page.tiles(_tiles(result, served, winner)),
        page.warnings(_warnings(result)),
        page.section("For the stack file", page.code(result.snippet)) if result.snippet else "",
        page.section("Ranked", _ranked(result)),
        page.section("Curves", page.charts(_charts(result, served, winner))),
        _details("The winner", winner, result.p99_ms) if winner else "",
        _details("Served before", served, result.p99_ms) if served is not winner else "",
        page.section("Where it was measured", page.facts(result.environment)),
        page.section("The request", page.code(result.request)),
        page.section("How it was measured", page.text(_search_words(result)), page.text(method(result.measurement))),
    )


def _details(title: str, trial: Trial, p99_ms: float | None) -> str:
    tables = sweep_tables(trial.levels, best_level(trial, p99_ms)) if trial.levels else [page.text(trial.error or "")]
    return page.section(f"{title}: {trial.name}, {trial.candidate.text()}", *tables)


def _tiles(result: TuneResult, served: Trial, winner: Trial | None) -> list[tuple[str, str, str]]:
    tiles = [(str(len(result.trials)), "settings", f"tried, {result.search} search")]
    if result.p99_ms is not None:
        tiles.append((number(result.p99_ms), "ms", "bound of the p99 latency"))
    before, best = best_level(served, result.p99_ms), best_level(winner, result.p99_ms) if winner else None
    if best:
        tiles.insert(0, (number(best.throughput), "requests/s", f"the winner, at concurrency {best.concurrency}"))
        tiles.insert(1, (number(best.p99), "ms", "the winner's p99 latency"))
        if before and before.throughput:
            tiles.insert(
                2, (f"{best.throughput / before.throughput:.2f} x", "", "throughput of what was served before")
            )
    return tiles


def _warnings(result: TuneResult) -> list[str]:
    found = []
    if not result.restored:
        found.append("The configuration that was served before could not be loaded again: look after the server.")
    if not result.complete:
        found.append("The search was ended before it was done.")
    if result.snippet is None:
        found.append("No settings are within the bound.")
    for trial in result.trials:
        if trial.error:
            found.append(f"{trial.name}: {trial.error}")
        found += [f"{trial.name}: {warning}" for level in trial.levels for warning in failures_of(level)]
    levels = [level for trial in result.trials for level in trial.levels if level.requests]
    if unsteady := sum(not level.stable for level in levels):
        found.append(
            f"{unsteady} of {len(levels)} measurements were not stable within {result.measurement.max_windows} windows of "
            f"{result.measurement.window_s:g} s: settings that are close to each other may change places in another run."
        )
    return found


def _ranked(result: TuneResult) -> str:
    head = "".join(f'<th class="{"text" if index == 0 else ""}">{name}</th>' for index, name in enumerate(COLUMNS))
    body = []
    for place, row in enumerate(rows(result)):
        verdict = {"yes": "good", "no": ""}.get(row[-1], "bad")
        cells = "".join(f"<td>{escape(each)}</td>" for each in row[1:-1]) + page.cell(row[-1], verdict)
        best = ' class="best"' if place == 0 and result.snippet else ""
        body.append(f'<tr{best}><th class="text">{escape(row[0])}</th>{cells}</tr>')
    return page.table(f"<tr>{head}</tr>", body)


def _charts(result: TuneResult, served: Trial, winner: Trial | None) -> list[Chart]:
    bound = (result.p99_ms, f"bound {number(result.p99_ms)} ms") if result.p99_ms is not None else None
    levels = [(trial, level) for trial in result.trials for level in trial.levels if level.latency]
    within = [_point(trial, level) for trial, level in levels if meets(level, result.p99_ms)]
    beyond = [_point(trial, level) for trial, level in levels if not meets(level, result.p99_ms)]
    runs: list[tuple[str, Sequence[Level]]] = [(f"{winner.name} (winner)", winner.levels)] if winner else []
    if served is not winner:
        runs.append((f"{served.name} (served before)", served.levels))
    return [
        Chart(
            title="All measurements",
            x_label="requests/s",
            y_label="p99 latency, ms",
            x_scale="linear",
            bound=bound,
            series=(
                Series(name="within the bound", colour=3, line=False, points=tuple(within)),
                Series(name="beyond", colour=7, line=False, points=tuple(beyond)),
            ),
        ),
        tail_chart(runs, bound),
    ]


def _point(trial: Trial, level: Level) -> Point:
    note = f"{trial.name}, {trial.candidate.text()}, concurrency {level.concurrency}: "
    note += f"{number(level.throughput)} requests/s, p99 {number(level.p99)} ms"
    return Point(x=level.throughput, y=level.p99, note=note)


def _search_words(result: TuneResult) -> str:
    how = {
        "exhaustive": "Every combination of the given values was tried.",
        "quick": "A climb: from the settings nearest to those served, and from the largest batches on one instance, one setting "
        "after the other was changed as long as that was better by 2 % or more.",
    }[result.search]
    return (
        f"{how} Each was loaded through Triton's repository API and measured at rising concurrency, until p99 latency left the bound or "
        "throughput grew by less than 5 %; of the levels within the bound, without errors, the one with the highest throughput counts. "
        "Then the configuration that was served before was loaded again."
    )
