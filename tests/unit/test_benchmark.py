"""The benchmark program: genai-perf's flags to aiperf's, aiperf's results to genai-perf's table, failures in words."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from engine_jobs.errors import UserError
from engine_jobs.triton_cli.benchmark import aiperf_command, parse, payload_template, run_benchmark
from engine_jobs.triton_cli.benchmark_table import Measured, read_measured, statistics_of
from tests.unit.hub_endpoint import hub
from tests.unit.llama_tokenizer import write_tokenizer

TUTORIAL = (
    *("-m", "ensemble", "--num-prompts", "100", "--random-seed", "123", "--synthetic-input-tokens-mean", "200"),
    *("--synthetic-input-tokens-stddev", "0", "--output-tokens-mean", "100", "--output-tokens-stddev", "0"),
    *("--output-tokens-mean-deterministic", "--tokenizer", "hf-internal-testing/llama-tokenizer", "--concurrency", "1"),
    *(
        "--measurement-interval",
        "4000",
        "--profile-export-file",
        "my_profile_export.json",
        "--url",
        "http://localhost:8000",
    ),
)
TUTORIAL_TABLE = """\
┏━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┓
┃              Statistic ┃      avg ┃      min ┃      max ┃      p99 ┃      p90 ┃      p75 ┃
┡━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━┩
│   Request latency (ms) │ 1,630.23 │ 1,616.37 │ 1,644.65 │ 1,644.05 │ 1,638.70 │ 1,635.64 │
│ Output sequence length │   300.00 │   300.00 │   300.00 │   300.00 │   300.00 │   300.00 │
│  Input sequence length │   200.00 │   200.00 │   200.00 │   200.00 │   200.00 │   200.00 │
└────────────────────────┴──────────┴──────────┴──────────┴──────────┴──────────┴──────────┘
Output token throughput (per sec): 184.02
Request throughput (per sec): 0.61"""


def test_the_table_is_the_tutorials() -> None:
    latency = {"avg": 1630.23, "min": 1616.37, "max": 1644.65, "p99": 1644.05, "p90": 1638.70, "p75": 1635.64}
    measured = Measured(
        rows={
            "Request latency (ms)": latency,
            "Output sequence length": dict.fromkeys(latency, 300.0),
            "Input sequence length": dict.fromkeys(latency, 200.0),
        },
        rates={"Output token throughput (per sec)": 184.02, "Request throughput (per sec)": 0.61},
        requests=3,
        failed=0,
    )
    title, table = measured.text().split("\n", 1)
    assert title.strip() == "LLM Metrics"
    assert table == TUTORIAL_TABLE


def test_the_tutorials_flags_are_aiperfs() -> None:
    words = " ".join(aiperf_command(parse(TUTORIAL), Path("/tokenizer"), Path("/payload.jinja")))
    for flags in (
        *("aiperf profile -m ensemble --url http://localhost:8000", "--endpoint-type template"),
        *(
            "--custom-endpoint /v2/models/ensemble/generate ",
            "--tokenizer /tokenizer",
            "--random-seed 123",
            "--num-prompts 100",
        ),
        *("--synthetic-input-tokens-mean 200 --synthetic-input-tokens-stddev 0", "--output-tokens-mean 100"),
        *("--concurrency 1", "--benchmark-duration 4 ", "--profile-export-file my_profile_export.json"),
    ):
        assert flags in words


def test_a_request_asks_for_no_fewer_tokens_where_the_number_is_to_be_exact() -> None:
    assert json.loads(_rendered(parse(TUTORIAL))) == {"text_input": "a", "max_tokens": 7, "min_length": 7}
    streams = parse(("--tokenizer", "x/y", "--streaming", "--min-tokens-input", "min_tokens"))
    assert json.loads(_rendered(streams)) == {"text_input": "a", "max_tokens": 7, "stream": True}


def _rendered(arguments: Any) -> str:
    return payload_template(arguments).replace("{{ text|tojson }}", '"a"').replace("{{ max_tokens }}", "7")


def test_percentiles_lie_between_values() -> None:
    assert statistics_of([4, 1, 2, 3]) == {"avg": 2.5, "min": 1, "max": 4, "p99": 3.97, "p90": 3.7, "p75": 3.25}


def write_result(folder: Path, *, failed: int = 0, answered: int = 2) -> None:
    """What aiperf 0.13.0 leaves, as far as it is read."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"unit": "ms", "avg": 2.0, "min": 1.0, "max": 3.0, "p99": 3.0, "p90": 3.0, "p75": 2.5, "p50": 2.0}
    rates = {"output_token_throughput": {"avg": 20.0}, "request_throughput": {"avg": 2.0}}
    summary = {"request_latency": values, "output_sequence_length": values, **rates}
    (folder / "result.json").write_text(json.dumps(summary))
    prompts = [
        {"session_id": f"session_{index}", "payloads": [{"text_input": "a" * (index + 1)}]} for index in range(2)
    ]
    (folder / "inputs.json").write_text(json.dumps({"data": prompts}))
    records: list[dict[str, Any]] = [
        {"metadata": {"conversation_id": f"session_{index % 2}", "was_cancelled": False}, "metrics": {}}
        for index in range(answered)
    ]
    error = {"code": 400, "message": "the prompt is empty"}
    records += [{"metadata": {"conversation_id": "session_1", "was_cancelled": False}, "error": error}] * failed
    (folder / "result.jsonl").write_text("\n".join(json.dumps(record) for record in records))


