"""The CPU stand-in of `tensorrt_llm`: between tensors and requests, streamed or whole, and a server that goes on."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.cpu_stand_in.batcher import Batcher, Capacity, Job
from engine_jobs.tensorrt_llm.cpu_stand_in.engine import read_engine
from engine_jobs.tensorrt_llm.cpu_stand_in.generation import Generation, Request
from engine_jobs.tensorrt_llm.cpu_stand_in.llama import Llama
from engine_jobs.tensorrt_llm.cpu_stand_in.reply import Outputs, Reply
from engine_jobs.tensorrt_llm.cpu_stand_in.server import Options, Server
from engine_jobs.tensorrt_llm.cpu_stand_in.tensors import read_requests
from tests.unit.llama_engines import (
    COMPLETIONS,
    END,
    JORDAN,
    LIMITS,
    ML,
    TOKENIZER,
    request,
    sentence,
    serving_engine,
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving_engine(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def model(engine: Path) -> Llama:
    return Llama(read_engine(engine))


class TestReply:
    def replied(
        self, model: Llama, *requests: Request, streaming: bool = False, decoupled: bool = False
    ) -> list[Outputs]:
        """The responses' tensors; the last one, and only it, is marked as such."""
        sent: list[tuple[Outputs | None, bool]] = []
        reply = Reply(
            generations=[Generation(model, each) for each in requests],
            send=lambda outputs, last: sent.append((outputs, last)),
            fail=lambda error: pytest.fail(str(error)),
            decoupled=decoupled,
            streaming=streaming,
            with_prompt=False,
            with_log_probs=[True] * len(requests),
            fillings=[END] * len(requests),
        )
        batcher = Batcher(model, Capacity(limits=LIMITS, max_beam_width=3))
        for row, generation in enumerate(reply.generations):
            changed: Callable[[], None] = lambda row=row: reply.changed(row)  # type: ignore[misc]  # noqa: E731
            batcher.add(Job(generation=generation, cancelled=lambda: False, changed=changed, failed=reply.failed))
        while not batcher.idle:
            batcher.step()
        assert [last for _, last in sent] == [False] * (len(sent) - 1) + [True]
        return [outputs for outputs, _ in sent if outputs is not None]

    def test_streams_the_same_tokens_one_by_one(self, model: Llama) -> None:
        for known in COMPLETIONS:
            (whole,) = self.replied(model, request(known.prompt))
            pieces = self.replied(model, request(known.prompt), streaming=True, decoupled=True)
            assert all(piece["sequence_length"].tolist() == [[1]] for piece in pieces)
            tokens = [int(piece["output_ids"][0, 0, 0]) for piece in pieces]
            assert tokens == whole["output_ids"][0, 0].tolist()
            prompt = TOKENIZER.encode(known.prompt).ids
            assert TOKENIZER.decode([*prompt, *tokens]) == known.sentence

    def test_gives_rows_of_unequal_length_as_one_batch_or_one_by_one(self, model: Llama) -> None:
        rows = [request(JORDAN.prompt), request(ML.prompt), request("I am going", 3)]
        (whole,) = self.replied(model, *rows)
        assert whole["sequence_length"].tolist() == [[18], [46], [3]]
        assert whole["output_ids"].shape == (3, 1, 46) and set(whole["output_ids"][2, 0, 3:]) == {END}
        assert whole["batch_index"].reshape(-1).tolist() == [0, 1, 2]
        single = self.replied(model, *rows, decoupled=True)
        assert [int(each["batch_index"][0, 0]) for each in single] == [2, 0, 1]

    def test_gives_log_probabilities_and_logits_where_they_are_asked_for(self, model: Llama) -> None:
        wanted = request("I am going", keep_context_logits=True, keep_generation_logits=True)
        (made,) = self.replied(model, wanted)
        assert made["context_logits"].shape == (1, 4, 832) and made["generation_logits"].shape == (1, 1, 12, 832)
        logits = made["generation_logits"][0, 0]
        assert logits.argmax(axis=1).tolist() == made["output_ids"][0, 0].tolist()
        chosen = logits.max(axis=1) - np.log(np.exp(logits.astype(np.float64)).sum(axis=1))
        assert np.abs(made["output_log_probs"][0, 0] - chosen).max() < 1e-5

    def test_is_one_response_where_the_answer_ends_at_once(self, model: Llama) -> None:
        silent = replace(request("I am going", 5), prompt=tuple(TOKENIZER.encode("I am going").ids[1:]))
        for streaming in (False, True):
            (made,) = self.replied(model, silent, streaming=streaming, decoupled=streaming)
            assert made["sequence_length"].tolist() == [[0]] and made["output_ids"].tolist() == [[[END]]]


