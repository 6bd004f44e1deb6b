"""preprocessing, postprocessing and tensorrt_llm_bls in a real Triton, around a `tensorrt_llm` that says the prompt again."""

import itertools
import json
import queue
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc

from tests.triton.repository import write_repository
from tests.triton.server import Server, triton_server
from tests.unit.llama_tokenizer import write_tokenizer

SENTENCE = "Le café de Zürich… déjà là"
MODELS = ("ensemble", "tensorrt_llm_bls")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def plain(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("plain")
    engine = folder / "engine"
    engine.mkdir()
    limits = {"build_config": {"max_input_len": 40, "max_seq_len": 100}, "pretrained_config": {"vocab_size": 320}}
    (engine / "config.json").write_text(json.dumps(limits))
    repository = write_repository(folder / "repository", tokenizer, decoupled=False, skip=1, engine_dir=engine)
    with triton_server(repository, folder / "log") as server:
        yield server


@pytest.fixture(scope="module")
def decoupled(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("decoupled")
    repository = write_repository(folder / "repository", tokenizer, decoupled=True, skip=1)
    with triton_server(repository, folder / "log") as server:
        yield server


def generate(server: Server, model: str, **body: Any) -> tuple[int, dict[str, Any]]:
    status, text = _post(server, f"/v2/models/{model}/generate", body)
    return status, json.loads(text.removeprefix("data: "))


def stream(server: Server, model: str, **body: Any) -> list[dict[str, Any]]:
    status, text = _post(server, f"/v2/models/{model}/generate_stream", {"stream": True, **body})
    assert status == 200, text
    return [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n") if event]


def _post(server: Server, path: str, body: dict[str, Any]) -> tuple[int, str]:
    request = urllib.request.Request(f"http://{server.http}{path}", data=json.dumps(body).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("model", MODELS)
def test_text_comes_back_through_tokens(plain: Server, model: str) -> None:
    words = {"bad_words": "", "stop_words": "", "pad_id": 2, "end_id": 2}
    status, answer = generate(plain, model, text_input=SENTENCE, max_tokens=40, **words)
    assert (status, answer["text_output"]) == (200, SENTENCE)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"text_input": "", "max_tokens": 4}, "the prompt is empty"),
        ({"text_input": "abc", "max_tokens": 0}, "max_tokens (REQUEST_OUTPUT_LEN) is 0; it must be 1 or more"),
        ({"text_input": "abc"}, "missing required input(s) ['max_tokens']"),
        ({"text_input": "a" * 60, "max_tokens": 4}, "this engine takes 40 at most (max_input_len)"),
    ],
)
def test_a_refused_request_is_told_why_and_the_next_is_answered(
    plain: Server, model: str, body: dict[str, Any], reason: str
) -> None:
    status, answer = generate(plain, model, **body)
    assert status == 400
    assert reason in answer["error"]
    assert generate(plain, model, text_input="abc", max_tokens=9)[1]["text_output"] == "abc"


def test_a_plain_model_refuses_to_stream(plain: Server) -> None:
    status, answer = generate(plain, "tensorrt_llm_bls", text_input="abc", max_tokens=4, stream=True)
    assert (status, "decoupled_mode true" in answer["error"]) == (400, True)


def test_several_prompts_in_one_request_are_answered_each(plain: Server) -> None:
    prompts = [b"abc", b"hello there", b"z"]
    text = grpc.InferInput("text_input", [3, 1], "BYTES")
    text.set_data_from_numpy(np.array([prompts], dtype=np.object_).T)
    length = grpc.InferInput("max_tokens", [3, 1], "INT32")
    length.set_data_from_numpy(np.full((3, 1), 20, dtype=np.int32))
    with grpc.InferenceServerClient(plain.grpc) as client:
        answer = client.infer("tensorrt_llm_bls", [text, length])
    assert answer.as_numpy("text_output").reshape(-1).tolist() == prompts


