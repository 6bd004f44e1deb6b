"""The load test against real servers whose speed is known: what it measures, what it counts, and what it never hides."""

import asyncio
import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web

from engine_jobs.errors import UserError
from engine_jobs.load.__main__ import main
from engine_jobs.load.closed_loop import Window, is_stable
from engine_jobs.load.results import Distribution, Level, SweepResult, percentile
from engine_jobs.load.sample import Answered, Sample
from engine_jobs.load.spec import Workload, to_json
from engine_jobs.load.write import read_result
from engine_jobs.smoke_test import HttpProbe, UrlTarget
from tests.unit.interrupts import take_interrupts
from tests.unit.load_servers import Handler, failing, generate, serving, stream

PATH = "/v2/models/ensemble/generate"
BODY = '{"text_input": "What is ML?", "max_tokens": 20}'
QUICK = ("--window", "0.3", "--warm-up", "0.05", "--min-requests", "5", "--max-windows", "3")
STEADY = ("--stability-percentage", "1000")
"""Nothing is unsteady: what these tests look at does not hang on how busy the machine is."""


def sweep(url: str, out: Path, *more: str, path: str = PATH) -> SweepResult:
    ask = ("--path", path, "--data", BODY, "--answer", "/text_output", "--name", "tiny")
    main(["sweep", "--url", url, *ask, *QUICK, *STEADY, "--out", str(out), *more])
    return result(out)


def result(out: Path) -> SweepResult:
    read = read_result(out)
    assert isinstance(read, SweepResult)
    return read


def measured(handler: Handler, out: Path, *more: str) -> SweepResult:
    with serving({("POST", PATH): handler}) as url:
        return sweep(url, out, *more)


