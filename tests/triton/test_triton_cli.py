"""The recipe `triton-cli` from a checkpoint to answers: its Jobs' own programs on the CPU stand-in, served by a real Triton."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localcluster.paths import REPOSITORY
from tests.triton.server import Server, triton_server

TINY_LLAMA = REPOSITORY / "localcluster" / "models" / "tiny-llama"
STAND_IN = "engine_jobs.tensorrt_llm.cpu_stand_in"
VERSION = "0.17.0"
NAME = "llama-2-7b"
ML = next(each for each in json.loads((TINY_LLAMA / "completions.json").read_text()) if each["prompt"] == "What is ML?")


def program(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"TRTLLM_STAND_IN_VERSION": VERSION, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout


def import_model(folder: Path, *, source: str = f"hf:{TINY_LLAMA}", version: str = VERSION) -> tuple[int, str]:
    models = str(folder / "models")
    return program(
        *("engine_jobs.triton_cli.import_model", "--name", NAME, "--engines-dir", str(folder / "engines")),
        *("--repository-dir", models, "--tensorrt-llm-version", version, "--"),
        *(sys.executable, "-m", f"{STAND_IN}.triton_import", "import", "-m", NAME, "-s", source),
        *("--backend", "tensorrtllm", "--repo", models),
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("import")
    code, output = import_model(folder)
    assert code == 0, output
    artifact = folder / "repository"
    code, output = program(
        *("engine_jobs.triton_cli.repository", "--name", NAME, "--engine-dir", str(folder / "engines" / NAME)),
        *("--checkpoint-dir", str(TINY_LLAMA), "--output-dir", str(artifact), "--triton-version", "25.01"),
        *("--backend", "python-cpu-stand-in", "--served-dir", str(artifact)),
        *(
            "--serving",
            json.dumps({"triton_max_batch_size": 8, "decoupled_mode": True, "exclude_input_in_output": True}),
        ),
    )
    assert code == 0, output
    with triton_server(artifact / "model_repository", folder / "log") as server:
        yield server, artifact


def ask(server: Server, path: str, **more: Any) -> str:
    body = {
        "text_input": ML["prompt"],
        "max_tokens": 60,
        "bad_words": "",
        "stop_words": "",
        "pad_id": 2,
        "end_id": 2,
        **more,
    }
    request = urllib.request.Request(f"http://{server.http}/v2/models/{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        events = response.read().decode().split("\n\n")
    return "".join(json.loads(event.removeprefix("data: "))["text_output"] for event in events if event)


def test_an_import_is_served_under_its_own_name_at_once_and_as_a_stream(imported: tuple[Server, Path]) -> None:
    server, artifact = imported
    models = {path.name for path in (artifact / "model_repository").iterdir()}
    assert models == {"preprocessing", "postprocessing", "tensorrt_llm", NAME}
    assert ask(server, f"{NAME}/generate") == ML["completion"]
    assert ask(server, f"{NAME}/generate_stream", stream=True) == ML["completion"]


def test_the_inflight_client_gets_many_streams_of_an_import(imported: tuple[Server, Path]) -> None:
    server, artifact = imported
    code, output = program(
        *(
            "engine_jobs.triton_cli.inflight_client",
            "--url",
            server.grpc,
            "--tokenizer-dir",
            str(artifact / "tokenizer"),
        ),
        *("--request-output-len", "60", "--text", ML["prompt"], "--streaming", "--requests", "6"),
    )
    assert code == 0, output
    assert output.count(f"Input: {ML['prompt']}\nOutput beam 0: {ML['completion']}\n") == 6


def test_an_import_is_done_again_over_what_a_killed_one_left(tmp_path: Path) -> None:
    left = tmp_path / "engines" / NAME
    left.mkdir(parents=True)
    (left / "rank0.engine").write_bytes(b"half")
    (tmp_path / "models" / NAME).mkdir(parents=True)
    code, output = import_model(tmp_path)
    assert code == 0, output
    assert "was left by another run" in output
    code, output = import_model(tmp_path)
    assert (code, "skipping build" in output) == (0, True)


def test_an_import_without_an_engine_or_of_another_version_fails_in_words(tmp_path: Path) -> None:
    code, output = program(
        *("engine_jobs.triton_cli.import_model", "--name", NAME, "--engines-dir", str(tmp_path / "engines")),
        *("--repository-dir", str(tmp_path / "models"), "--tensorrt-llm-version", VERSION, "--", "true"),
    )
    assert (code, "ended with code 0, and" in output) == (1, True)
    assert "is not the output of trtllm-build" in output
    code, output = import_model(tmp_path / "other", version="0.20.0")
    assert (code, f"the engine's version is {VERSION}" in output) == (1, True)
    code, output = import_model(tmp_path / "none", source="hf:nowhere/no-such-model")
    assert (code, "its own words above say why" in output) == (1, True)


def test_the_manual_way_answers_with_the_tutorials_text(tmp_path: Path) -> None:
    checkpoint, engine, artifact = (str(tmp_path / name) for name in ("checkpoint", "engine", "repository"))
    code, output = program(
        *(f"{STAND_IN}.convert_checkpoint", "--model_dir", str(TINY_LLAMA), "--output_dir", checkpoint),
        *("--dtype", "float16", "--tp_size", "2", "--pp_size", "1"),
    )
    assert code == 0, output
    code, output = program(
        *(f"{STAND_IN}.trtllm_build", "--checkpoint_dir", checkpoint, "--remove_input_padding", "enable"),
        *("--gpt_attention_plugin", "float16", "--context_fmha", "enable", "--gemm_plugin", "float16"),
        *("--output_dir", engine, "--paged_kv_cache", "enable", "--max_batch_size", "4"),
    )
    assert code == 0, output
    repository = (
        *("engine_jobs.tensorrt_llm.repository", "--engine-dir", engine, "--checkpoint-dir", str(TINY_LLAMA)),
        *("--output-dir", artifact, "--triton-version", "25.01", "--backend", "python-cpu-stand-in"),
        *("--served-dir", artifact, "--serving", '{"triton_max_batch_size": 4, "exclude_input_in_output": false}'),
    )
    code, output = program(*repository, "--tensor-parallel-size", "1")
    assert (code, "tp_size 2" in output) == (1, True)
    code, output = program(*repository, "--tensor-parallel-size", "2")
    assert code == 0, output
    with triton_server(tmp_path / "repository" / "model_repository", tmp_path / "log") as server:
        for model in ("ensemble", "tensorrt_llm_bls"):
            assert ask(server, f"{model}/generate") == ML["prompt"] + ML["completion"]
