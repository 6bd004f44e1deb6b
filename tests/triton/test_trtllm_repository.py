"""What the recipe assembles, in a real Triton: the tutorial's request gets the tutorial's answer, whichever version's templates."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engine_jobs.tensorrt_llm import repository
from engine_jobs.tensorrt_llm.cpu_stand_in import convert_checkpoint, trtllm_build
from engine_jobs.tensorrt_llm.model_configs import CPU_STAND_IN
from localcluster.paths import REPOSITORY
from tests.triton.server import Server, triton_server

TINY_LLAMA = REPOSITORY / "localcluster" / "models" / "tiny-llama"
QUESTION = "Who is considered the greatest basketball player of all time?"
ANSWER = "Many consider Michael Jordan the greatest basketball player of all time due to his six NBA championships."
VERSIONS = {"24.08": "0.12.0", "24.12": "0.16.0", "25.01": "0.17.0", "25.06": "0.20.0", "25.09": "1.0.0"}
SEEDS = {"24.08": "random_seed", "24.12": "random_seed", "25.01": "random_seed", "25.06": "seed", "25.09": "seed"}


def artifact(folder: Path, triton: str, **serving: Any) -> Path:
    """Built by the stand-in's commands, assembled by the recipe's program."""
    split = ("--tp_size", "2", "--pp_size", "1")
    convert_checkpoint.main(
        ["--model_dir", str(TINY_LLAMA), "--output_dir", str(folder / "checkpoint"), "--dtype", "float16", *split]
    )
    limits = ("--max_batch_size", "4", "--max_input_len", "64", "--max_seq_len", "128", "--max_num_tokens", "256")
    trtllm_build.main(["--checkpoint_dir", str(folder / "checkpoint"), "--output_dir", str(folder / "engine"), *limits])
    output = folder / "artifact"
    repository.main(
        [
            *("--engine-dir", str(folder / "engine"), "--checkpoint-dir", str(TINY_LLAMA), "--output-dir", str(output)),
            *("--triton-version", triton, "--backend", CPU_STAND_IN, "--tensor-parallel-size", "2"),
            *("--served-dir", str(output), "--serving", json.dumps({"triton_max_batch_size": 4, **serving})),
        ]
    )
    return output


@pytest.fixture(scope="module", params=VERSIONS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Server]]:
    folder = tmp_path_factory.mktemp("trtllm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTLLM_STAND_IN_VERSION", VERSIONS[request.param])
        made = artifact(folder, request.param)
        with triton_server(made / "model_repository", folder / "log") as server:
            yield request.param, server


def ask(server: Server, model: str, **more: Any) -> tuple[int, dict[str, Any]]:
    body = {
        "text_input": QUESTION,
        "max_tokens": 30,
        "bad_words": "",
        "stop_words": "",
        "pad_id": 2,
        "end_id": 2,
        **more,
    }
    request = urllib.request.Request(
        f"http://{server.http}/v2/models/{model}/generate",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
class TestTheTutorialsRequest:
    def test_is_answered_word_for_word(self, served: tuple[str, Server], model: str) -> None:
        status, answer = ask(served[1], model)
        assert (status, answer.get("text_output")) == (200, ANSWER), answer
        assert answer["model_name"] == model and answer["cum_log_probs"] == 0.0

    def test_takes_the_versions_own_names(self, served: tuple[str, Server], model: str) -> None:
        triton, server = served
        assert ask(server, model, **{SEEDS[triton]: 7, "temperature": 1.0, "top_k": 1})[1].get("text_output") == ANSWER

    def test_is_refused_in_words_past_the_limit(self, served: tuple[str, Server], model: str) -> None:
        status, answer = ask(served[1], model, text_input="Who? " * 80)
        assert status >= 400 and "max_input_len" in answer["error"]
        assert ask(served[1], model)[0] == 200


class TestUnderLoad:
    def test_every_answer_is_whole_and_the_server_lives(self, served: tuple[str, Server]) -> None:
        """Answers that end while the watch for hung-up clients looks at them: Triton 2.51 dies of a question too late."""
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: ask(served[1], "tensorrt_llm_bls"), range(150)))
        assert {(status, answer.get("text_output")) for status, answer in answers} == {(200, ANSWER)}