class TestTheNumbersAreRight:
    def test_throughput_is_concurrency_over_service_time_until_the_server_is_full(self, tmp_path: Path) -> None:
        found = measured(generate(0.1, at_once=4), tmp_path / "out", "--concurrency", "1,4,8").levels
        assert [level.concurrency for level in found] == [1, 4, 8]
        for level, most in zip(found, (10, 40, 40), strict=True):
            assert 0.4 * most < level.throughput <= 1.03 * most  # a busy machine makes the server slower
            assert level.latency is not None
            # Little's law: what is under way is what comes in a second times how long it stays.
            assert level.throughput * level.latency.avg / 1000 == pytest.approx(level.concurrency, rel=0.1)
            assert level.latency.min >= 100
        assert found[2].latency is not None
        assert found[2].latency.p50 >= 195

    def test_requests_that_end_in_waves_are_counted_exactly(self, tmp_path: Path) -> None:
        (level,) = measured(generate(0.3), tmp_path / "out", "--concurrency", "4").levels
        assert level.latency is not None
        assert level.throughput * level.latency.avg / 1000 == pytest.approx(4, rel=0.04)

    def test_percentiles_are_measured_times(self) -> None:
        ordered = [float(value) for value in range(1, 201)]
        assert [percentile(ordered, percent) for percent in (0, 50, 90, 99, 99.9, 100)] == [1, 100, 180, 198, 200, 200]
        found = Distribution.of(value / 1000 for value in reversed(ordered))
        assert found is not None
        assert (found.count, found.avg, found.min, found.p50, found.p95, found.max) == (200, 100.5, 1, 100, 190, 200)
        assert Distribution.of([]) is None

    def test_a_stream_is_timed_piece_by_piece(self, tmp_path: Path) -> None:
        events: list[dict[str, object]] = [{"text_output": "It "}, {"text_output": ""}, {"text_output": "is."}]
        found = measured(stream(0.1, 0.05, events), tmp_path / "out", "--concurrency", "2")
        (level,) = found.levels
        assert level.first_token is not None
        assert level.between_tokens is not None
        assert level.first_token.p50 == pytest.approx(100, rel=0.3)
        assert level.between_tokens.p50 == pytest.approx(100, rel=0.3)  # the empty event is no token
        assert level.tokens_per_second == pytest.approx(2 * level.throughput, rel=0.01)
        assert found.tokens is not None
        assert "events" in found.tokens

    def test_tokens_are_counted_by_the_model_s_tokenizer_without_the_repeated_prompt(self, tmp_path: Path) -> None:
        tokenizer = Path(__file__).parents[2] / "localcluster/models/tiny-bloom/tokenizer.json"
        from tokenizers import Tokenizer

        answer = len(Tokenizer.from_file(str(tokenizer)).encode(" It is a cloud-based service.").ids)
        handler = generate(0.02, text="What is ML? It is a cloud-based service.")
        more = ("--concurrency", "1", "--tokenizer", str(tokenizer), "--prompt-at", "/text_input")
        (level,) = measured(handler, tmp_path / "out", *more).levels
        assert level.tokens_per_second == pytest.approx(answer * level.throughput, rel=0.01)

    def test_triton_s_own_times_are_of_the_measurement_alone(self, tmp_path: Path) -> None:
        requests = {"count": 1000}

        async def stats(request: web.Request) -> web.StreamResponse:
            n = requests["count"] = requests["count"] + 100
            parts = {"queue": 2, "compute_input": 1, "compute_infer": 30, "compute_output": 1}
            times = {part: {"count": n, "ns": int(n * ms * 1e6)} for part, ms in parts.items()}
            own = {"name": "ensemble", "inference_count": n, "execution_count": n // 4, "inference_stats": times}
            return web.json_response({"model_stats": [own]})

        routes = {("POST", PATH): generate(0.02), ("GET", "/v2/models/ensemble/stats"): stats}
        with serving(routes) as url:
            (level,) = sweep(url, tmp_path / "out", "--concurrency", "1").levels
        assert level.server is not None
        assert (level.server.queue, level.server.compute_infer, level.server.batch) == (2, 30, 4)


class TestStability:
    @staticmethod
    def window(throughput: int, latency: float) -> Window:
        sample = Sample(start=0, end=latency, answer=Answered(text="x"))
        return Window(start=0, end=1, samples=(sample,) * throughput)

    def test_three_windows_within_the_percentage_are_stable(self) -> None:
        assert is_stable([self.window(100, 0.1), self.window(109, 0.105), self.window(105, 0.1)], 10)

    @pytest.mark.parametrize("last", [(112, 0.1), (100, 0.12), (0, 0.1)])
    def test_another_throughput_another_latency_or_no_answer_is_not(self, last: tuple[int, float]) -> None:
        assert not is_stable([self.window(100, 0.1), self.window(100, 0.1), self.window(*last)], 10)

    def test_two_are_too_few_and_only_the_last_three_count(self) -> None:
        good = self.window(100, 0.1)
        assert not is_stable([good, good], 10)
        assert is_stable([self.window(10, 1.0), good, good, good], 10)

    def test_what_never_settles_is_reported_as_not_stable(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def slower() -> Handler:
            seconds = [0.005]

            async def handle(request: web.Request) -> web.StreamResponse:
                await asyncio.sleep(seconds[0])
                seconds[0] *= 1.02
                return web.json_response({"text_output": "It is."})

            return handle

        (level,) = measured(
            slower(), tmp_path / "out", "--concurrency", "1", "--max-windows", "4", "--stability-percentage", "10"
        ).levels
        assert not level.stable
        assert level.windows == 4
        assert "not stable after 4 windows" in capsys.readouterr().err
        assert "not stable after 4 windows" in (tmp_path / "out/index.html").read_text()


class TestErrorsAreNeverHidden:
    def test_they_are_counted_by_kind_and_are_in_no_latency(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        with pytest.raises(UserError, match="requests failed at concurrency 4"):
            measured(failing(4, "overloaded, try again"), out, "--concurrency", "4")
        (level,) = result(out).levels
        total = level.requests + level.errors
        assert level.errors / total == pytest.approx(0.25, abs=0.1)
        assert level.error_kinds == {"status 503: overloaded, try again": level.errors}
        assert level.latency is not None
        assert level.latency.count == level.requests
        told = f"{level.errors} of {total} requests failed: {level.errors} x status 503: overloaded, try again"
        assert told in capsys.readouterr().err
        assert told in (out / "index.html").read_text()

    def test_so_many_may_be_allowed(self, tmp_path: Path) -> None:
        found = measured(failing(4, "busy"), tmp_path / "out", "--concurrency", "2", "--max-error-percent", "40")
        assert found.levels[0].errors > 0

    def test_a_wrong_answer_is_an_error(self, tmp_path: Path) -> None:
        texts = iter(["It is."])

        async def handle(request: web.Request) -> web.StreamResponse:
            return web.json_response({"text_output": next(texts, "It was.")})

        out = tmp_path / "out"
        with serving({("POST", PATH): handle}) as url, pytest.raises(UserError, match=r"no request had a good answer"):
            sweep(url, out, "--concurrency", "1,2", "--expect-text", "It is.")
        (level,) = result(out).levels
        assert list(level.error_kinds) == ['wrong answer: "It was."']
        assert not result(out).complete

    def test_an_error_in_the_middle_of_a_stream_is_one(self, tmp_path: Path) -> None:
        good: list[dict[str, object]] = [{"text_output": "It "}, {"text_output": "is."}]
        broken: list[dict[str, object]] = [{"text_output": "It "}, {"error": "the KV cache is full"}]
        answers = iter([good])

        async def handle(request: web.Request) -> web.StreamResponse:
            events = next(answers, broken)
            return await stream(0.01, 0.01, events)(request)

        out = tmp_path / "out"
        with serving({("POST", PATH): handle}) as url, pytest.raises(UserError, match="the KV cache is full"):
            sweep(url, out, "--concurrency", "2")

    def test_a_server_that_hangs_is_timed_out(self, tmp_path: Path) -> None:
        first = [True]

        async def handle(request: web.Request) -> web.StreamResponse:
            if not (first and first.pop()):
                await asyncio.sleep(30)
            return web.json_response({"text_output": "It is."})

        began = time.monotonic()
        with (
            serving({("POST", PATH): handle}) as url,
            pytest.raises(UserError, match=r"no complete answer within 0\.5 s"),
        ):
            sweep(url, tmp_path / "out", "--concurrency", "5", "--timeout", "0.5")
        assert time.monotonic() - began < 15

    @pytest.mark.parametrize("answer", [{"text_output": ""}, {"error": "no such model"}])
    def test_a_server_whose_first_answer_is_bad_is_not_measured(self, tmp_path: Path, answer: object) -> None:
        async def handle(request: web.Request) -> web.StreamResponse:
            return web.json_response(answer)

        with serving({("POST", PATH): handle}) as url, pytest.raises(UserError, match="tiny: not measured"):
            sweep(url, tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestWhatIsAsked:
    def test_prompts_and_values_go_into_the_body_in_turn(self, tmp_path: Path) -> None:
        bodies: list[tuple[object, str]] = []

        async def handle(request: web.Request) -> web.StreamResponse:
            bodies.append((await request.json(), request.headers["Host"]))
            return web.json_response({"text_output": "It is."})

        prompts = tmp_path / "prompts.txt"
        prompts.write_text("one\n\ntwo\n")
        more = ("--prompts", str(prompts), "--prompt-at", "/text_input", "--set", '/parameters={"top_k": 1}')
        with serving({("POST", PATH): handle}) as url:
            sweep(url, tmp_path / "out", "--concurrency", "1", "--host", "tiny.llm.localhost", *more)
        assert {json.dumps(body) for body, _ in bodies} == {
            json.dumps({"text_input": prompt, "max_tokens": 20, "parameters": {"top_k": 1}})
            for prompt in ("one", "two")
        }
        assert {host for _, host in bodies} == {"tiny.llm.localhost"}

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (("--concurrency", "4,2"), "concurrency must be rising"),
            (("--set", "/parameters/top_k=1"), "no 'parameters'"),
            (("--set", "/max_tokens=many"), "is not JSON"),
            (("--prompts", "{nothing}"), "no line with text"),
            (("--max-windows", "2"), "max_windows must be 3 or more"),
            (("--window", "0"), "window_s must be above 0"),
            (("--tokenizer", "{nothing}"), "not a tokenizer.json"),
            (("--workload-json", "{}"), "give one of --workload, --workload-json and --url"),
        ],
    )
    def test_a_mistake_is_told_before_anything_is_measured(
        self, tmp_path: Path, more: tuple[str, ...], message: str
    ) -> None:
        nothing = tmp_path / "nothing"
        nothing.write_text("\n")
        with serving({}) as url, pytest.raises(UserError, match=re.escape(message)):
            sweep(
                url, tmp_path / "out", *(each.format(nothing=nothing) if each == "{nothing}" else each for each in more)
            )

    def test_a_folder_that_is_there_is_not_written_over(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="it is there already"):
            sweep("http://127.0.0.1:9", tmp_path)

    def test_no_server_is_a_message(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no connection to"):
            sweep("http://127.0.0.1:9", tmp_path / "out")


class TestTheResults:
    def test_csv_json_and_page_say_the_same(self, tmp_path: Path) -> None:
        found = measured(generate(0.01), tmp_path / "out", "--concurrency", "1,2", "--about", "image=triton-cpu:0123")
        rows = list(csv.DictReader((tmp_path / "out/results.csv").open()))
        assert [float(row["throughput_per_s"]) for row in rows] == [level.throughput for level in found.levels]
        assert [float(row["latency_p99_ms"]) for row in rows] == [level.p99 for level in found.levels]
        assert rows[0]["first_token_p50_ms"] == ""
        text = (tmp_path / "out/index.html").read_text()
        assert "triton-cpu:0123" in text
        assert f"curl -sS -H &#x27;Content-Type: application/json&#x27; -d &#x27;{BODY}" in text.replace("&quot;", '"')
        assert all(part in text for part in ("requests/s", "p99 latency, ms", "client&#x27;s CPU", "--concurrency 1,2"))

    def test_the_page_needs_no_network_and_no_script(self, tmp_path: Path) -> None:
        measured(generate(0.01), tmp_path / "out", "--concurrency", "1,2")
        text = (tmp_path / "out/index.html").read_text()
        assert not re.search(r"<script|<link|<img|@import|url\(|src=|href=", text)
        assert text.count("<svg") == text.count("</svg>") == 3

    def test_a_job_s_log_holds_the_results_and_gives_the_same_page(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = measured(generate(0.01), tmp_path / "out", "--concurrency", "1,2", "--json", "--progress", "lines")
        captured = capsys.readouterr()
        assert "concurrency 2: " in captured.err
        log = tmp_path / "log"
        log.write_text(captured.err + captured.out)
        main(["report", str(log), "--out", str(tmp_path / "again")])
        assert result(tmp_path / "again") == found
        pages = [(tmp_path / each / "index.html").read_text() for each in ("out", "again")]
        assert pages[0] == pages[1]

    def test_something_else_is_not_read_as_results(self, tmp_path: Path) -> None:
        (tmp_path / "results.json").write_text('{"levels": []}')
        with pytest.raises(UserError, match="no results of this program"):
            read_result(tmp_path)

    def test_it_is_quiet_where_stderr_is_no_terminal(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        measured(generate(0.01), tmp_path / "out", "--concurrency", "1")
        assert capsys.readouterr().err.splitlines() == [
            f"results: {tmp_path / 'out/index.html'}, results.csv, results.json"
        ]

    def test_an_interrupted_sweep_keeps_what_it_has(self, tmp_path: Path) -> None:
        probe = HttpProbe(name="q", path=PATH, method="POST", body={"text_input": "x"}, answer="/text_output")
        with serving({("POST", PATH): generate(0.01)}) as url:
            workload = Workload(name="tiny", target=UrlTarget(url=url), probe=probe)
            command = (sys.executable, "-m", "engine_jobs.load", "sweep", "--workload-json", to_json(workload), *QUICK)
            first = ("--concurrency", "1,2", "--window", "1", "--max-windows", "3", "--progress", "lines")
            process = subprocess.Popen(
                [*command, *first, "--out", str(tmp_path / "out")],
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                preexec_fn=take_interrupts,
            )
            assert process.stderr is not None
            assert "concurrency 1: " in next(line for line in process.stderr if line.startswith("concurrency"))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        found = result(tmp_path / "out")
        assert [level.concurrency for level in found.levels] == [1]
        assert not found.complete
        assert "ended before all of its levels" in (tmp_path / "out/index.html").read_text()


def test_a_level_without_an_answer_has_no_latency_to_be_best_by() -> None:
    level = Level(
        concurrency=1, requests=0, errors=3, error_kinds={"x": 3}, seconds=1, windows=1, stable=False, throughput=0,
        tokens_per_second=None, latency=None, first_token=None, between_tokens=None, server=None, client_cores=0,
    )  # fmt: skip
    assert level.p99 == math.inf
