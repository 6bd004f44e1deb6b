"""The parts of a report's page: one file of HTML with its style sheet and charts inside, which needs no network and no script."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from engine_jobs.load.charts import COLOURS, Chart, number, svg

STYLE = Path(__file__).with_name("style.css")


def page(title: str, *parts: str) -> str:
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>",
            "<main>",
            *(part for part in parts if part),
            "</main>",
            "</html>",
            "",
        ]
    )


def heading(title: str, subtitle: str) -> str:
    return f'<h1>{escape(title)}</h1>\n<p class="soft">{escape(subtitle)}</p>'


def tiles(facts: Sequence[tuple[str, str, str]]) -> str:
    """Of (number, unit, what it is)."""
    items = (
        f'<div class="tile"><b>{escape(value)} <small>{escape(unit)}</small></b><span>{escape(what)}</span></div>'
        for value, unit, what in facts
    )
    return f'<div class="tiles">{"".join(items)}</div>'


def warnings(texts: Sequence[str]) -> str:
    """Nothing where there are none."""
    if not texts:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<section class="warnings"><h2>Read these numbers with care</h2><ul>{items}</ul></section>'


def charts(items: Sequence[Chart]) -> str:
    """Side by side where there is room. Charts without a point are left out."""
    return (
        f'<div class="charts">{"".join(_figure(chart) for chart in items if any(s.points for s in chart.series))}</div>'
    )


def _figure(chart: Chart) -> str:
    named = [series for series in chart.series if series.name and series.points]
    legend = "".join(
        f'<span class="c{series.colour % COLOURS}"><i></i><span>{escape(series.name)}</span></span>' for series in named
    )
    shown = f'<div class="legend">{legend if len(named) > 1 else ""}</div>'
    return f"<figure><figcaption>{escape(chart.title)}</figcaption>{shown}{svg(chart)}</figure>"


def section(title: str, *parts: str) -> str:
    return f"<h2>{escape(title)}</h2>\n" + "\n".join(parts)


def facts(values: Mapping[str, str]) -> str:
    return (
        "<dl>" + "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in values.items()) + "</dl>"
    )


def text(value: str) -> str:
    return f"<p>{escape(value)}</p>"


def code(value: str) -> str:
    return f"<pre>{escape(value)}</pre>"


def table(head: str, rows: Sequence[str]) -> str:
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def cell(value: object, kind: str = "") -> str:
    """A number in four digits, a text as it is, nothing as a dash."""
    shown = "\N{EN DASH}" if value is None else number(value) if isinstance(value, int | float) else escape(str(value))
    return f'<td class="{kind}">{shown}</td>' if kind else f"<td>{shown}</td>"
