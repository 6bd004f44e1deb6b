"""Line charts as inline SVG: axes with units, a mark for each measurement, colours from the page's style sheet (light and dark)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 14, 48
CHARACTER = 6.6
"""About the width of a digit at the charts' 12 px."""
LABEL_HEIGHT = 13
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
COLOURS = 8
"""How many series the style sheet tells apart."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """`label` stands beside the mark, `note` is what pointing at it shows."""

    x: float
    y: float
    label: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Series:
    """`line` joins the points in their order; `colour` is its number in the style sheet."""

    name: str
    points: tuple[Point, ...]
    colour: int
    line: bool = True


@dataclass(frozen=True, kw_only=True)
class Chart:
    """`x_scale` log2: a tick at each x that was measured. `bound`: a level of y that is marked across, and what it is."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_scale: Literal["linear", "log2"] = "log2"
    bound: tuple[float, str] | None = None


def svg(chart: Chart) -> str:
    """The chart as an `<svg>` element. Raises ValueError for one without a point."""
    plot = _Plot(chart)
    parts = [*plot.axes(), *plot.bound(), *plot.lines(), *plot.marks(), *plot.labels()]
    title = escape(f"{chart.title}: {chart.y_label} against {chart.x_label}")
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
    return "\n".join([head, *parts, "</svg>"])


