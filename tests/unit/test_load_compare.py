"""Several sweeps beside each other: the ratios, the page with all curves, and charts that say what was measured."""

import re
import xml.etree.ElementTree
from pathlib import Path

import pytest

from engine_jobs.errors import UserError
from engine_jobs.load.__main__ import main
from engine_jobs.load.charts import Chart, Point, Series, nice_ticks, number, svg
from engine_jobs.load.compare import Comparison, compare_page, compare_text
from engine_jobs.load.results import Distribution, Level, SweepResult
from engine_jobs.load.spec import Measurement
from engine_jobs.load.write import results_json


def level(concurrency: int, throughput: float, tokens: float | None = None) -> Level:
    p99 = 1000 * concurrency / throughput
    latency = Distribution(count=9, avg=p99, min=p99, p50=p99 / 2, p90=p99, p95=p99, p99=p99, max=p99)
    return Level(
        concurrency=concurrency, requests=90, errors=0, error_kinds={}, seconds=9, windows=3, stable=True,
        throughput=throughput, tokens_per_second=tokens, latency=latency, first_token=None, between_tokens=None, server=None,
        client_cores=0.1,
    )  # fmt: skip


def sweep(*levels: Level) -> SweepResult:
    return SweepResult(
        name="falcon-7b", started="2026-11-21T15:00:00+00:00", environment={"server's image": "triton:24.10"}, request="curl …",
        measurement=Measurement(), tokens=None, levels=levels, complete=True,
    )  # fmt: skip


TUTORIAL = (
    ("no batching", sweep(level(1, 20.0), level(16, 21.4))),
    ("dynamic batching", sweep(level(1, 21.0), level(4, 40.0), level(16, 53.7))),
    ("3 instances", sweep(level(16, 71.9))),
)


class TestRatios:
    def test_are_to_the_first_at_the_highest_concurrency_of_all(self) -> None:
        comparison = Comparison.of(TUTORIAL, None)
        assert comparison.at == 16
        assert [(row[0], row[1], row[2]) for row in comparison.rows(16)] == [
            ("no batching", "21.4", "1.00 x"),
            ("dynamic batching", "53.7", "2.51 x"),
            ("3 instances", "71.9", "3.36 x"),
        ]
        head, names, *_ = compare_text(comparison).splitlines()
        assert head == "concurrency 16"
        assert "tokens/s" not in names  # nobody has them

    def test_the_page_has_a_curve_of_each_and_a_table_for_each_concurrency_of_two(self) -> None:
        text = compare_page(Comparison.of(TUTORIAL, None))
        assert all(text.count(name) > 4 for name, _ in TUTORIAL)
        assert re.findall(r"at concurrency (\d+)</th>", text) == ["1", "16"]
        assert not re.search(r"<script|<link|<img|url\(|src=|href=", text)

    @pytest.mark.parametrize(
        ("runs", "at", "message"),
        [
            (TUTORIAL[:1], None, "two results at least"),
            ((TUTORIAL[0], TUTORIAL[0]), None, "a name of its own"),
            (TUTORIAL, 4, r"concurrency 4: no batching has 1, 16"),
            ((("a", sweep(level(1, 9))), ("b", sweep(level(2, 9)))), None, "one concurrency: a has 1; b has 2"),
        ],
    )
    def test_what_can_not_be_compared_is_refused(
        self, runs: tuple[tuple[str, SweepResult], ...], at: int | None, message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            Comparison.of(runs, at)

    def test_the_command_reads_folders_files_and_names(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for index, (_, result) in enumerate(TUTORIAL):
            (tmp_path / f"run{index}").mkdir()
            (tmp_path / f"run{index}/results.json").write_text(results_json(result))
        runs = [str(tmp_path / "run0"), str(tmp_path / "run1/results.json"), str(tmp_path / "run2")]
        main(["compare", *runs, "--out", str(tmp_path / "page")])
        assert re.search(r"run1 +53\.7 +2\.51 x", capsys.readouterr().out)
        main(["compare", *runs, "--names", "plain,dynamic,instances"])
        assert "instances" in capsys.readouterr().out
        assert (tmp_path / "page/index.html").is_file()
        with pytest.raises(UserError, match="2 names for 3 results"):
            main(["compare", *runs, "--names", "a,b"])


class TestACharts:
    @staticmethod
    def drawn(
        *points: tuple[float, float, str], bound: tuple[float, str] | None = None
    ) -> xml.etree.ElementTree.Element:
        marks = tuple(Point(x=x, y=y, label=label) for x, y, label in points)
        chart = Chart(
            title="T", x_label="requests/s", y_label="ms", x_scale="linear", bound=bound,
            series=(Series(name="a & b", points=marks, colour=0),),
        )  # fmt: skip
        return xml.etree.ElementTree.fromstring(svg(chart))

    def test_marks_stand_where_their_numbers_are(self) -> None:
        drawn = self.drawn((0.0, 0.0, ""), (50.0, 100.0, ""), (100.0, 200.0, ""))
        xs, ys = ([float(mark.get(key, "")) for mark in drawn.iter("circle")] for key in ("cx", "cy"))
        assert xs[1] == pytest.approx((xs[0] + xs[2]) / 2, abs=0.1)
        assert ys[1] == pytest.approx((ys[0] + ys[2]) / 2, abs=0.1)
        assert xs[0] < xs[2]
        assert ys[0] > ys[2]

    def test_axes_are_labelled_with_their_units(self) -> None:
        texts = [text.text for text in self.drawn((3.0, 7.0, "")).iter("text")]
        assert {"requests/s", "ms", "0"} <= set(texts)

    def test_labels_of_crowded_marks_do_not_overlap(self) -> None:
        crowd = [(50 + index / 2, 100 + 3 * index, str(2**index)) for index in range(8)]
        drawn = self.drawn((100.0, 300.0, "far"), *crowd, bound=(150.0, "bound 150 ms"))
        labels = [text for text in drawn.iter("text") if text.get("class") == "point"]
        boxes = [(float(text.get("x", "")), float(text.get("y", "")), 6.6 * len(text.text or "")) for text in labels]
        assert len(boxes) >= 3
        for index, (x, y, width) in enumerate(boxes):
            for other_x, other_y, other_width in boxes[index + 1 :]:
                assert x + width <= other_x or other_x + other_width <= x or abs(y - other_y) >= 12

    @pytest.mark.parametrize(
        ("highest", "ticks"),
        [(100, [0, 20, 40, 60, 80, 100]), (7.3, [0, 2, 4, 6, 8]), (0.9, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, [0, 1])],
    )
    def test_ticks_are_round_and_reach_over_the_highest(self, highest: float, ticks: list[float]) -> None:
        assert nice_ticks(highest) == ticks

    @pytest.mark.parametrize(
        ("value", "text"), [(0, "0"), (12345.6, "12,346"), (56.78, "56.8"), (0.01234, "0.0123"), (1e-5, "0.00001")]
    )
    def test_numbers_are_short(self, value: float, text: str) -> None:
        assert number(value) == text