def test_streamed_pieces_join_to_the_very_text(decoupled: Server) -> None:
    pieces = [
        event["text_output"] for event in stream(decoupled, "tensorrt_llm_bls", text_input=SENTENCE, max_tokens=60)
    ]
    assert "".join(pieces) == SENTENCE
    assert len(pieces) > 20
    assert not any("\ufffd" in piece for piece in pieces)
    _, whole = generate(decoupled, "tensorrt_llm_bls", text_input=SENTENCE, max_tokens=60)
    assert whole["text_output"] == SENTENCE


def test_a_character_cut_off_by_the_last_token_is_still_told(decoupled: Server) -> None:
    cut = {"text_input": "abé", "max_tokens": 4}
    _, whole = generate(decoupled, "tensorrt_llm_bls", **cut)
    pieces = [event["text_output"] for event in stream(decoupled, "tensorrt_llm_bls", **cut)]
    assert "".join(pieces) == whole["text_output"] == "ab\ufffd"


def test_accumulated_tokens_repeat_the_text_so_far(tokenizer: Path, tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository", tokenizer, decoupled=True, skip=1, accumulate=True)
    with triton_server(repository, tmp_path / "log") as server:
        told = [event["text_output"] for event in stream(server, "tensorrt_llm_bls", text_input="né ab", max_tokens=20)]
    assert told[-1] == "né ab"
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(told))


def test_a_failing_engine_is_told_to_the_client(decoupled: Server) -> None:
    status, answer = generate(decoupled, "tensorrt_llm_bls", text_input="abc", max_tokens=4, repetition_penalty=-1.0)
    assert (status, answer["error"]) == (400, "repetition_penalty is below 0")


def test_one_instance_streams_to_many_at_once(decoupled: Server) -> None:
    def one(index: int) -> str:
        body = {"text_input": f"say {chr(97 + index)} again", "max_tokens": 20, "min_length": 50}
        return "".join(event["text_output"] for event in stream(decoupled, "tensorrt_llm_bls", **body))

    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(one, range(8)))
    assert told == [f"say {chr(97 + index)} again" for index in range(8)]
    assert time.monotonic() - start < 4 * 12 * 0.05 + 3


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_hangs_up_ends_the_generation(decoupled: Server, streams: bool) -> None:
    before = decoupled.log.read_text().count("stopped ")
    arrived: queue.Queue[Any] = queue.Queue()
    with grpc.InferenceServerClient(decoupled.grpc) as client:
        client.start_stream(lambda result, error: arrived.put(error or result))
        client.async_stream_infer("tensorrt_llm_bls", _inputs("a" * 30, 40, milliseconds=200, streams=streams))
        if streams:
            arrived.get(timeout=20)
        else:
            time.sleep(1)
        client.stop_stream(cancel_requests=True)
    end = time.monotonic() + 5
    while decoupled.log.read_text().count("stopped ") == before and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    log = decoupled.log.read_text()
    said = [line for line in log.splitlines() if '"said ' in line][-1]
    assert log.count("stopped ") == before + 1
    assert int(said.split('"said ')[1].split()[0]) < 20
    assert generate(decoupled, "tensorrt_llm_bls", text_input="abc", max_tokens=9)[1]["text_output"] == "abc"


def _inputs(prompt: str, tokens: int, *, milliseconds: int, streams: bool) -> list[Any]:
    values = {
        "text_input": ("BYTES", np.array([[prompt.encode()]], dtype=np.object_)),
        "max_tokens": ("INT32", np.array([[tokens]], dtype=np.int32)),
        "min_length": ("INT32", np.array([[milliseconds]], dtype=np.int32)),
        "stream": ("BOOL", np.array([[streams]], dtype=np.bool_)),
    }
    inputs = []
    for name, (data_type, value) in values.items():
        inputs.append(grpc.InferInput(name, list(value.shape), data_type))
        inputs[-1].set_data_from_numpy(value)
    return inputs
