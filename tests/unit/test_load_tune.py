"""The search over a model's settings: what it tries, what it finds, and that the model is served as before afterwards."""

import copy
import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from engine_jobs.errors import UserError
from engine_jobs.load.__main__ import main
from engine_jobs.load.model_control import candidate_of, configured
from engine_jobs.load.results import Distribution, Level, Trial, TuneResult
from engine_jobs.load.search import Grid, best_level, climb, has_peaked, is_better, ranked
from engine_jobs.load.snippet import stack_snippet
from engine_jobs.load.spec import OFF, Candidate, Tuning
from engine_jobs.load.write import read_result
from tests.unit.fake_triton import CONFIGURATION, MODEL, FakeTriton, fake_triton
from tests.unit.interrupts import take_interrupts

ASK = ("--path", f"/v2/models/{MODEL}/generate", "--data", '{"text_input": "I am going"}', "--answer", "/text_output")
QUICK = ("--window", "0.2", "--warm-up", "0.05", "--min-requests", "4", "--max-windows", "3")
SMALL = ("--instances", "1,2", "--max-batch-sizes", "1,4", "--queue-delays-us", "off,0", "--concurrency", "8")
GRID = Grid(instances=(1, 2, 3), max_batch_sizes=(1, 2, 4, 8), queue_delays_us=(OFF, 0, 1000))


def candidate(instances: int, size: int, delay: int) -> Candidate:
    return Candidate(instances=instances, max_batch_size=size, queue_delay_us=delay)


def tune(triton: FakeTriton, out: Path, *more: str) -> TuneResult:
    with fake_triton(triton) as url:
        main(["tune", "--url", url, *ASK, *QUICK, *SMALL, "--model", MODEL, "--yes", "--out", str(out), *more])
    return result(out)


def result(out: Path) -> TuneResult:
    read = read_result(out)
    assert isinstance(read, TuneResult)
    return read


