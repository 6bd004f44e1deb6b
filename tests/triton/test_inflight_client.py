"""The inflight client as a program, against a real Triton with the `tensorrt_llm` of the text models' tests."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster.paths import REPOSITORY
from tests.triton.repository import write_repository
from tests.triton.server import Server, triton_server
from tests.unit.llama_tokenizer import write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "decoupled"])
def server(
    request: pytest.FixtureRequest, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    repository = write_repository(folder / "repository", tokenizer, decoupled=request.param, skip=1)
    with triton_server(repository, folder / "log") as running:
        yield running


def client(server: Server, tokenizer: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "engine_jobs.triton_cli.inflight_client", "--url", server.grpc),
            *("--tokenizer-dir", str(tokenizer), *arguments),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_the_tutorials_call_prints_its_lines(server: Server, tokenizer: Path) -> None:
    code, output, error = client(server, tokenizer, "--request-output-len", "50", "--text", "What is ML?")
    assert (code, error) == (0, "")
    assert output == "Input: What is ML?\nOutput beam 0: What is ML?\n"


def test_every_one_of_many_requests_gets_its_own_answer(server: Server, tokenizer: Path) -> None:
    texts = [f"text {letter}" for letter in "abcdefgh"]
    arguments = [word for text in texts for word in ("--text", text)]
    code, output, error = client(server, tokenizer, "--request-output-len", "50", "--requests", "24", *arguments)
    assert (code, "24 of 24 requests answered" in error) == (0, True)
    for text in texts:
        assert output.count(f"Input: {text}\nOutput beam 0: {text}\n") == 3


def test_a_wrong_model_or_address_is_said_in_a_line(server: Server, tokenizer: Path) -> None:
    code, _, error = client(server, tokenizer, "--text", "a", "--model-name", "nothing")
    assert (code, "unknown model: 'nothing'" in error) == (1, True)
    code, _, error = client(server, tokenizer, "--text", "a", "--url", "127.0.0.1:1")
    assert (code, "127.0.0.1:1" in error) == (1, True)
    code, _, error = client(server, tokenizer, "--text", "")
    assert (code, "the prompt is empty" in error) == (1, True)


def test_streams_run_at_the_same_time(tokenizer: Path, tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository", tokenizer, decoupled=True, skip=1, milliseconds=100)
    with triton_server(repository, tmp_path / "log") as server:
        start = time.monotonic()
        code, output, error = client(
            server,
            tokenizer,
            "--streaming",
            "--verbose",
            "--text",
            "é abcdef",
            "--requests",
            "16",
            "--request-output-len",
            "20",
        )
        spent = time.monotonic() - start
        assert code == 0, error
        assert output.count("Output beam 0: é abcdef") == 16
        assert output.count("tokens in 10 responses") == 16
        assert spent < 16 * 10 * 0.1 / 2
        code, output, error = client(
            server,
            tokenizer,
            "--streaming",
            "--text",
            "abcdefghijkl",
            "--request-output-len",
            "20",
            "--stop-after-ms",
            "450",
        )
        assert code == 0, error
        assert "Request is cancelled after 450 ms" in output
        assert "abcdefghijkl\n" not in output.replace("Input: abcdefghijkl\n", "")