class TestTensors:
    def tensors(self, **more: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {
            "input_ids": np.array([[1, 5, 6], [1, 7, 0]], np.int32),
            "input_lengths": np.array([3, 2], np.int32),
            "request_output_len": np.array([4, 9], np.int32),
            **more,
        }

    def test_are_read_row_by_row(self) -> None:
        words = np.array([[[9, 8, 7], [2, 3, -1]], [[4, 0, 0], [1, -1, -1]]], np.int32)
        first, second = read_requests(
            self.tensors(
                end_id=np.array([2, 3], np.int32),
                temperature=np.array([0.5, 2.0], np.float32),
                runtime_top_k=np.array([1, 5], np.int32),
                random_seed=np.array([1, 2**63], np.uint64),
                stop_words_list=words,
            ),
            832,
        )
        assert (first.prompt, second.prompt) == ((1, 5, 6), (1, 7))
        assert (first.max_tokens, first.end_id, second.max_tokens, second.end_id) == (4, 2, 9, 3)
        assert first.sampling.stop_words == ((9, 8), (7,)) and second.sampling.stop_words == ((4,),)
        assert second.sampling.random_seed == 2**63 and second.sampling.temperature == 2.0

    @pytest.mark.parametrize(
        ("more", "reason"),
        [
            ({"input_ids": np.array([[1, 5, 832], [1, 1, 1]])}, "not in the vocabulary of 832"),
            ({"input_lengths": np.array([4, 2])}, "input_lengths 4 must be from 0 to 3"),
            ({"temperature": np.array([np.nan, 1.0])}, "temperature is not a finite number"),
            ({"runtime_top_p": np.array([1.5, 1.0])}, r"runtime_top_p 1\.5 must be from 0 to 1"),
            ({"runtime_top_k": np.array([1])}, "runtime_top_k has 1 values for 2 rows"),
            (
                {"bad_words_list": np.array([[[900], [1]]] * 2)},
                "bad_words_list has a token that is not in the vocabulary",
            ),
            ({"stop_words_list": np.array([[[1, 2], [2, 1]]] * 2)}, "must rise and stay within 2"),
            ({"lora_task_id": np.array([1, 1])}, "lora_task_id: the CPU stand-in doesn't do this"),
            ({"num_return_sequences": np.array([1, 2])}, "num_return_sequences: the CPU stand-in"),
        ],
    )
    def test_that_are_wrong_are_named(self, more: dict[str, NDArray[Any]], reason: str) -> None:
        with pytest.raises(UserError, match=reason):
            read_requests(self.tensors(**more), 832)


class TestServer:
    def options(self, engine: Path, **parameters: str) -> Options:
        return Options.read({"gpt_model_path": str(engine), **parameters})

    def test_answers_from_its_thread_and_outlives_a_step_that_fails(
        self, engine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reported: list[Exception] = []
        server = Server(self.options(engine), "0.17.0", reported.append)
        try:
            right = Llama.forward
            monkeypatch.setattr(Llama, "forward", lambda *_: [][0])
            assert isinstance(self.asked(server), IndexError) and len(reported) == 1
            monkeypatch.setattr(Llama, "forward", right)
            assert self.asked(server) == JORDAN.sentence
        finally:
            server.close()

    def asked(self, server: Server) -> str | Exception:
        ended = threading.Event()
        failures: list[Exception] = []
        generation = Generation(server.model, request(JORDAN.prompt))

        def changed() -> None:
            if generation.done:
                ended.set()

        def failed(error: Exception) -> None:
            failures.append(error)
            ended.set()

        server.add([Job(generation=generation, cancelled=lambda: False, changed=changed, failed=failed)])
        assert ended.wait(20)
        return failures[0] if failures else sentence(generation)

    def test_refuses_parameters_that_do_not_fit_the_engine(self, engine: Path) -> None:
        with pytest.raises(
            UserError, match=r"max_beam_width is 4 in config\.pbtxt, and the engine in .* was built for\s+3"
        ):
            Server(self.options(engine, max_beam_width="4"), None, lambda _: None)
        with pytest.raises(UserError, match="parameter max_tokens_in_paged_kv_cache is 'many'"):
            self.options(engine, max_tokens_in_paged_kv_cache="many")
        with pytest.raises(UserError, match="no parameter gpt_model_path"):
            Options.read({})