class TestASearch:
    @pytest.mark.parametrize("search", ["quick", "exhaustive"])
    def test_finds_the_best_settings_and_leaves_the_model_as_it_was(self, tmp_path: Path, search: str) -> None:
        triton = FakeTriton()
        found = tune(triton, tmp_path / "out", "--search", search)
        assert found.trials[0].candidate == candidate(2, 4, 0)
        assert triton.configuration == CONFIGURATION
        assert found.complete
        assert found.restored
        assert triton.most_under_way_at_load == 0
        names = {trial.name for trial in found.trials}
        assert names == {f"{MODEL}_config_default", *(f"{MODEL}_config_{n}" for n in range(len(names) - 1))}
        snippet = yaml.safe_load(found.snippet or "")
        entry = snippet["config"]["llm-serving:models"][MODEL]
        batching = {"maxQueueDelayMicroseconds": 0}
        assert entry == {"recipe": {"maxBatchSize": 4, "instances": 2, "dynamicBatching": batching}}

    def test_exhaustive_tries_each_combination_that_makes_a_difference_once(self, tmp_path: Path) -> None:
        triton = FakeTriton()
        found = tune(triton, tmp_path / "out", "--search", "exhaustive", "--concurrency", "1")
        tried = sorted(trial.candidate for trial in found.trials)
        off = [candidate(1, 1, OFF), candidate(1, 4, OFF), candidate(2, 1, OFF)]  # the second is what was served
        assert tried == sorted([*off, candidate(1, 4, 0), candidate(2, 4, 0)])
        assert len(triton.loads) == 4 + 1

    def test_the_latency_bound_decides(self, tmp_path: Path) -> None:
        triton = FakeTriton(slowdown=0.1)
        found = tune(triton, tmp_path / "out", "--p99-ms", "150", "--concurrency", "1,8")
        assert found.snippet is None
        assert {trial.levels[0].concurrency for trial in found.trials if trial.levels} == {1}
        assert "No settings are within the bound" in (tmp_path / "out/index.html").read_text()
        assert triton.configuration == CONFIGURATION

    def test_what_does_not_load_is_a_row_of_the_table(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found = tune(FakeTriton(too_many=2), tmp_path / "out")
        failed = [trial for trial in found.trials if trial.error]
        assert failed
        assert all(trial.candidate.instances == 2 for trial in failed)
        assert found.trials[0].candidate == candidate(1, 4, 0)
        assert found.trials[-1].error == f"load failed for model '{MODEL}': out of memory"
        assert re.search(rf"{failed[0].name} .* failed\n", capsys.readouterr().out)

    def test_the_table_has_model_analyzer_s_columns(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found = tune(FakeTriton(), tmp_path / "out", "--concurrency", "1", "--instances", "1")
        captured = capsys.readouterr()
        head, first, *_ = captured.out.splitlines()
        assert re.split(r"\s{2,}", head)[:6] == [
            "Model Config Name",
            "Max Batch Size",
            "Dynamic Batching",
            "Total Instance Count",
            "p99 Latency (ms)",
            "Throughput (infer/sec)",
        ]
        assert first.startswith(found.trials[0].name)
        assert "1:CPU" in first
        assert "1 x instances, max batch size 4, no dynamic batching" in captured.err  # what is served now
        assert "It will be served so again at the end" in captured.err
        rows = list(csv.DictReader((tmp_path / "out/results.csv").open()))
        assert [row["config"] for row in rows] == [trial.name for trial in found.trials for _ in trial.levels]
        page = (tmp_path / "out/index.html").read_text()
        assert "maxBatchSize: " in page
        assert not re.search(r"<script|<link|<img|url\(|src=|href=", page)


class TestItDisturbsNothingUnasked:
    def test_a_server_that_is_not_in_explicit_control_is_refused(self, tmp_path: Path) -> None:
        triton = FakeTriton(explicit=False)
        with pytest.raises(UserError, match="--model-control-mode=explicit"):
            tune(triton, tmp_path / "out")
        assert triton.loads == []

    def test_without_agreement_nothing_is_loaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        triton = FakeTriton()
        with fake_triton(triton) as url, Path(os.devnull).open() as nothing:
            monkeypatch.setattr(sys, "stdin", nothing)
            with pytest.raises(UserError, match=r"nothing was changed: agree with --yes"):
                main(["tune", "--url", url, *ASK, *QUICK, *SMALL, "--model", MODEL])
        assert triton.loads == []
        assert "again and again with other settings" in capsys.readouterr().err

    def test_a_model_that_is_not_there_is_a_message(self, tmp_path: Path) -> None:
        with (
            fake_triton(FakeTriton()) as url,
            pytest.raises(UserError, match="tells no configuration of the model 'opt'"),
        ):
            main(["tune", "--url", url, *ASK, *QUICK, "--model", "opt", "--yes"])

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupted_search_restores_the_model_and_keeps_what_it_has(
        self, tmp_path: Path, number: signal.Signals
    ) -> None:
        triton = FakeTriton()
        with fake_triton(triton) as url:
            command = [sys.executable, "-m", "engine_jobs.load", "tune", "--url", url, *ASK, *SMALL, "--model", MODEL]
            quick = ["--window", "0.3", "--warm-up", "0.1", "--max-windows", "3"]
            more = ["--yes", "--out", str(tmp_path / "out"), "--progress", "lines", *quick]
            process = subprocess.Popen(
                [*command, *more],
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=take_interrupts,
            )
            assert process.stderr is not None
            assert next(line for line in process.stderr if line.startswith(f"{MODEL}_config_0"))
            assert triton.configuration != CONFIGURATION
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert triton.configuration == CONFIGURATION
        assert "the model is served as before" in err
        found = result(tmp_path / "out")
        assert not found.complete
        assert found.restored
        assert f"{MODEL}_config_0" in out

    def test_where_it_can_not_be_restored_the_way_back_is_told(self, tmp_path: Path) -> None:
        triton = FakeTriton(lost=2)
        with pytest.raises(UserError, match="could not be loaded as it was served before") as failed:
            tune(triton, tmp_path / "out", "--concurrency", "1")
        (file,) = re.findall(r"-d @(\S+)", str(failed.value))
        body = json.loads(Path(file).read_text())
        assert json.loads(body["parameters"]["config"]) == CONFIGURATION
        Path(file).unlink()
        assert not result(tmp_path / "out").restored
        assert "look after the server" in (tmp_path / "out/index.html").read_text()


class TestAConfiguration:
    def test_gets_the_candidate_s_settings_and_keeps_the_rest(self) -> None:
        served = copy.deepcopy(CONFIGURATION)
        served["dynamic_batching"] = {"preferred_batch_size": [4], "preserve_ordering": True}
        changed = configured(served, candidate(2, 2, 500))
        assert candidate_of(changed) == candidate(2, 2, 500)
        assert changed["dynamic_batching"] == {"preserve_ordering": True, "max_queue_delay_microseconds": 500}
        assert changed["parameters"] == served["parameters"]
        assert changed["instance_group"][0]["kind"] == "KIND_CPU"
        assert candidate_of(served) == candidate(1, 4, 0)
        assert "dynamic_batching" not in configured(served, candidate(1, 1, OFF))

    @pytest.mark.parametrize(
        ("addition", "message"),
        [
            ({"ensemble_scheduling": {"step": [{"model_name": "tensorrt_llm"}]}}, "tune one of tensorrt_llm"),
            ({"sequence_batching": {}}, "batches sequences"),
        ],
    )
    def test_of_another_kind_of_model_is_refused(self, addition: dict[str, object], message: str) -> None:
        if addition == {"sequence_batching": {}}:
            addition = {"sequence_batching": {"direct": {}}}
        with pytest.raises(UserError, match=message):
            candidate_of({**CONFIGURATION, **addition})


def trial(throughput: float, p99: float, errors: int = 0) -> Trial:
    latency = Distribution(count=1, avg=p99, min=p99, p50=p99, p90=p99, p95=p99, p99=p99, max=p99)
    level = Level(
        concurrency=1, requests=9, errors=errors, error_kinds={}, seconds=1, windows=3, stable=True, throughput=throughput,
        tokens_per_second=None, latency=latency, first_token=None, between_tokens=None, server=None, client_cores=0,
    )  # fmt: skip
    return Trial(name=f"{throughput}/{p99}", candidate=candidate(1, 1, OFF), instances="1:CPU", levels=(level,))


class TestRanking:
    def test_within_the_bound_by_throughput_then_beyond_by_latency_then_failures(self) -> None:
        failed = Trial(name="failed", candidate=candidate(1, 1, 0), instances="1:CPU", error="no memory")
        within, faster, beyond, far = trial(50, 90), trial(70, 99), trial(100, 150), trial(200, 400)
        wrong = trial(500, 10, errors=1)
        order = ranked([failed, far, within, wrong, beyond, faster], 100)
        assert order == (faster, within, wrong, beyond, far, failed)

    def test_a_gain_within_noise_is_none(self) -> None:
        assert not is_better(trial(101, 10), trial(100, 10), None)
        assert is_better(trial(103, 10), trial(100, 10), None)
        assert is_better(trial(10, 90), trial(500, 110), 100)
        assert is_better(trial(10, 150), trial(500, 200), 100)

    def test_the_best_level_within_the_bound_counts(self) -> None:
        both = Trial(
            name="x",
            candidate=candidate(1, 1, 0),
            instances="1:CPU",
            levels=(*trial(50, 90).levels, *trial(80, 120).levels),
        )
        found = best_level(both, 100)
        assert found is not None
        assert found.throughput == 50

    def test_a_trial_ends_where_the_bound_is_left_or_throughput_stops_to_grow(self) -> None:
        (one,), (two,), (three,) = (trial(*each).levels for each in ((50, 50), (80, 80), (82, 160)))
        assert not has_peaked([one], 100)
        assert not has_peaked([one, two], 100)
        assert has_peaked([one, two, three], None)
        assert has_peaked([one, three], 100)


class TestAClimb:
    @pytest.mark.parametrize("start", [candidate(1, 1, OFF), candidate(3, 8, 1000), candidate(1, 8, 0)])
    def test_reaches_the_top_of_a_hill_with_few_trials(self, start: Candidate) -> None:
        tried: set[Candidate] = set()

        def height(each: Candidate) -> float:
            plain = GRID.plain(each)
            tried.add(plain)
            size = plain.max_batch_size if plain.batches else 1
            return min(size, 4) * (2 if plain.instances == 2 else 1) - plain.queue_delay_us / 1e4 + plain.batches * 0.01

        better: Callable[[Candidate, Candidate], bool] = lambda one, other: height(one) > height(other)  # noqa: E731
        tops = [climb(GRID, each, better) for each in (start, candidate(1, 8, 0))]
        assert candidate(2, 4, 0) in tops or candidate(2, 8, 0) in tops
        assert len(tried) < len(GRID.all())

    def test_the_grid_leaves_out_what_makes_no_difference(self) -> None:
        every = GRID.all()
        assert len(every) == len(set(every)) == 3 * (1 + 3 * 2)
        assert all(each.batches or each.max_batch_size == 1 for each in every)
        only = Grid(instances=(1,), max_batch_sizes=(1, 8), queue_delays_us=(0,))
        assert only.all() == [candidate(1, 1, 0), candidate(1, 8, 0)]


class TestASnippet:
    def test_of_no_batching_says_so(self) -> None:
        text = stack_snippet("tiny-falcon", Tuning(model=MODEL), candidate(2, 1, OFF))
        recipe = yaml.safe_load(text)["config"]["llm-serving:models"]["tiny-falcon"]["recipe"]
        assert recipe == {"maxBatchSize": 1, "instances": 2, "dynamicBatching": None}

    def test_goes_where_the_recipe_keeps_its_settings(self) -> None:
        tuning = Tuning(
            model=MODEL, max_batch_size=f"models.{MODEL}.maxBatchSize", instances=None, dynamic_batching=None
        )
        text = stack_snippet("tiny-falcon", tuning, candidate(2, 8, 100))
        recipe = yaml.safe_load(text)["config"]["llm-serving:models"]["tiny-falcon"]["recipe"]
        assert recipe == {
            "models": {MODEL: {"maxBatchSize": 8}},
            "dynamicBatching": {"maxQueueDelayMicroseconds": 100},
        }