def test_input_lengths_are_counted_over_the_answered_requests(tmp_path: Path) -> None:
    write_result(tmp_path, answered=3, failed=5)
    measured = read_measured(tmp_path, "result", len)
    assert measured.rows["Input sequence length"]["avg"] == pytest.approx(4 / 3)
    assert (measured.requests, measured.failed) == (3, 5)
    assert "5 of 8 requests failed" in measured.text()


def test_a_run_without_an_answer_says_what_was_wrong(tmp_path: Path) -> None:
    write_result(tmp_path, answered=0, failed=3)
    with pytest.raises(UserError, match="no request was answered: the prompt is empty"):
        read_measured(tmp_path, "result", len)


def fake_aiperf(folder: Path, monkeypatch: pytest.MonkeyPatch, *, code: int) -> None:
    """An `aiperf` on PATH that leaves what is in `folder` and ends with the code."""
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "aiperf"
    program.write_text(
        f'#!/bin/sh\nwhile [ "$1" != --output-artifact-dir ]; do shift; done\ncp {folder}/made/* "$2"\necho gone wrong\nexit {code}\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")


def arguments(tmp_path: Path, *more: str) -> Any:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    return parse(
        (
            *("--tokenizer", str(tokenizer), "--output-artifact-dir", str(tmp_path / "out")),
            *("--profile-export-file", "result.json", *more),
        )
    )


def test_a_run_is_told_with_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_result(tmp_path / "made")
    fake_aiperf(tmp_path, monkeypatch, code=0)
    told = run_benchmark(arguments(tmp_path))
    assert "│   Request latency (ms) │ 2.00 │" in told
    assert "│  Input sequence length │ 3.50 │" in told


@pytest.mark.parametrize("leaves", [True, False])
def test_a_failing_aiperf_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves: bool) -> None:
    if leaves:
        write_result(tmp_path / "made", answered=0, failed=2)
    fake_aiperf(tmp_path, monkeypatch, code=1)
    with pytest.raises(UserError, match="the prompt is empty" if leaves else "gone wrong"):
        run_benchmark(arguments(tmp_path))


def test_without_aiperf_the_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="the project's image `aiperf`"):
        run_benchmark(arguments(tmp_path))


def test_the_tokenizer_comes_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_tokenizer(tmp_path / "models" / "tiny-llama")
    (model / "config.json").write_text("{}")
    write_result(tmp_path / "made")
    fake_aiperf(tmp_path, monkeypatch, code=0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub(tmp_path / "models") as endpoint:
        given = arguments(tmp_path, "--hub-endpoint", endpoint)
        given.tokenizer = "llm-serving/tiny-llama"
        assert "LLM Metrics" in run_benchmark(given)
        given.tokenizer = "llm-serving/nothing"
        with pytest.raises(UserError, match="llm-serving/nothing: neither a folder nor to be had from the Hub"):
            run_benchmark(given)
