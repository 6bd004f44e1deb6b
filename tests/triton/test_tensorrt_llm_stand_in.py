"""The stand-in of `tensorrt_llm` in a real Triton, asked by gRPC: whole, streamed, at once, refused, left alone by its client; and what
`triton import` writes, asked by HTTP."""

import json
import queue
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from numpy.typing import NDArray

from engine_jobs.tensorrt_llm.cpu_stand_in import triton_import
from tests.triton.server import Server, triton_server
from tests.unit.llama_engines import COMPLETIONS, END, ML, TINY, TOKENIZER, token

TYPES = {"int32": "INT32", "float32": "FP32", "bool": "BOOL", "uint64": "UINT64"}
NAME = "tensorrt_llm"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The repository of `triton import`: decoupled, with its own BLS."""
    folder = tmp_path_factory.mktemp("import")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGINE_DEST_PATH", str(folder / "engines"))
        command = ["import", "-m", "llama-2-7b", "-s", f"hf:{TINY}", "--backend", "tensorrtllm"]
        triton_import.main([*command, "--repo", str(folder / "models")])
    with triton_server(folder / "models", folder / "log") as server:
        yield server


def inputs(prompt: str, max_tokens: int = 60, **more: NDArray[Any]) -> list[grpc.InferInput]:
    ids = TOKENIZER.encode(prompt).ids
    given: dict[str, NDArray[Any]] = {
        "input_ids": np.array([ids], np.int32),
        "input_lengths": np.array([[len(ids)]], np.int32),
        "request_output_len": np.array([[max_tokens]], np.int32),
        "end_id": np.array([[END]], np.int32),
        **more,
    }
    made = []
    for name, value in given.items():
        tensor = grpc.InferInput(name, value.shape, TYPES[value.dtype.name])
        tensor.set_data_from_numpy(value)
        made.append(tensor)
    return made


class Stream:
    """One stream to the decoupled model, with what comes back."""

    def __init__(self, server: Server) -> None:
        self.client = grpc.InferenceServerClient(server.grpc)
        self._came: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client.start_stream(lambda result, error: self._came.put((result, error)))

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_stream(cancel_requests=True)
        self.client.close()

    def ask(self, given: list[grpc.InferInput], request_id: str = "") -> None:
        self.client.async_stream_infer(NAME, given, request_id=request_id, enable_empty_final_response=True)

    def next(self) -> tuple[list[int], bool]:
        """The next response's tokens, and whether it is the last. Raises what the server refuses."""
        result, error = self._came.get(timeout=30)
        if error is not None:
            raise error
        last = result.get_response().parameters["triton_final_response"].bool_param
        if not result.get_response().outputs:
            return [], last
        length = int(result.as_numpy("sequence_length")[0, 0])
        return result.as_numpy("output_ids")[0, 0, :length].tolist(), last

    def all(self) -> list[list[int]]:
        pieces, last = [], False
        while not last:
            tokens, last = self.next()
            pieces.append(tokens)
        return [piece for piece in pieces if piece]


STREAMING = {"streaming": np.array([[True]])}


class TestStreams:
    def test_bring_the_known_answers_token_by_token(self, served: Server) -> None:
        with Stream(served) as stream:
            for known in COMPLETIONS:
                stream.ask(inputs(known.prompt, 60, **STREAMING))
                pieces = stream.all()
                assert {len(piece) for piece in pieces} == {1}
                prompt = TOKENIZER.encode(known.prompt).ids
                assert TOKENIZER.decode([*prompt, *(piece[0] for piece in pieces)]) == known.sentence

    def test_at_once_each_bring_their_own_answer(self, served: Server) -> None:
        def asked(number: int) -> bool:
            known = COMPLETIONS[number % len(COMPLETIONS)]
            with Stream(served) as stream:
                stream.ask(inputs(known.prompt, 60, **STREAMING))
                tokens = [piece[0] for piece in stream.all()]
                return bool(TOKENIZER.decode([*TOKENIZER.encode(known.prompt).ids, *tokens]) == known.sentence)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(asked, range(24)))

    def test_are_whole_in_one_response_without_streaming(self, served: Server) -> None:
        with Stream(served) as stream:
            stream.ask(inputs(ML.prompt))
            (whole,) = stream.all()
            assert TOKENIZER.decode(whole) == ML.completion

    def test_end_at_a_stop_word(self, served: Server) -> None:
        words = np.array([[[token("▁identify")], [1]]], np.int32)
        with Stream(served) as stream:
            stream.ask(inputs(ML.prompt, 60, **STREAMING, stop_words_list=words))
            assert TOKENIZER.decode([piece[0] for piece in stream.all()]).endswith("learn from data, identify")

    @pytest.mark.parametrize(
        ("max_tokens", "more", "reason"),
        [
            (10, {"beam_width": np.array([[2]], np.int32)}, "Requested beam width 2 is larger"),
            (0, {}, "request_output_len is 0"),
            (10, {"temperature": np.array([[-1.0]], np.float32)}, "temperature -1.0"),
        ],
    )
    def test_refuse_in_words_and_go_on(
        self, served: Server, max_tokens: int, more: dict[str, NDArray[Any]], reason: str
    ) -> None:
        with Stream(served) as stream:
            stream.ask(inputs("I am going", max_tokens, **more))
            with pytest.raises(Exception, match=reason):
                stream.next()
            stream.ask(inputs("I am going", 3))
            assert TOKENIZER.decode(stream.all()[0]) == "to be in"

    def test_that_are_left_or_stopped_end_on_the_server(self, served: Server) -> None:
        endless = {"min_length": np.array([[1900]], np.int32), **STREAMING}
        with Stream(served) as left:
            left.ask(inputs("I am going", 1900, **endless))
            left.next()
        with Stream(served) as stream:
            stream.ask(inputs("I am going", 1900, **endless), request_id="seven")
            stream.next()
            with Stream(served) as other:
                other.ask(inputs("I am going", 1, stop=np.array([[True]])), request_id="seven")
                assert other.all() == []
            with pytest.raises(Exception, match="stopped"):
                for _ in range(1900):
                    stream.next()
        begin = time.monotonic()
        with Stream(served) as stream:
            stream.ask(inputs(ML.prompt))
            assert TOKENIZER.decode(stream.all()[0]) == ML.completion
        assert time.monotonic() - begin < 10


class TestTritonImport:
    def test_serves_the_tutorials_request_under_the_models_name(self, served: Server) -> None:
        body = {"text_input": ML.prompt, "max_tokens": 50, "bad_words": "", "stop_words": "", "pad_id": 2, "end_id": 2}
        request = urllib.request.Request(
            f"http://{served.http}/v2/models/llama-2-7b/generate", data=json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert answer["text_output"] == ML.completion
        assert answer["model_name"] == "llama-2-7b"