class _Plot:
    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        points = [point for series in chart.series for point in series.points]
        if not points:
            raise ValueError(f"{chart.title}: a chart without a point")
        self.xs = sorted({point.x for point in points})
        highest = max(point.y for point in points)
        if chart.bound:
            # A bound far above all that was measured would press the curves flat; then it is only told of.
            highest = max(highest, chart.bound[0]) if chart.bound[0] < 2 * highest else highest
        self.y_ticks = nice_ticks(highest)
        if chart.x_scale == "log2":
            self.low, self.high = math.log2(self.xs[0]), math.log2(self.xs[-1])
            self.x_ticks: Sequence[float] = self.xs
        else:
            self.x_ticks = nice_ticks(self.xs[-1])
            self.low, self.high = 0.0, self.x_ticks[-1]

    def x(self, value: float) -> float:
        position = math.log2(value) if self.chart.x_scale == "log2" else value
        inner = WIDTH - LEFT - RIGHT
        # On the logarithmic scale the first and last mark keep off the frame.
        margin = 14 if self.chart.x_scale == "log2" else 0
        span = self.high - self.low
        part = (position - self.low) / span if span else 0.5
        return LEFT + margin + part * (inner - 2 * margin)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.y_ticks[-1] * (HEIGHT - BOTTOM - TOP)

    def axes(self) -> Iterable[str]:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        for tick in self.y_ticks:
            y = self.y(tick)
            yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        taken = -math.inf
        for tick in self.x_ticks:
            x, text = self.x(tick), number(tick)
            yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
            half = len(text) * CHARACTER / 2
            if x - half > taken:
                yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{text}</text>'
                taken = x + half + 6
        yield f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
        middle = (TOP + bottom) / 2
        yield f'<text class="label" x="{(LEFT + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(self.chart.x_label)}</text>'
        yield (
            f'<text class="label" x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
            f"{escape(self.chart.y_label)}</text>"
        )

    def bound(self) -> Iterable[str]:
        if self.chart.bound is None or self.chart.bound[0] > self.y_ticks[-1]:
            return
        y = self.y(self.chart.bound[0])
        yield f'<line class="bound" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        x, base = self._bound_text()
        yield f'<text class="bound" x="{x:.1f}" y="{base:.1f}">{escape(self.chart.bound[1])}</text>'

    def _bound_text(self) -> tuple[float, float]:
        """Where the bound's text is in nothing's way: at its line's right or left end, above or below it."""
        assert self.chart.bound is not None
        value, text = self.chart.bound
        width, y = len(text) * (CHARACTER + 0.6), self.y(value)
        places = [(x, base) for base in (y - 5, y + 14) for x in (WIDTH - RIGHT - width, LEFT + 6)]
        free = [
            (x, base)
            for x, base in places
            if base < HEIGHT - BOTTOM
            and not any(_overlap((x, base - LABEL_HEIGHT + 3, x + width, base + 2), mark) for mark in self._marks())
        ]
        return (free or places)[0]

    def _marks(self) -> list[Box]:
        return [(self.x(p.x) - 5, self.y(p.y) - 5, self.x(p.x) + 5, self.y(p.y) + 5) for p in self._points()]

    def lines(self) -> Iterable[str]:
        for series in self.chart.series:
            if series.line and len(series.points) > 1:
                path = " ".join(f"{self.x(point.x):.1f},{self.y(point.y):.1f}" for point in series.points)
                yield f'<polyline class="line c{series.colour % COLOURS}" points="{path}"/>'

    def marks(self) -> Iterable[str]:
        for series in self.chart.series:
            for point in series.points:
                note = escape(point.note or f"{series.name}: {number(point.y)}")
                yield (
                    f'<circle class="mark c{series.colour % COLOURS}" cx="{self.x(point.x):.1f}" cy="{self.y(point.y):.1f}" r="4">'
                    f"<title>{note}</title></circle>"
                )

    def labels(self) -> Iterable[str]:
        """Each label at the first place around its mark that is free of marks, lines and other labels; none where no place is."""
        taken = self._marks()
        lines = [
            (self.x(one.x), self.y(one.y), self.x(other.x), self.y(other.y))
            for series in self.chart.series
            if series.line
            for one, other in zip(series.points, series.points[1:], strict=False)
        ]
        if self.chart.bound and self.chart.bound[0] <= self.y_ticks[-1]:
            x, base = self._bound_text()
            taken.append((x, base - LABEL_HEIGHT + 3, x + len(self.chart.bound[1]) * CHARACTER, base + 2))
            lines.append((LEFT, self.y(self.chart.bound[0]), WIDTH - RIGHT, self.y(self.chart.bound[0])))
        for point in self._points():
            if not point.label:
                continue
            x, y, width = self.x(point.x), self.y(point.y), len(point.label) * CHARACTER
            for left, base in (
                (x - width / 2, y - 9),
                (x + 9, y + 4),
                (x - 9 - width, y + 4),
                (x - width / 2, y + 18),
                (x + 7, y - 7),
                (x - 7 - width, y - 7),
                (x + 7, y + 16),
                (x - 7 - width, y + 16),
            ):
                box = (left, base - LABEL_HEIGHT + 3, left + width, base + 2)
                inside = left >= LEFT and box[2] <= WIDTH - 2 and box[1] >= 0 and base <= HEIGHT - BOTTOM
                if (
                    inside
                    and not any(_overlap(box, other) for other in taken)
                    and not any(_cross(box, line) for line in lines)
                ):
                    taken.append(box)
                    yield f'<text class="point" x="{left:.1f}" y="{base:.1f}">{escape(point.label)}</text>'
                    break

    def _points(self) -> list[Point]:
        return [point for series in self.chart.series for point in series.points]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _cross(box: Box, line: Box) -> bool:
    """Whether a line from (x, y) to (x, y) comes through the box: looked for every two units along it."""
    x, y, to_x, to_y = line
    steps = max(1, math.ceil(math.hypot(to_x - x, to_y - y) / 2))
    return any(
        box[0] <= x + (to_x - x) * step / steps <= box[2] and box[1] <= y + (to_y - y) * step / steps <= box[3]
        for step in range(steps + 1)
    )


def nice_ticks(highest: float) -> list[float]:
    """From 0 to at least `highest`, four to seven steps of 1, 2, 2.5 or 5 times a power of ten."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    count = math.ceil(highest / step - 1e-9)
    return [round(index * step, 10) for index in range(count + 1)]


def number(value: float) -> str:
    """Four digits at most, thousands apart: 1,234; 56.7; 0.0123."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.6f}".rstrip("0").rstrip(".")
