"""What aiperf measured, as the table that genai-perf prints for «Evaluating performance with Gen-AI Perf»."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_jobs.errors import UserError

STATISTICS = ("avg", "min", "max", "p99", "p90", "p75")

ROWS = (
    ("time_to_first_token", "Time to first token (ms)"),
    ("inter_token_latency", "Inter token latency (ms)"),
    ("request_latency", "Request latency (ms)"),
    ("output_sequence_length", "Output sequence length"),
    ("input_sequence_length", "Input sequence length"),
)
"""aiperf's metrics and genai-perf's names for them; the first two only where the answers stream."""

RATES = (
    ("output_token_throughput", "Output token throughput (per sec)"),
    ("request_throughput", "Request throughput (per sec)"),
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """`rows`: a statistic's values by STATISTICS, `rates`: numbers, both by the names that are printed."""

    rows: Mapping[str, Mapping[str, float]]
    rates: Mapping[str, float]
    requests: int
    failed: int

    def text(self) -> str:
        """The table and the lines below it."""
        cells = [[name, *(f"{row[key]:,.2f}" for key in STATISTICS)] for name, row in self.rows.items()]
        lines = _table("LLM Metrics", ("Statistic", *STATISTICS), cells)
        lines += [f"{name}: {value:,.2f}" for name, value in self.rates.items()]
        if self.failed:
            lines.append(f"{self.failed} of {self.requests + self.failed} requests failed and are not counted")
        return "\n".join(lines)


def read_measured(folder: Path, stem: str, count_tokens: Callable[[str], int]) -> Measured:
    """From aiperf's `<stem>.json`, `<stem>.jsonl` and `inputs.json`. aiperf does not count the tokens of Triton's `text_input`, so
    that is done here, for each request that was answered. Raises UserError where aiperf has left no result."""
    try:
        summary = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
        lines = (folder / f"{stem}.jsonl").read_text(encoding="utf-8").splitlines()
        inputs = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: aiperf left no whole result: {error}") from error
    lengths = {each["session_id"]: count_tokens(str(each["payloads"][0]["text_input"])) for each in inputs["data"]}
    records = [json.loads(line) for line in lines]
    answered = [record for record in records if not record.get("error") and not record["metadata"]["was_cancelled"]]
    if not answered:
        raise UserError(f"no request was answered: {_first_error(records) or 'none was sent'}")
    asked = [lengths[record["metadata"]["conversation_id"]] for record in answered]
    found = {**summary, "input_sequence_length": statistics_of(asked)}
    return Measured(
        rows={name: found[tag] for tag, name in ROWS if tag in found},
        rates={name: summary[tag]["avg"] for tag, name in RATES if tag in summary},
        requests=len(answered),
        failed=len(records) - len(answered),
    )


def statistics_of(values: Sequence[float]) -> dict[str, float]:
    """STATISTICS of some values, percentiles between two of them by their distance."""
    ordered = sorted(values)

    def percentile(percent: float) -> float:
        place = (len(ordered) - 1) * percent / 100
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (ordered[above] - ordered[below]) * (place - below)

    percentiles = {f"p{percent}": percentile(percent) for percent in (99, 90, 75)}
    return {"avg": sum(ordered) / len(ordered), "min": ordered[0], "max": ordered[-1], **percentiles}


def first_error(folder: Path, stem: str) -> str | None:
    """What was wrong with the first request that failed; None where nothing says so."""
    try:
        lines = (folder / f"{stem}.jsonl").read_text(encoding="utf-8").splitlines()
        return _first_error([json.loads(line) for line in lines])
    except (OSError, ValueError):
        return None


def _first_error(records: Sequence[Mapping[str, Any]]) -> str | None:
    for record in records:
        if error := record.get("error"):
            return str(error.get("message", error)) if isinstance(error, dict) else str(error)
    return None


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]

    def line(left: str, between: str, right: str, fill: str) -> str:
        return left + between.join(fill * (width + 2) for width in widths) + right

    def row(edge: str, cells: Sequence[str]) -> str:
        return edge + edge.join(f" {cell:>{width}} " for cell, width in zip(cells, widths, strict=True)) + edge

    whole = sum(widths) + 3 * len(widths) + 1
    return [
        title.center(whole).rstrip(),
        line("┏", "┳", "┓", "━"),
        row("┃", heads),
        line("┡", "╇", "┩", "━"),
        *(row("│", cells) for cells in rows),
        line("└", "┴", "┘", "─"),
    ]
